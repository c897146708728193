"""Mutations of weights: values, sizes, types, and where they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from mutations.base import FLOATS, NUMBERS, Rng, any_weight, integers, mutation, pick

_PATHS = ("../outside.bin", "/etc/passwd", "link.bin", "a/../../outside.bin", "", "nowhere.bin")


@mutation
def _change_values(proto: ModelProto, rng: Rng) -> None:
    """Weights that are not finite, all zero, very large or very small, or shape constants."""
    weight = any_weight(proto, rng)
    array = _values(weight)
    if array is None:
        return
    flat = array.reshape(-1)
    where = slice(None) if rng.random() < 0.3 else rng.integers(0, max(1, flat.size), 2)
    if flat.size and flat.dtype.kind in "fiu":
        values = FLOATS if flat.dtype.kind == "f" else NUMBERS
        flat[where] = np.asarray(pick(values, rng)).astype(flat.dtype)
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))


@mutation
def _change_rank(proto: ModelProto, rng: Rng) -> None:
    weight = any_weight(proto, rng)
    dims = list(weight.dims)
    options = [[1, *dims], [*dims, 1], dims[::-1], [int(np.prod(dims))], dims[1:], []]
    weight.dims[:] = pick(options, rng)


@mutation
def _change_size(proto: ModelProto, rng: Rng) -> None:
    """Sizes that the data does not have: negative, zero, or giant."""
    weight = any_weight(proto, rng)
    size = int(pick(NUMBERS, rng))
    if weight.dims:
        weight.dims[int(rng.integers(len(weight.dims)))] = size
    else:
        weight.dims.append(size)


@mutation
def _change_type(proto: ModelProto, rng: Rng) -> None:
    """The type of a weight, with its values or without."""
    weight = any_weight(proto, rng)
    if rng.random() < 0.5:
        weight.data_type = int(pick((0, 1, 6, 7, 8, 9, 10, 11, 14, 16, 17, 22, 99, -1), rng))
        return
    array = _values(weight)
    if array is None or array.dtype.kind not in "fiub":
        return
    with np.errstate(all="ignore"):
        array = array.astype(pick((np.float16, np.float64, np.int64, np.int8, bool), rng))
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))


@mutation
def _cut_values(proto: ModelProto, rng: Rng) -> None:
    weight = any_weight(proto, rng)
    weight.raw_data = weight.raw_data[: int(len(weight.raw_data) * rng.random())]


@mutation
def _move_outside(proto: ModelProto, rng: Rng) -> None:
    """External data: elsewhere, missing, or with offsets that make no sense."""
    weight = any_weight(proto, rng)
    weight.data_location = TensorProto.EXTERNAL
    weight.ClearField("raw_data")
    entries = [("location", pick(_PATHS, rng))]
    entries += [(k, str(pick((*NUMBERS, "x"), rng))) for k in ("offset", "length")]
    for key, value in entries[: rng.integers(0, 4)]:
        weight.external_data.add(key=key, value=value)


@mutation
def _change_weights(proto: ModelProto, rng: Rng) -> None:
    """A weight missing, given twice, listed as an input, or sparse."""
    weight = any_weight(proto, rng)
    way, graph = rng.integers(4), proto.graph
    if way == 0 and weight in graph.initializer:
        graph.initializer.remove(weight)
    elif way == 1:
        graph.initializer.append(weight)
    elif way == 2:
        graph.input.append(helper.make_tensor_value_info(weight.name, 1, [3]))
    elif way == 3:
        sparse = graph.sparse_initializer.add()
        sparse.values.CopyFrom(weight)
        sparse.dims[:] = integers(rng)


def _values(weight: TensorProto) -> NDArray[Any] | None:
    """What it holds, unless that lies elsewhere or an earlier mutation has spoilt it."""
    if weight.data_location == TensorProto.EXTERNAL:
        return None
    try:
        return onnx.numpy_helper.to_array(weight).copy()
    except (KeyError, TypeError, ValueError):
        return None

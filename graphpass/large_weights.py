"""Weights outside of protobuf, which copies all that it holds whenever a message is built.

In the editing view every weight but the smallest is an array. Its tensor in protobuf is then a
reference: type and sizes, and in place of the data a key to the array, which lives as long as
the editing view does. What needs the data has it filled in (`fill`), or feeds the arrays to a
session (`as_inputs`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import onnx
import onnx.external_data_helper
import onnx.numpy_helper
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import LazyValues

SMALL = 1024  # bytes: a weight up to this size may be a shape, which inference wants to see
LARGE = 1 << 20  # bytes: from this size on a weight may be fed to a session, or mapped
INSIDE = 1 << 28  # bytes of weights that are copied into protobuf to run a graph

Array = NDArray[Any]

_PLAIN = frozenset(  # types that NumPy and a file spell the same
    getattr(onnx.TensorProto, name)
    for name in (
        *("FLOAT", "DOUBLE", "FLOAT16", "BOOL", "INT8", "INT16", "INT32", "INT64"),
        *("UINT8", "UINT16", "UINT32", "UINT64"),
    )
)
# What the keys of references mean. Weak: a reference does not keep a weight alive.
_arrays: WeakValueDictionary[str, Array] = WeakValueDictionary()


def is_reference(tensor: onnx.TensorProto) -> bool:
    """Is its data an array? Data in files has been read when a model is loaded."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def array_of(tensor: onnx.TensorProto) -> Array:
    """The values of an initializer, wherever they are."""
    if is_reference(tensor):
        return _arrays[onnx.external_data_helper.ExternalDataInfo(tensor).location]
    return np.asarray(onnx.numpy_helper.to_array(tensor))


def references(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Those among the initializers of a graph."""
    return (tensor for tensor in proto.graph.initializer if is_reference(tensor))


def total(proto: onnx.ModelProto) -> int:
    """Bytes that references stand for."""
    return sum(array_of(tensor).nbytes for tensor in references(proto))


def read_external(proto: onnx.ModelProto, folder: Path) -> list[Array]:
    """Read the data that a model has in other files: large weights are mapped, not copied.

    Args:
        proto: a file's content; it is changed.
        folder: where the file is.

    Returns:
        The mapped weights, which are to be kept until `Outside` has them.

    Raises:
        FileNotFoundError, ValidationError, OSError, ValueError, RuntimeError: data cannot be
            read, or is not where data may be.
    """
    weights, mapped = proto.graph.initializer, {}
    for index, tensor in enumerate(weights):
        if (array := _map(tensor, folder)) is not None:
            mapped[index] = array
            tensor.CopyFrom(onnx.TensorProto(name=tensor.name))
    onnx.external_data_helper.load_external_data_for_model(proto, str(folder))
    for index, array in mapped.items():
        weights[index].CopyFrom(_reference(weights[index].name, array))
    return list(mapped.values())


def _map(tensor: onnx.TensorProto, folder: Path) -> Array | None:
    """A large weight of a plain type; None for others, and where the sizes do not fit."""
    if not is_reference(tensor) or tensor.data_type not in _PLAIN:
        return None
    info = onnx.external_data_helper.ExternalDataInfo(tensor)
    positive = min(tensor.dims, default=0) > 0
    if not positive or _bytes(tensor) < LARGE or info.length not in (None, _bytes(tensor)):
        return None
    # One byte is read the usual way, which knows what a location must not be.
    probe = onnx.TensorProto()
    probe.CopyFrom(tensor)
    del probe.external_data[:]
    for key, value in (("location", info.location), ("offset", info.offset or 0), ("length", 1)):
        probe.external_data.add(key=key, value=str(value))
    onnx.external_data_helper.load_external_data_for_tensor(probe, str(folder))
    # Private to this process: what is written to the array does not reach the file.
    path, start = folder / info.location, info.offset or 0
    if path.stat().st_size < start + _bytes(tensor):
        return None
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.memmap(path, dtype, "c", start, tuple(tensor.dims))


def _bytes(tensor: onnx.TensorProto) -> int:
    """What the type and the sizes of a tensor ask for."""
    itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return math.prod(tensor.dims) * int(itemsize)


def take_out(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Array]]:
    """Make references of all weights but the smallest, where they are raw bytes.

    Args:
        proto: a model; it is used up. What is damaged in it stays.

    Returns:
        The model without the memory of these weights, and all arrays that it refers to, which
        are to be kept until they are in the editing view.
    """
    arrays = []
    for tensor in proto.graph.initializer:
        if is_reference(tensor):
            arrays.append(array_of(tensor))
        elif tensor.data_type in _PLAIN and tensor.HasField("raw_data"):
            size = len(tensor.raw_data)
            if not isinstance(tensor.name, str):
                continue  # damaged, it is bytes
            if size > SMALL and min(tensor.dims, default=1) > 0 and size == _bytes(tensor):
                arrays.append(np.array(onnx.numpy_helper.to_array(tensor)))
                tensor.CopyFrom(_reference(tensor.name, arrays[-1]))
    slim = onnx.ModelProto()
    slim.CopyFrom(proto)  # a message gives back its memory as a whole only
    return slim, arrays


def attach(graph: gs.Graph) -> None:
    """Give the constants of an editing view that was read from references their arrays."""
    for tensor in _constants(graph, *graph.subgraphs(recursive=True)):
        held = tensor._values
        if isinstance(held, LazyValues) and is_reference(held.tensor):
            tensor.values = array_of(held.tensor)
            tensor.data_location = None


@contextmanager
def referring(graph: gs.Graph) -> Iterator[None]:
    """While the block lasts, an export of the editing view has references.

    Weights that bodies of control flow read are written in each of them, and stay as they are.
    """
    in_bodies = {id(tensor) for tensor in _constants(*graph.subgraphs(recursive=True))}
    large = {
        id(tensor): (tensor, tensor.values)
        for tensor in _constants(graph)
        if isinstance(tensor._values, np.ndarray)
        and tensor.values.nbytes > SMALL
        and id(tensor) not in in_bodies
    }
    try:
        for tensor, array in large.values():
            if array.dtype.isnative and array.dtype.kind in "fiub":
                tensor.values = LazyValues(_reference(tensor.name, array))
        yield
    finally:
        for tensor, array in large.values():
            tensor.values = array


def fill(proto: onnx.ModelProto, below: float = math.inf) -> onnx.ModelProto:
    """Put the data of references of less than `below` bytes into the model; the same model."""
    for tensor in references(proto):
        if (array := array_of(tensor)).nbytes < below:
            fill_tensor(tensor, array)
    return proto


def fill_tensor(tensor: onnx.TensorProto, array: Array) -> None:
    """Put the data of one reference in its place."""
    tensor.raw_data = array.tobytes()
    tensor.ClearField("data_location")
    del tensor.external_data[:]


def as_inputs(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A model that reads what references stand for as inputs, and what these are to be fed.

    ONNX Runtime reads inputs where they lie; of initializers it makes copies.

    Returns:
        The model, the same one where there are no references, and the arrays by name.
    """
    fed = {tensor.name: np.ascontiguousarray(array_of(tensor)) for tensor in references(proto)}
    if not fed:
        return proto, fed
    reading = onnx.ModelProto()
    reading.CopyFrom(proto)
    del reading.graph.initializer[:]
    for tensor in proto.graph.initializer:
        if is_reference(tensor):
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            reading.graph.input.append(info)
        else:
            reading.graph.initializer.append(tensor)
    return reading, fed


def _constants(*graphs: gs.Graph) -> list[gs.Constant]:
    tensors = itertools.chain.from_iterable(graph.tensors().values() for graph in graphs)
    return [tensor for tensor in tensors if isinstance(tensor, gs.Constant)]


def _reference(name: str, array: Array) -> onnx.TensorProto:
    key = str(id(array))  # no other's while the array lives
    _arrays[key] = array
    tensor = onnx.TensorProto(
        name=name,
        data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
        dims=array.shape,
        data_location=onnx.TensorProto.EXTERNAL,
    )
    tensor.external_data.add(key="location", value=key)
    return tensor

"""Mutations of what a file says around its graph: interface, versions, metadata."""

from __future__ import annotations

import json

from onnx import ModelProto

from mutations.base import NAMES, NUMBERS, Rng, any_name, mutation, often, pick

_JSON = (
    "", "{", "null", "[]", "{}", "NaN", "-1", "0", "1e999", "1e400", '"x"', "true", "[null]", "[1]",
    "[{}]", '[["a"]]', '{"a": NaN}', '{"rule": "paper"}', '{"x": [0, NaN]}', '{"x": 3}',
    "[" * 100_000, "9" * 5000, "1000000000", "2.5", "4-spiking", "3-calibrated", "2-daqcfs",
    "1-clip", "0-normalised", "counts", "matmul", "int8", "scan", "step", "\ud7ff",
)  # fmt: skip


@mutation
def _change_interface(proto: ModelProto, rng: Rng) -> None:
    """Inputs and outputs: types, sizes, missing, twice, unknown."""
    graph = proto.graph
    values = pick((graph.input, graph.output, graph.output, graph.value_info), rng)
    if not values:
        return
    value = pick(values, rng)
    way = rng.integers(6)
    if way == 0:
        values.remove(value)
    elif way == 1:
        values.append(value)
    elif way == 2:
        value.type.tensor_type.elem_type = int(pick((0, 1, 2, 7, 8, 9, 10, 11, 99), rng))
    elif way == 3:
        value.type.tensor_type.ClearField("shape")
    elif way == 4:
        value.name = pick((*NAMES, any_name(proto, rng)), rng)
    else:
        value.type.Clear()


@mutation
def _change_input_size(proto: ModelProto, rng: Rng) -> None:
    value = pick((*proto.graph.input, *proto.graph.output, *proto.graph.value_info, None), rng)
    dims = value.type.tensor_type.shape.dim if value is not None else ()
    if not dims or rng.random() < 0.2:
        return
    dim = pick(dims, rng)
    way = rng.integers(4)
    if way == 0:
        dim.dim_value = int(pick(NUMBERS, rng))
    elif way == 1:
        dim.dim_param = pick(NAMES, rng)
    elif way == 2:
        dim.Clear()
    else:
        dims.add(dim_value=int(pick(NUMBERS, rng)))


@mutation
def _change_versions(proto: ModelProto, rng: Rng) -> None:
    way = rng.integers(4)
    if way == 0:
        proto.ir_version = int(pick(NUMBERS, rng))
    elif way == 1:
        del proto.opset_import[:]
    elif way == 2:
        proto.opset_import.add(domain=pick(("", "ai.onnx"), rng), version=int(rng.integers(1, 30)))
    elif proto.opset_import:
        pick(proto.opset_import, rng).version = int(rng.integers(0, 30))


@often
def _change_metadata(proto: ModelProto, rng: Rng) -> None:
    """What graphpass writes about a file, and others' entries."""
    props = proto.metadata_props
    if not props or rng.random() < 0.1:
        entry = (pick(("graphpass.schema", "graphpass.stage", *NAMES), rng), pick(_JSON, rng))
        props.add(key=entry[0], value=entry[1])
        return
    entry = pick(props, rng)
    way = rng.integers(4)
    if way == 0:
        props.remove(entry)
    elif way == 1:
        props.append(entry)
    elif way == 2:
        entry.value = pick(_JSON, rng)
    else:
        entry.value = _changed_json(entry.value, rng)


def _changed_json(text: str, rng: Rng) -> str:
    """Replace one value somewhere inside."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):  # nested by another mutation
        return text[: int(len(text) * rng.random())]
    new = json.loads(
        pick(("null", "-1", "0", "NaN", "1e999", '""', "[]", "{}", "1e30", "99999", "2.5"), rng)
    )
    place, parent, key = tree, None, None
    while isinstance(place, dict | list) and place and (parent is None or rng.random() < 0.8):
        keys = list(place) if isinstance(place, dict) else range(len(place))
        parent, key = place, pick(keys, rng)
        place = parent[key]
    if parent is None:
        return json.dumps(new)
    if rng.random() < 0.2:
        del parent[key]
    else:
        parent[key] = new
    return json.dumps(tree)

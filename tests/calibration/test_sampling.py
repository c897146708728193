"""A sample is the current on a grid, whichever way the graph comes to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from graphpass import Session, convert
from graphpass.calibration import sampling, statistics
from graphpass.calibration.reference import currents_of, neurons_of, reference_net
from graphpass.calibration.sampling import sample, sample_name
from graphpass.model import load

_TAIL = "s = GlobalAveragePool (p) y = Flatten (s)"
_CONV = "z = Conv <pads = [1,1,1,1]> (x, w)"
_WEIGHTS = "<float[3,2,3,3] w>"

# Name -> (ANN, stride of the grid, operators of the nodes).
_NETS = {
    "layer": (f"{_CONV} p = Relu (z) {_TAIL}", 4, ["Conv"]),
    "strided layer": (
        f"z = Conv <pads = [1,1,1,1], strides = [2,1]> (x, w) p = Relu (z) {_TAIL}",
        3,
        ["Conv"],
    ),
    "layer with auto_pad": (
        f'z = Conv <auto_pad = "SAME_UPPER"> (x, w) p = Relu (z) {_TAIL}',
        4,
        ["MaxPool"],
    ),
    "sum": (
        f"c = Conv <pads = [1,1,1,1]> (x, w) z = Add (c, c) p = Relu (z) {_TAIL}",
        4,
        ["MaxPool"],
    ),
    "pool behind": (
        f"{_CONV} r = Relu (z) p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r) {_TAIL}",
        2,
        ["MaxPool"],
    ),
    "pool that rounds up behind": (
        f"{_CONV} r = Relu (z)"
        f" p = MaxPool <ceil_mode = 1, kernel_shape = [3,3], strides = [2,2]> (r) {_TAIL}",
        2,
        ["MaxPool", "MaxPool"],
    ),
}


def _stage2(body: str, folder: Path, side: int = 30) -> tuple[Path, np.ndarray]:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]>'
        f" net (float[N,2,{side},{side}] x) => (float[N,3] y) {_WEIGHTS} {{ {body} }}"
    )
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 1, (3, 2, 3, 3)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    ann, images = folder / "ann.onnx", rng.normal(0, 1, (4, 2, side, side)).astype(np.float32)
    onnx.save(proto, ann)
    options = {"data": [{"x": images}], "calibrate": "none", "stages": folder}
    convert(ann, folder / "snn.onnx", steps=4, form="counts", **options)
    return folder / "2-daqcfs.onnx", images


@pytest.mark.parametrize("case", _NETS)
def test_sample_is_the_current_on_a_grid(case, tmp_path):
    body, stride, ops = _NETS[case]
    path, images = _stage2(body, tmp_path)
    model = load(path)
    neurons = neurons_of(model)
    proto = reference_net(model, neurons)
    layers = {output: node for node in proto.graph.node for output in node.output}
    ((name, current),) = currents_of(proto, neurons).items()
    nodes = sample(model, proto, neurons[name], current, layers[current])
    assert [node.op_type for node in nodes] == ops
    whole = current
    if (pool := statistics.pool_behind(proto, name)) is not None:
        whole = "whole"
        proto.graph.node.append(onnx.NodeProto())
        proto.graph.node[-1].CopyFrom(pool)
        proto.graph.node[-1].name = ""
        proto.graph.node[-1].input[0], proto.graph.node[-1].output[0] = current, whole
    proto.graph.node.extend(nodes)
    for tensor in (whole, sample_name(name)):
        proto.graph.output.append(helper.make_tensor_value_info(tensor, 1, [None] * 4))
    found = Session(proto.SerializeToString()).run({"x": images})
    wanted = found[whole][:, :, ::stride, ::stride]
    share = found[sample_name(name)].size / found[whole].size
    assert sampling.fraction(model, reference_net(model, neurons), neurons[name]) == share < 1
    np.testing.assert_allclose(found[sample_name(name)], wanted, rtol=1e-5, atol=1e-5)


def test_small_maps_are_taken_whole(tmp_path):
    path, _ = _stage2(_NETS["layer"][0], tmp_path, side=8)
    model = load(path)
    neurons = neurons_of(model)
    proto = reference_net(model, neurons)
    ((name, current),) = currents_of(proto, neurons).items()
    (node,) = sample(model, proto, neurons[name], current)
    assert (node.op_type, list(node.input)) == ("Identity", [current])
    assert sampling.fraction(model, proto, neurons[name]) == 1


def test_one_sample_serves_all_that_read_a_current(tmp_path):
    """But not what stands in front of a MaxPool: there the pooled current is looked at."""
    body = (
        "q = Relu (x) z = Conv <pads = [1,1,1,1]> (q, w)"
        " a = Relu (z) b = Relu (z) c = Relu (z) d = Relu (a)"
        " p = MaxPool <kernel_shape = [30,30]> (c) e = Add (a, b) f = Add (d, e)"
        " s = GlobalAveragePool (f) t = Add (p, s) y = Flatten (t)"
    )
    path, _ = _stage2(body, tmp_path)
    model = load(path)
    neurons = neurons_of(model)
    proto = reference_net(model, neurons)
    readers = sampling.first_readers(proto, neurons, currents_of(proto, neurons))
    assert readers == {"a": "a", "b": "a", "c": "c", "d": "d"}


@pytest.mark.parametrize(("axis", "wanted"), [(None, (2, 5, 5)), (2, (2, 25, 3))])
def test_grids_in_any_layout(axis, wanted):
    sizes = [2, 25, 3] if axis == 2 else [2, 30, 30]
    strides = sampling._strides(sizes, axis)
    nodes = sampling._thinned("x", "y", sizes, strides, axis)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "grid", [value("x", 1, sizes)], [value("y", 1, [None] * 3)])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 7)], ir_version=8)
    x = np.arange(np.prod(sizes), dtype=np.float32).reshape(sizes)
    found = Session(proto.SerializeToString()).run({"x": x})["y"]
    grid = tuple(slice(None, None, stride) for stride in strides)
    np.testing.assert_array_equal(found, x[grid])

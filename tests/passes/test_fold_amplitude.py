"""Stage 4, form `counts`: amplitudes go into the weights that read them."""

import pytest

from graphpass.model import to_bytes, to_proto
from graphpass.passes.count_spikes import CountSpikes
from graphpass.passes.fold_amplitude import FoldAmplitude

W = {"w": (3, 2, 1, 1), "v": (3, 3, 1, 1)}
START = "a = Conv (x, w) r = Relu (a)"
IMAGE = "float[N,2,4,4] x"
POOL = "<kernel_shape = [2, 2]>"

# name -> (inputs, output, body, shapes, number of products that are left)
FOLDED = {
    "convolution": (IMAGE, "N,3,4,4", f"{START} y = Conv (r, v)", W, 0),
    "grouped": (
        IMAGE,
        "N,3,4,4",
        f"{START} y = Conv <group = 3> (r, u)",
        W | {"u": (3, 1, 1, 1)},
        0,
    ),
    "transposed": (
        IMAGE,
        "N,2,4,4",
        f"{START} y = ConvTranspose (r, u)",
        W | {"u": (3, 2, 1, 1)},
        0,
    ),
    "two layers": (
        IMAGE,
        "N,3,4,4",
        f"{START} b = Conv (r, v) c = Conv (r, v) y = Add (b, c)",
        W,
        0,
    ),
    "max pool": (IMAGE, "N,3,3,3", f"{START} p = MaxPool {POOL} (r) y = Conv (p, v)", W, 0),
    "average pool": (IMAGE, "N,3,3,3", f"{START} p = AveragePool {POOL} (r) y = Conv (p, v)", W, 0),
    "classifier": (
        IMAGE,
        "N,4",
        f"{START} p = GlobalAveragePool (r) f = Flatten (p) y = Gemm (f, g)",
        W | {"g": (3, 4)},
        0,
    ),
    "flattened image": (
        IMAGE,
        "N,4",
        f"{START} f = Flatten (r) y = MatMul (f, g)",
        W | {"g": (48, 4)},
        0,
    ),
    "joined": (
        IMAGE,
        "N,3,4,4",
        f"{START} b = Conv (x, w) s = Relu (b) c = Concat <axis = 1> (r, s) y = Conv (c, u)",
        W | {"u": (3, 6, 1, 1)},
        0,
    ),
    "rows": (
        "float[N,5,4] x",
        "N,5,2",
        "a = MatMul (x, h) r = Relu (a) y = MatMul (r, g)",
        {"h": (4, 3), "g": (3, 2)},
        1,  # the gain: a MatMul has no bias for the offset
    ),
    "one reader can": (IMAGE, "N,3,4,4", f"{START} b = Conv (r, v) y = Add (r, b)", W, 1),
}
KEPT = {
    "output": (IMAGE, "N,3,4,4", "a = Conv (x, w) y = Relu (a)", W, 1),
    "sum": (IMAGE, "N,3,4,4", f"{START} y = Add (r, x1)", W, 1),
    "weights that are computed": (
        IMAGE + ", float[3,3,1,1] k", "N,3,4,4", f"{START} y = Conv (r, k)", W, 1
    ),
    "tanh": (IMAGE, "N,3,4,4", f"{START} y = Tanh (r)", W, 1),
    "pool along the channels": (
        IMAGE,
        "N,4,3,2",
        f"a = Conv (x, w) t = Transpose <perm = [0,2,3,1]> (a) r = Relu (t) y = MaxPool {POOL} (r)",
        W,
        1,
    ),
    "average along the channels": (
        IMAGE,
        "N,4,3,2",
        "a = Conv (x, w) t = Transpose <perm = [0,2,3,1]> (a) r = Relu (t)"
        f" y = AveragePool {POOL} (r)",
        W,
        1,
    ),
    "read twice": (IMAGE, "N,3,4,4", f"{START} y = Mul (r, r)", W, 1),
}  # fmt: skip


def counted(bench, given, opset=17):
    inputs, output, body, shapes, left = given
    body = body.replace("x1", "a")
    text = f"g ({inputs}) => (float[{output}] y) {{ {body} }}"
    model = bench.copy(bench.calibrated(bench.net(text, shapes, opset)))
    CountSpikes()(model)
    return model, left


@pytest.mark.parametrize("name", FOLDED)
def test_products_go_into_weights(bench, name):
    model, left = counted(bench, FOLDED[name])
    before = bench.copy(model)
    assert FoldAmplitude()(model).modified
    assert bench.ops(model).count("Mul") == left
    bench.same_outputs(before, model, atol=1e-4)
    content = to_bytes(model)
    assert not FoldAmplitude()(model).modified
    assert to_bytes(model) == content


@pytest.mark.parametrize("opset", [8, 13, 26])
def test_opsets(bench, opset):
    model, left = counted(bench, FOLDED["average pool"], opset)
    before = bench.copy(model)
    FoldAmplitude()(model)
    assert bench.ops(model).count("Mul") == left
    bench.same_outputs(before, model, atol=1e-4)


@pytest.mark.parametrize("name", KEPT)
def test_readers_that_cannot_take_it(bench, name):
    model, left = counted(bench, KEPT[name])
    ops, content = bench.ops(model), to_bytes(model)
    assert ops.count("Mul") >= left
    assert not FoldAmplitude()(model).modified
    assert bench.ops(model) == ops
    assert to_bytes(model) == content


def test_reader_of_unknown_shape(bench):
    model, _ = counted(bench, FOLDED["max pool"])
    (pool,) = (node for node in model.graph.nodes if node.op == "MaxPool")
    pool.outputs[0].shape = None
    assert FoldAmplitude().apply(model) == 0


def test_shared_weights_are_left_alone(bench):
    given = (IMAGE, "N,3,4,4", f"{START} b = Conv (r, v) c = Conv (a, v) y = Add (b, c)", W, 0)
    model, _ = counted(bench, given)
    before = bench.copy(model)
    FoldAmplitude()(model)
    bench.same_outputs(before, model, atol=1e-4)
    old = {w.name: w.raw_data for w in to_proto(before).graph.initializer}
    new = {w.name: w.raw_data for w in to_proto(model).graph.initializer}
    assert new["v"] == old["v"]

"""Stage 2: what skips layers gets neurons of its own."""

import pytest

from graphpass import stages
from graphpass.model import to_bytes
from graphpass.passes.spread_skips import SpreadSkips, find_skipping, spread_for

W3, W1 = (2, 2, 3, 3), (2, 2, 1, 1)
CONV = "Conv <pads = [1,1,1,1]>"
#: A block: `r` is read by a layer and by the sum behind it, `e` by the last layer.
BLOCK = (
    f"a = {CONV} (x, w) r = Relu (a) b = {CONV} (r, v) c = Relu (b) d = {CONV} (c, w)"
    " s = Add (d, r) e = Relu (s) y = Conv (e, k)"
)
NETS = {
    "block": BLOCK,
    "sum the other way round": BLOCK.replace("Add (d, r)", "Add (r, d)"),
    "difference": BLOCK.replace("Add (d, r)", "Sub (d, r)"),
    "sum of three": BLOCK.replace("Add (d, r)", "Sum (d, r, d)"),
    "transposed twice": BLOCK.replace(
        "s = Add (d, r)",
        "t = Transpose <perm = [0,1,3,2]> (r) u = Transpose <perm = [0,1,3,2]> (t) s = Add (d, u)",
    ),
    "averaged": BLOCK.replace(
        "s = Add (d, r)", "t = AveragePool <kernel_shape = [1,1]> (r) s = Add (d, t)"
    ),
    "scaled": BLOCK.replace("s = Add (d, r)", "t = Mul (r, half) s = Add (d, t)"),
    "sums behind one another": BLOCK.replace("s = Add (d, r)", "t = Add (d, r) s = Add (t, half)"),
}
STAY = {
    "no sum": BLOCK.replace("Add (d, r)", "Identity (d)"),
    "a constant is added": BLOCK.replace("Add (d, r)", "Add (r, half)"),
    "a layer on the way": BLOCK.replace("s = Add (d, r)", "t = Conv (r, k) s = Add (d, t)"),
    "a layer reads the sum": BLOCK.replace(
        "y = Conv (e, k)", "f = Conv (s, k) g = Conv (e, k) y = Add (f, g)"
    ),
    "the sum is an output": BLOCK.replace("e = Relu (s) y = Conv (e, k)", "y = Relu (s)").replace(
        "s = Add (d, r)", "s = Add (d, r) z = Identity (s)"
    ),
    "sums alone": "a = Conv (x, k) r = Relu (a) s = Add (r, x) e = Relu (s) y = Conv (e, k)",
    "pooled by its maximum": BLOCK.replace(
        "s = Add (d, r)",
        "t = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> (r) s = Add (d, t)",
    ),
}


def stage1(bench, body):
    outputs = "float[N,2,6,6] y" + (", float[N,2,6,6] z" if " z = " in body else "")
    text = f"g (float[N,2,6,6] x) => ({outputs}) <float half = {{0.5}}> {{ {body} }}"
    used = {"w": W3, "v": W3, "k": W1}
    return bench.clipped(
        bench.net(text, {name: shape for name, shape in used.items() if f", {name})" in body})
    )


def spiking(model):
    return [v["name"] for v in model.record.activations if v["status"] == "converted"]


@pytest.mark.parametrize("net", NETS)
def test_skips_get_a_node_of_their_own(bench, net):
    before = stage1(bench, NETS[net])
    model = bench.copy(before)
    names = spiking(model)
    assert find_skipping(model, names) == ["r"]
    step = SpreadSkips(["r/skip", "something/else"], names)
    assert step(model).modified
    bench.same_outputs(before, model, atol=0)
    tensors = model.graph.tensors()
    assert [node.op for node in tensors["r"].outputs] == ["Conv"]
    assert "Conv" not in [node.op for node in tensors["r/skip"].outputs]
    assert bench.ops(model).count("ClipReLU") == bench.ops(before).count("ClipReLU") + 1
    content = to_bytes(model)
    assert not step(model).modified
    assert find_skipping(model, [*names, "r/skip"]) == []
    assert to_bytes(model) == content


@pytest.mark.parametrize("net", STAY)
def test_others_stay(bench, net):
    model = stage1(bench, STAY[net])
    content, names = to_bytes(model), spiking(model)
    assert find_skipping(model, names) == []
    assert not SpreadSkips([f"{name}/skip" for name in names], names)(model).modified
    assert to_bytes(model) == content


def test_an_activation_that_is_an_output_stays(bench):
    text = (
        "g (float[N,2,6,6] x) => (float[N,2,6,6] y, float[N,2,6,6] r)"
        f" <float half = {{0.5}}> {{ {BLOCK} }}"
    )
    model = bench.clipped(bench.net(text, {"w": W3, "v": W3, "k": W1}))
    assert find_skipping(model, spiking(model)) == []


def test_a_name_that_is_taken_is_left_alone(bench):
    model = stage1(bench, BLOCK)
    model.graph.tensors()["d"].name = "r/skip"
    names = spiking(model)
    assert find_skipping(model, names) == []
    assert not SpreadSkips(["r/skip"], names)(model).modified


def test_an_ann_gets_the_nodes_of_its_populations(bench):
    model = stage1(bench, BLOCK)
    quantised = bench.copy(model)
    stages.quantise(quantised, 4, population=3)
    neurons = quantised.record.neurons
    assert {n.name: n.members for n in neurons}["r/skip"] == 3
    before = bench.copy(model)
    spread_for(model, neurons)
    assert "r/skip" in model.graph.tensors()
    bench.same_outputs(before, model, atol=0)

"""Operators between neurons: every form gives what stage 3 gives, at every batch size."""

import pytest

from graphpass.model import to_proto
from graphpass.timeflow import Kind

FORMS = ["matmul", "sorted", "counts", "counts-cpu"]
W = {"w": (3, 3, 1, 1), "v": (3, 3, 1, 1)}


def net(body, more=""):
    """A body from the spikes r to the current c, between two layers of neurons."""
    return (
        f"g (float[N,3,4,4] x) => (float[N,3,A,B] y) <{more}> {{ a = Conv (x, w) r = Relu (a)"
        f" {body} s = Relu (c) y = Conv (s, v) }}"
    )


BY2 = "float[4] by2 = {1, 1, 2, 1.5}"
SIZES = "int64[1] at0 = {0}, int64[1] two = {2}, int64[2] big = {8, 6}"

LINEAR = {
    "nearest resize": (net('c = Resize <mode = "nearest"> (r, "", by2)', BY2), 17),
    "linear resize": (net('c = Resize <mode = "linear"> (r, "", by2)', BY2), 13),
    "cubic resize to the size of a shape": (
        net(
            "h = Shape (r) n = Slice (h, at0, two) t = Concat <axis = 0> (n, big)"
            ' c = Resize <mode = "cubic"> (r, "", "", t)',
            SIZES,
        ),
        13,
    ),
    "upsample": (net('c = Upsample <mode = "nearest"> (r, by2)', BY2), 9),
    "pixel shuffle": (
        net(
            "p = SpaceToDepth <blocksize = 2> (r) q = Sum (p, p)"
            " c = DepthToSpace <blocksize = 2> (q)"
        ),
        17,
    ),
    "tile and expand": (
        net(
            "m = ReduceMean <axes = [2]> (r) n = Expand (m, e) t = Tile (r, b) c = Add (n, t)",
            "int64[4] e = {1, 1, 8, 1}, int64[4] b = {1, 1, 2, 1}",
        ),
        13,
    ),
    "einsum": (
        net('c = Einsum <equation = "nchw,wk->nchk"> (r, e)', "float[4,2] e = {1,2,3,4,5,6,7,8}"),
        12,
    ),
    "shuffle through the batch": (
        net(
            "f = Reshape (r, apart) t = Transpose <perm = [1,0,2]> (f) b = Reshape (t, back)"
            " c = Transpose <perm = [1,2,0,3]> (b)",
            "int64[3] apart = {-1, 4, 4}, int64[4] back = {4, -1, 3, 4}",
        ),
        17,
    ),
    "joined constant": (
        net(
            "k = Concat <axis = 1> (r, one) c = Conv (k, e)",
            "float[1,1,4,4] one = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16},"
            " float[3,4,1,1] e = {1,0,0,0.1,0,1,0,0.1,0,0,1,0.1}",
        ).replace("N,", "1,"),
        11,
    ),
    "choice and running sum": (
        net(
            "o = CumSum (r, axis) c = Where (mask, o, r)",
            "int64 axis = {2}, bool[4,1] mask = {1, 0, 0, 1}",
        ),
        17,
    ),
}

POOLS = {
    "maximum over rows, channels last": (
        net(
            "t = Transpose <perm = [0,2,3,1]> (r) m = ReduceMax <axes = [1]> (t)"
            " c = Transpose <perm = [0,3,1,2]> (m)"
        ),
        13,
    ),
}

ISLANDS = {
    "squeeze and excite": net(
        "p = GlobalAveragePool (r) g = Conv (p, v) h = Sigmoid (g) c = Mul (r, h)"
    ),
    "normalisation": net(
        "b = Conv (r, v) c = InstanceNormalization (b, o, z)",
        "float[3] o = {1, 1, 1}, float[3] z = {0.5, 0.4, 0.3}",
    ),
    "layer norm in pieces": net(
        "m = ReduceMean <axes = [1]> (r) d = Sub (r, m) q = Pow (d, e2)"
        " u = ReduceMean <axes = [1]> (q) i = Add (u, eps) k = Sqrt (i) c = Div (d, k)",
        "float e2 = {2}, float eps = {0.01}",
    ),
    "attention": net(
        "f = Reshape (r, rows) k = Transpose <perm = [0,2,1]> (f) m = MatMul (f, k)"
        " p = Softmax <axis = -1> (m) o = MatMul (p, f) c = Reshape (o, image)",
        "int64[3] rows = {0, 3, 16}, int64[4] image = {0, 3, 4, 4}",
    ),
    "product": net("b = Conv (r, v) c = Mul (b, r)"),
    "comparison": net("b = Conv (r, v) g = Greater (b, r) h = Cast <to = 1> (g) c = Add (h, r)"),
    "pool of currents": net(
        "b = Conv (r, v) m = MaxPool <kernel_shape = [2, 2]> (b) c = Add (m, m)"
    ),
    "branch": (
        net(
            "m = ReduceMax <keepdims = 0> (a) o = Less (m, e2)"
            " b = If (o) <then_branch = t () => (float[N,3,4,4] p) { p = Neg (r) },"
            " else_branch = e () => (float[N,3,4,4] p) { p = Abs (r) }> c = Add (b, r)",
            "float e2 = {2}",
        )
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LINEAR | POOLS)
def test_operators(bench, name, form):
    text, opset = (LINEAR | POOLS)[name]
    stage3 = bench.calibrated(bench.net(text, W, opset))
    bench.same_outputs(stage3, bench.emitted(stage3, form), atol=2e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ISLANDS)
def test_islands(bench, name, form):
    stage3 = bench.calibrated(bench.net(ISLANDS[name], W, 13), islands="allow")
    bench.same_outputs(stage3, bench.emitted(stage3, form), atol=2e-4)


@pytest.mark.parametrize("name", ["squeeze and excite", "attention"])
def test_islands_in_the_serial_network(bench, name):
    """It is another network; it runs, at any batch size."""
    text = ISLANDS[name].replace("A,B", "4,4")
    stage3 = bench.calibrated(bench.net(text, W, 13), islands="allow")
    list(bench.run(to_proto(bench.emitted(stage3, "scan"))))


def test_gated_spikes_are_a_current(bench):
    """The amplitude is not fixed any more: a maximum over pixels would not be exact."""
    flow = bench.flow_with_islands(
        bench.calibrated(bench.net(ISLANDS["squeeze and excite"], W, 13), islands="allow")
    )
    assert flow.types["c"].kind is Kind.CURRENT
    assert not flow.types["c"].poolable
    assert flow.types["h"].kind is Kind.STATIC
    assert {name: [n.op for n in nodes] for name, nodes in flow.averaged.items()} == {
        "g": ["Sigmoid"],
        "y": [],
    }
    assert [n.op for n in flow.repeated["h"]] == ["Mul"]

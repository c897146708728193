"""What cannot be placed in time is refused, with a reason and what would help."""

import re

import pytest

from graphpass.timeflow import Kind, Refusal


def ones(count):
    return "{" + ",".join(["1"] * count) + "}"


WEIGHTS = (
    f"float[2,3,4,4] two = {ones(96)}, float[2,6,7] stack = {ones(84)},"
    f" float[48,7] g = {ones(336)},"
    " float[3,3,1,1] k = {1,2,3,4,5,6,7,8,9}, float[3] ones = {1,1,1},"
    " int64[1] at0 = {0}, int64[1] at1 = {1}, int64[1] end = {2}, int64[2] flat = {3, -1},"
    " int64[3] features = {16, -1, 3}, int64[8] pads = {1,0,0,0,0,0,0,0}, int64 first = {0},"
    " float[1,1,4,4] two_sided = {1,-1,2,-2,1,-1,2,-2,1,-1,2,-2,1,-1,2,-2},"
    " int64[1] big = {9223372036854775807}, float[3,2] w = {1,2,3,4,5,6},"
    " int64[0] nothing = {}, int64[4] mixed = {0, 4, 3, 4}, float[0] nothing1 = {},"
    " float nought = {0}, float huge = {1e35}, float speck = {1e-35},"
    " float[4] by2 = {2, 1, 1, 1}, int64[4] sizes = {2, 3, 8, 8}, int64[4] four2 = {2, 1, 1, 1}"
)

# neurons r and q on an image, or s on rows; n follows, so that there is no tail
REFUSED = [
    ("y = MaxPool <kernel_shape = [2,2]> (c)", "maximum of currents", "activation between"),
    ("y = GlobalMaxPool (c)", "maximum of currents", "activation between"),
    ("y = ReduceMax <axes = [2,3]> (c)", "maximum of currents", "activation between"),
    ("y = ReduceMax <axes = [1]> (r)", "over channels", "the other axes"),
    ("y = ReduceMax <axes = [0]> (r)", "mixes samples", "remove it"),
    (
        "y, i = MaxPool <kernel_shape = [2,2]> (r) j = Cast <to = 1> (i) o = Add (y, j)",
        "Indices",
        "indices",
    ),
    ("d = Mul (r, two_sided) y = MaxPool <kernel_shape = [2,2]> (d)", "maximum", "activation"),
    ("d = Add (r, q) y = MaxPool <kernel_shape = [2,2]> (d)", "maximum", "activation"),
    ("d = Concat <axis = 2> (r, q) y = MaxPool <kernel_shape = [2,2]> (d)", "maximum", "act"),
    ("d = Sub (r, q) y = GlobalMaxPool (d)", "maximum", "activation"),
    (
        "t = Transpose <perm = [0,2,1,3]> (v) y = MaxPool <kernel_shape = [2,2]> (t)",
        "over channels",
        "transpose the channels",
    ),
    ("y = Mul (r, q)", "both vary in time", "keep one side analog"),
    ("y = Div (r, nought)", "zero or infinity", "mend the constants"),
    ("y = Mul (r, huge)", r"more than 2\^112", "mend the constants"),
    ("y = Sub (r, huge)", r"more than 2\^112", "mend the constants"),
    ("y = Div (r, speck)", r"more than 2\^112", "mend the constants"),
    ("y = Mul (r, r)", "both vary in time", "keep one side analog"),
    ("y = MatMul (r, q)", "both vary in time", "keep one side analog"),
    (
        "d = QuantizeLinear <axis = 1> (r, ones) y = DequantizeLinear <axis = 1> (d, ones)",
        "to a grid that no neuron has",
        "positive float32 scales, one zero point",
    ),
    (
        "d, s, z = DynamicQuantizeLinear (r) y = DequantizeLinear (d, s, z)",
        "takes from each tensor anew",
        "statically",
    ),
    ("y = Div (x, r)", "divides by a tensor that varies", "behind the last neuron"),
    ("y = Div (r, q)", "divides by a tensor that varies", "behind the last neuron"),
    ("y = Add (r, two)", "literal size 2 on the batch axis", "symbolic batch"),
    ("y = MatMul (s, stack)", "literal size 2 on the batch axis", "symbolic batch"),
    ("t = Transpose <perm = [1,0,2,3]> (x) y = Add (r, t)", "different axes", "transpose"),
    (
        "t = Transpose <perm = [1,0,2,3]> (x) y = Concat <axis = 2> (r, t)",
        "different axes",
        "transpose",
    ),
    ("y = Reshape (r, flat)", "literal batch size or splits", "-1 or 0"),
    (
        "t = Transpose <perm = [1,0,2,3]> (r) y = Reshape (t, features)",
        "does not keep the batch",
        "-1 or 0",
    ),
    (
        "t = Transpose <perm = [1,0,2,3]> (r) y = Flatten <axis = 2> (t)",
        "in front of the batch",
        "transpose the batch",
    ),
    (
        "h = Shape (x) t = Slice (h, at0, end) e = Concat <axis = 0> (t, end) y = Reshape (r, e)",
        "not constant",
        "constant shapes",
    ),
    (
        "h = Shape (r) e = Abs (h) y = Reshape (r, e)",
        "reads the batch size of a tensor that varies in time",
        "network's input",
    ),
    ("y = ReduceMean <axes = [0]> (r)", "mixes samples", "remove it"),
    ("y = ReduceMean (r)", "mixes samples", "remove it"),
    ("y = ReduceSum (r, nothing)", "mixes samples", "remove it"),
    ("d = Reshape (v, mixed) y = MaxPool <kernel_shape = [2,2]> (d)", "maximum", "activation"),
    ("y = ReduceSum (r, at0)", "mixes samples", "remove it"),
    ("y = Concat <axis = 0> (r, q)", "mixes samples", "remove it"),
    ("y = Concat <axis = 1> (r, two)", "literal batch size", "symbolic batch"),
    ("y = Slice (r, at0, end, at0)", "mixes samples", "remove it"),
    ("y = Slice (r, at1, big, at0)", "mixes samples", "remove it"),
    ("y = Gather <axis = 0> (r, first)", "mixes samples", "remove it"),
    ("y, z = Split <axis = 0> (r)", "mixes samples", "remove it"),
    ("y = Pad (r, pads)", "mixes samples", "remove it"),
    ("y = Squeeze (r, at0)", "mixes samples", "remove it"),
    ("t = Transpose <perm = [1,0,2,3]> (r) y = Conv (t, k)", "another axis than 0", "transpose"),
    (
        "t = Transpose <perm = [1,0,2,3]> (r) y = GlobalAveragePool (t)",
        "another axis than 0",
        "transpose",
    ),
    ("t = Transpose <perm = [1,2,3,0]> (r) y = MatMul (t, w)", "sums over the batch", "mixes"),
    ("f = Flatten (r) t = Transpose (f) y = Gemm (t, g)", "sums over the batch", "mixes"),
    ("f = Flatten (r) y = Gemm (g, f)", "weights or a bias that vary", "keep the activations"),
    ("y = Conv (x, v3)", "weights that vary in time", "keep the activations"),
    ("y = Conv (r, e)", "weights that carry the batch", "constant weights"),
    ("y = ConvTranspose (r, x)", "weights that carry the batch", "constant weights"),
    (
        "g1 = Flatten (r) g2 = Flatten (x) y = Gemm <transB = 1> (g1, g2)",
        "weights that carry the batch",
        "constant weights",
    ),
    (
        "t = ReduceMean <axes = [1,2,3], keepdims = 0> (r)"
        " y = BatchNormalization (x, t, ones, ones, ones)",
        "weights that vary in time",
        "keep the activations",
    ),
    ("i = Cast <to = 7> (r) y = Cast <to = 1> (i)", "not float", "remove the cast"),
    ("i = Cast <to = 10> (r) y = Cast <to = 1> (i)", "not float", "remove the cast"),
    ("i = Cast <to = 9> (r) y = Cast <to = 1> (i)", "not float", "remove the cast"),
    ("i = Cast <to = 7> (r) y = Gather <axis = 0> (ones, i)", "cast", "remove"),
    ("h = Shape (r) y = Reshape (r, h)", "reads the batch size", "network's input"),
    ("y = Resize (r, nothing1, by2)", "mixes samples", "remove it"),
    ('y = Resize (r, "", "", sizes)', "hold the batch", "constant shapes"),
    ("y = Tile (r, four2)", "mixes samples", "remove it"),
    ("y = Tile (r, p4)", "not constant", "constant shapes"),
    ("y = Expand (r, four2)", "expands the batch axis to 2", "write 1"),
    ("t = Transpose <perm = [1,2,0,3]> (r) y = Trilu (t)", "mixes samples", "remove it"),
    ("y = CumSum (r, first)", "mixes samples", "remove it"),
    ("y = Where (u, r, q)", "not linear|condition that varies", "keep the"),
    ('y = Einsum <equation = "nchw,nchw->nchw"> (r, q)', "both vary in time", "one side"),
    ('y = Einsum <equation = "nchw,cd->dhw"> (r, w)', "sums over the batch", "mixes samples"),
    ('y = Einsum <equation = "...w,wd->...d"> (r, w)', "ellipsis", "constant"),
    ('y = Einsum <equation = "nchw,nchw->nchw"> (r, two)', "literal batch size", "symbolic"),
    (
        "t = Transpose <perm = [1,0,2,3]> (r) y = DepthToSpace <blocksize = 1> (t)",
        "than 0",
        "transpose",
    ),
    ("y = GridSample (x, v4)", "places that vary in time", "before the grid"),
    ("y = Sigmoid (r)", "not linear", "keep the activations before it"),
    ("y = Softmax <axis = 1> (r)", "not linear", "keep the activations before it"),
    ("y = LeakyRelu (c)", "not linear", "keep the activations before it"),
    ("y = Exp (r)", "not linear", "keep the activations before it"),
    ("y = Max (r, q)", "not linear", "keep the activations before it"),
    ("y = Floor (c)", "not linear", "keep the activations before it"),
    (
        "y, m, u = BatchNormalization <training_mode = 1> (r, ones, ones, ones, ones)",
        "training mode",
        "evaluation mode",
    ),
    ("y = Squeeze (r, a)", "not constant", "constant shapes and axes"),
    ("y = Slice (r, a, end, at1)", "not constant", "constant shapes and axes"),
    ("y = Slice (r, at0, end, a)", "not constant", "constant shapes and axes"),
    ("y = Pad (r, p)", "not constant", "constant shapes and axes"),
    ("y = Gather <axis = 1> (r, a)", "not constant", "constant shapes and axes"),
    ("y = ReduceSum (r, a)", "not constant", "constant shapes and axes"),
]


@pytest.mark.parametrize(
    ("body", "reason", "remedy"), REFUSED, ids=[body.replace(" ", "") for body, _, _ in REFUSED]
)
def test_refusal_names_node_reason_and_remedy(bench, body, reason, remedy):
    flow = bench.infer(net(body), ["r", "q", "s", "v", "v3", "n"])
    assert flow.refused, "nothing was refused"
    first = flow.refused[0]
    assert isinstance(first.refusal, Refusal)
    assert re.search(reason, first.refusal.reason), first
    assert re.search(remedy, first.refusal.remedy), first
    assert str(first).startswith(f"{first.node.op} node '{first.node.outputs[0].name}' ")
    assert first.refusal.reason in str(first)
    assert first.refusal.remedy in str(first)


def net(body):
    last = "o" if " o = " in body else "y"
    return (
        "g (float[N,3,4,4] x, float[N,5,6] z, int64[1] a, int64[8] p, int64[4] p4,"
        " float[N,3,1,1] e)"
        f" => (float n) <{WEIGHTS}> {{"
        " f0 = Conv (x, k) r = Relu (f0) f1 = Neg (f0) q = Relu (f1) c = Conv (r, k)"
        " s0 = Identity (z) s = Relu (s0) v0 = Conv (x, k) v = Relu (v0)"
        f" e0 = Neg (e) v3 = Relu (e0) v40 = Slice (r, at0, end, at1)"
        f" v4 = Transpose <perm = [0,2,3,1]> (v40) zero = Constant <value = float {{0.0}}> ()"
        f" u = Greater (r, zero) {body} n = Relu ({last}) }}"
    )


def test_one_cause_gives_one_refusal(bench):
    flow = bench.infer(net("d = Sigmoid (r) b = Neg (d) h = Conv (b, k) y = Tanh (h)"), ["r", "n"])
    assert [refused.node.op for refused in flow.refused] == ["Sigmoid"]


def test_every_cause_is_listed_in_order(bench):
    body = "d = Sigmoid (r) h = Mul (c, r) b = Add (d, h) y = Conv (b, k)"
    flow = bench.infer(net(body), ["r", "n"])
    assert [refused.node.op for refused in flow.refused] == ["Sigmoid", "Mul"]


def test_operator_of_another_domain_has_no_rule(bench):
    # A rule is for the standard operator of that name.
    flow = bench.infer(net("y = other.Neg (r)"), ["r", "n"])
    assert flow.refused[0].node.op == "Neg"


def test_what_does_not_vary_is_never_refused(bench):
    flow = bench.infer(net("d = Sigmoid (x) m = Mul (d, d) b = Softmax (m) y = Conv (b, k)"), ["n"])
    assert flow.refused == []
    assert flow.types["b"].kind is Kind.STATIC

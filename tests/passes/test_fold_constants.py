"""Constants become initializers, and nodes that do nothing go away."""

import subprocess
import sys

import numpy as np
import onnx
import pytest

from graphpass.model import to_proto
from graphpass.passes.fold_constants import FoldConstants

OPSETS = [8, 9, 11, 12, 13, 17, 18, 26]


@pytest.mark.parametrize("opset", OPSETS)
def test_constant_node_becomes_an_initializer(bench, opset):
    model = bench.changed(
        FoldConstants,
        "agraph (float[N,3] x) => (float[N,3] y) {"
        " c = Constant <value = float[3] {1.0, 2.0, 3.0}> () y = Mul (x, c) }",
        opset,
    )
    assert bench.ops(model) == ["Mul"]


@pytest.mark.parametrize("opset", OPSETS)
def test_what_depends_on_constants_alone_is_computed(bench, opset):
    model = bench.changed(
        FoldConstants,
        "agraph (float[N,2] x) => (float[N,2] y) <float[2] a = {1.0, 2.0}, int64[2] k = {3, 4}>"
        " { c = Cast <to = 1> (k) d = Add (a, c) e = Sqrt (d) y = Sub (x, e) }",
        opset,
    )
    assert bench.ops(model) == ["Sub"]
    np.testing.assert_allclose(model.graph.nodes[0].inputs[1].values, [2.0, 6.0**0.5])


@pytest.mark.parametrize(
    ("opset", "dropout"),
    [
        (8, "Dropout <ratio = 0.4> (a)"),
        (11, "Dropout <ratio = 0.4> (a)"),
        (12, "Dropout (a)"),
        (13, "Dropout (a, ratio)"),
        (26, "Dropout (a, ratio)"),
    ],
)
def test_dropout_goes_away(bench, opset, dropout):
    model = bench.changed(
        FoldConstants,
        "agraph (float[N,3] x) => (float[N,3] y) <float ratio = {0.4}>"
        f" {{ a = Neg (x) b = {dropout} y = Abs (b) }}",
        opset,
    )
    assert bench.ops(model) == ["Neg", "Abs"]


def test_identity_between_two_nodes_goes_away(bench):
    model = bench.changed(
        FoldConstants,
        "agraph (float[N,3] x) => (float[N,3] y, float[N,3] z)"
        " { a = Neg (x) b = Identity (a) c = Identity (b) y = Abs (c) z = Exp (b) }",
    )
    assert sorted(bench.ops(model)) == ["Abs", "Exp", "Neg"]


def test_identity_at_an_output_leaves_the_output_its_name(bench):
    model = bench.changed(
        FoldConstants,
        "agraph (float[N,3] x) => (float[N,3] y) { a = Neg (x) y = Identity (a) }",
    )
    assert bench.ops(model) == ["Neg"]


def test_identity_at_an_output_whose_source_others_read(bench):
    model = bench.changed(
        FoldConstants,
        "agraph (float[N,3] x) => (float[N,3] y, float[N,3] z)"
        " { a = Neg (x) y = Identity (a) z = Abs (a) }",
    )
    assert bench.ops(model) == ["Neg", "Abs"]


def test_notes_stay_with_their_node_when_its_output_is_renamed(bench):
    model = bench.changed(
        FoldConstants,
        "agraph (float[N,3] x) => (float[N,3] y) { a = Neg (x) y = Identity (a) }",
    )
    (node,) = to_proto(model).graph.node
    assert node.doc_string == "about Neg a"


@pytest.mark.parametrize(
    "text",
    [
        "(float[N,3] x) => (float[N,3] y) { y = Identity (x) }",
        "(float[N,3] x) => (float[N,3] y, float[N,3] z) { y = Neg (x) z = Identity (y) }",
    ],
)
def test_identity_between_two_names_of_the_interface_stays(bench, text):
    bench.unchanged(FoldConstants, f"agraph {text}")


def test_identity_of_a_weight_goes_and_the_weight_stays_shared(bench):
    model = bench.changed(
        FoldConstants,
        "agraph (float[N,3] x) => (float[N,3] y) <float[3] w = {1.0, 2.0, 3.0}>"
        " { v = Identity (w) a = Mul (x, v) y = Add (a, w) }",
    )
    assert bench.ops(model) == ["Mul", "Add"]
    assert [w.name for w in to_proto(model).graph.initializer] == ["w"]


def test_dropout_whose_mask_is_read_stays(bench):
    bench.unchanged(
        FoldConstants,
        "agraph (float[N,3] x) => (float[N,3] y, bool[N,3] m) { a = Neg (x) y, m = Dropout (a) }",
    )


def test_dropout_that_may_be_training_stays(bench):
    bench.unchanged(
        FoldConstants,
        "agraph (float[N,3] x, bool train) => (float[N,3] y) <float r = {0.5}>"
        " { a = Dropout (x, r, train) y = Abs (a) }",
    )


def test_random_numbers_are_no_constants(bench):
    bench.unchanged(
        FoldConstants,
        "agraph (float[N,3] x) => (float[N,3] y)"
        " { r = RandomNormal <shape = [3], seed = 1.0> () y = Add (x, r) }",
    )


def test_nothing_to_fold(bench):
    bench.unchanged(
        FoldConstants,
        "agraph (float[N,3] x) => (float[N,3] y) <float[3] w = {1.0, 2.0, 3.0}>"
        " { a = Mul (x, w) y = Relu (a) }",
    )


def test_output_that_is_a_constant_keeps_its_name(bench):
    proto = bench.proto(
        "agraph (float[N,3] x) => (float[N,3] y, float[2] z) <float[2] w = {1.0, 2.0}>"
        " { y = Neg (x) z = Exp (w) }"
    )
    model = bench.model(proto)
    FoldConstants()(model)
    after = to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    assert [output.name for output in after.graph.output] == ["y", "z"]
    (found,) = bench.run(after, [2])
    np.testing.assert_allclose(found[1], np.exp([1.0, 2.0]), rtol=1e-6)
    assert not FoldConstants()(model).modified


BRANCHES = """agraph (float[N,3] x) => (float[N,3] y, float[N,3] z) <float[3] w = {1, 2, 3}> {
    one = Constant <value = float {1.0}> () two = Constant <value = float {2.0}> ()
    flag = %s (one, two)
    a, b = If (flag) <
        then_branch = t () => (float[N,3] p, float[N,3] q)
            { s = Add (x, w) p = Neg (s) q = Abs (s) },
        else_branch = e () => (float[N,3] p, float[N,3] q) { p = Identity (x) q = Mul (x, w) }>
    y = Add (a, w) z = Sub (b, a) }"""


@pytest.mark.parametrize(
    ("compare", "ops"),
    [("Less", ["Add", "Neg", "Abs", "Add", "Sub"]), ("Greater", ["Mul", "Add", "Sub"])],
)
def test_decided_branch_is_inlined_with_all_its_outputs(bench, compare, ops):
    model = bench.changed(FoldConstants, BRANCHES % compare)
    assert sorted(bench.ops(model)) == sorted(ops)
    (x,) = model.graph.inputs
    assert {id(node) for node in x.outputs} <= {id(node) for node in model.graph.nodes}


def test_branch_that_data_decides_stays(bench):
    text = (
        BRANCHES.replace("flag = %s (one, two)", "m = ReduceMax <keepdims = 0> (x)")
        .replace("(flag)", "(flag2)")
        .replace("a, b = If", "flag2 = Less (m, one) a, b = If")
    )
    proto = bench.proto(text)
    model = bench.model(proto)
    FoldConstants()(model)
    assert "If" in bench.ops(model)
    bench.same_outputs(proto, model)


ALIKE = """agraph (float[N,2,3] x) => (float[N,6] y) <bool c = {1}> {
    a = Neg (x)
    b = If (c) <
        then_branch = g () => (float[N,6] t) { t = Flatten (a) },
        else_branch = h () => (float[N,6] e) { z = Abs (a) e = Flatten (z) }
    >
    y = Abs (b)
}"""


@pytest.mark.parametrize("other", ["z = Abs (a) e = Flatten (z)", "e = Flatten (a)"])
def test_branch_that_is_never_taken_reads_nothing(bench, other):
    model = bench.changed(FoldConstants, ALIKE.replace("z = Abs (a) e = Flatten (z)", other))
    assert bench.ops(model) == ["Neg", "Flatten", "Abs"]
    negated = model.graph.nodes[0].outputs[0]
    assert [reader.op for reader in negated.outputs] == ["Flatten"]


@pytest.mark.parametrize("op", ["If", "Constant", "Shape", "Identity"])
def test_operator_of_another_domain_is_not_taken_for_a_standard_one(bench, op):
    text = (
        "agraph (float[N,3] x) => (float[N,3] y) <float[3] c = {1.0, 2.0, 3.0}>"
        f" {{ a = other.{op} (c) y = Mul (x, a) }}"
    )
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17, "other": 1]> {text}')
    model = bench.model(proto)
    FoldConstants()(model)
    assert [(node.domain, node.op) for node in model.graph.nodes] == [("other", op), ("", "Mul")]


@pytest.mark.parametrize(
    "sequence",
    ["SequenceConstruct (c)", "SplitToSequence <axis = 0, keepdims = 0> (pair)"],
    ids=["construct", "split"],
)
def test_a_sequence_of_constants_stays(bench, sequence):
    model = bench.unchanged(
        FoldConstants,
        "agraph (float[N,3] x) => (float[N,3] y)"
        " <float[3] c = {1.0, 2.0, 3.0}, float[1,3] pair = {1.0, 2.0, 3.0}, int64 first = {0}>"
        f" {{ s = {sequence} a = SequenceAt (s, first) y = Mul (x, a) }}",
    )
    assert bench.ops(model)[1:] == ["SequenceAt", "Mul"]


#: ONNX Runtime warns that it cannot remove an Unsqueeze whose output is asked for.
NOISY = (
    "agraph (float[N,2] x) => (float[N,2] y) <float s = {2.0}, int64[1] axis = {0}>"
    " { u = Unsqueeze (s, axis) y = Mul (x, u) }"
)


def test_nothing_is_written_to_stderr_while_folding(tmp_path):
    """In a process of its own: the tests silence ONNX Runtime."""
    (tmp_path / "noisy.txt").write_text(f'<ir_version: 8, opset_import: ["": 17]> {NOISY}')
    program = (
        "import sys, onnx.parser\n"
        "from graphpass.model import from_proto\n"
        "from graphpass.passes.fold_constants import FoldConstants\n"
        "proto = onnx.parser.parse_model(open('noisy.txt').read())\n"
        "from_proto(proto).graph.fold_constants()\n"
        "print('as graphsurgeon does it', file=sys.stderr)\n"
        "FoldConstants()(from_proto(proto))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loud, silent = done.stderr.split("as graphsurgeon does it\n")
    assert silent == ""
    assert "onnxruntime" in loud, "a graph that provokes no warning tests nothing"

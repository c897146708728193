"""Questions and edits on the graph that several passes share."""

import numpy as np
import onnx.parser
import pytest

from graphpass import editing
from graphpass.model import from_proto, to_proto


@pytest.fixture
def model():
    return from_proto(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["": 17, "graphpass": 1, "other": 1]>'
            " g (float[N,3] x) => (float[N,3] y, float[N,3] b) <float one = {1.0},"
            " float[1,1] two = {2.0}, float[3] many = {1.0, 2.0, 3.0}> {"
            ' [neg] a = Neg (x) b = Add (a, one) c = Mul (a, many) d = Clip (c, "", one)'
            " e = other.Add (d, two) f = graphpass.ClipReLU (e, one) y = Add (f, f) }"
        )
    )


def node(model, output):
    (found,) = model.graph.tensors()[output].inputs
    return found


def test_standard_operators_only(model):
    assert editing.is_standard(node(model, "b"), "Add")
    assert editing.is_standard(node(model, "b"), "Mul", "Add")
    assert not editing.is_standard(node(model, "b"), "Mul")
    assert not editing.is_standard(node(model, "e"), "Add")
    node(model, "b").domain = "ai.onnx"
    assert editing.is_standard(node(model, "b"), "Add")


def test_functions_of_the_dialect_only(model):
    assert editing.is_dialect(node(model, "f"), "ClipReLU", "QCFS")
    assert not editing.is_dialect(node(model, "f"), "QCFS")
    assert not editing.is_dialect(node(model, "e"), "Add")
    assert not editing.is_standard(node(model, "f"), "ClipReLU")


def test_nodes_are_described_by_name_or_by_output(model):
    assert editing.describe(node(model, "a")) == "Neg node 'neg'"
    assert editing.describe(node(model, "b")) == "Add node 'b'"
    assert editing.describe(type(node(model, "b"))("Abs")) == "Abs node '?'"


def test_optional_inputs(model):
    inputs = node(model, "d").inputs
    assert editing.present(inputs, 0) is model.graph.tensors()["c"]
    assert editing.present(inputs, 1) is None
    assert editing.present(inputs, 2) is model.graph.tensors()["one"]
    assert editing.present(inputs, 3) is None


def test_values_of_constants_only(model):
    tensors = model.graph.tensors()
    np.testing.assert_array_equal(editing.values(tensors["many"]), [1, 2, 3])
    assert editing.values(tensors["a"]) is None
    assert editing.values(None) is None


@pytest.mark.parametrize(
    ("name", "value"), [("one", 1.0), ("two", 2.0), ("many", None), ("a", None)]
)
def test_one_number_of_any_rank(model, name, value):
    assert editing.scalar(model.graph.tensors()[name]) == value


def test_single_consumer(model):
    tensors = model.graph.tensors()
    assert editing.single_consumer(model, tensors["c"]) is node(model, "d")
    assert editing.single_consumer(model, tensors["a"]) is None, "two readers"
    assert editing.single_consumer(model, tensors["f"]) is None, "one that reads twice"
    assert editing.single_consumer(model, tensors["b"]) is None, "an output"
    assert editing.single_consumer(model, tensors["y"]) is None, "no reader"


def test_output_that_is_read_as_well(model):
    tensors = model.graph.tensors()
    node(model, "d").inputs[0] = tensors["b"]
    assert len(tensors["b"].outputs) == 1
    assert editing.single_consumer(model, tensors["b"]) is None


def test_redirect_moves_every_reader(model):
    tensors = model.graph.tensors()
    editing.redirect(model, tensors["f"], tensors["a"])
    assert [t.name for t in node(model, "y").inputs] == ["a", "a"]
    assert tensors["f"].outputs == []


def test_redirect_of_an_output_keeps_its_name(model):
    tensors = model.graph.tensors()
    old, new = tensors["b"], tensors["c"]
    shape = old.shape
    editing.redirect(model, old, new)
    assert [t.name for t in model.graph.outputs] == ["y", "b"]
    assert model.graph.outputs[1] is new
    assert (new.name, new.shape) == ("b", shape)
    assert old.name == "b/replaced"
    assert len({t.name for t in model.graph.tensors().values()}) == len(model.graph.tensors())


def test_detached_nodes_go_with_the_next_tidying(model):
    editing.redirect(model, model.graph.tensors()["d"], model.graph.tensors()["c"])
    editing.detach(node(model, "d"))
    editing.tidy(model)
    assert "Clip" not in [n.op for n in model.graph.nodes]


def test_a_chain_stands_where_a_node_stood(model):
    many = model.graph.tensors()["many"]
    editing.replace_by_chain(model, node(model, "b"), [("Exp", []), ("Mul", [many]), ("Exp", [])])
    editing.tidy(model)
    last = node(model, "b")
    (product,) = last.inputs[0].inputs
    (first,) = product.inputs[0].inputs
    assert [each.op for each in (first, product, last)] == ["Exp", "Mul", "Exp"]
    assert (first.inputs[0].name, product.inputs[1]) == ("a", many)
    assert editing.is_output(model, last.outputs[0])


def test_tidying_keeps_inputs_that_nothing_reads(model):
    editing.redirect(model, model.graph.tensors()["a"], model.graph.tensors()["many"])
    editing.tidy(model)
    assert [t.name for t in model.graph.inputs] == ["x"]
    assert "Neg" not in [n.op for n in model.graph.nodes]


def test_tidying_sorts(model):
    model.graph.nodes.reverse()
    editing.tidy(model)
    seen = {"x"}
    for each in to_proto(model).graph.node:
        assert {name for name in each.input if name in set("abcdef")} <= seen
        seen.update(each.output)


def test_fresh_names(model):
    assert editing.fresh_name(model, "new") == "new"
    assert editing.fresh_name(model, "a") == "a_2"
    node(model, "b").inputs[0].name = "a"
    node(model, "c").outputs[0].name = "a_2"
    assert editing.fresh_name(model, "a") == "a_3"


def test_new_constants_are_contiguous_and_named_apart(model):
    made = editing.constant(model, "many", np.arange(6).reshape(2, 3).T)
    assert made.name == "many_2"
    assert made.values.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(made.values, [[0, 3], [1, 4], [2, 5]])


def test_new_scalars_stay_scalars(model):
    assert editing.constant(model, "k", np.float32(2)).values.shape == ()

"""Files that are not valid are refused before any pass sees them; what runs is let through."""

import contextlib
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from graphpass.model import infer_shapes, load
from graphpass_runtime.errors import ModelError

TEXT = """agraph (float[N,3] x) => (float[N,2] y) <float[3,2] w = {1,2,3,4,5,6}> {
    a = MatMul (x, w)
    y = Relu (a)
}"""


def parse(text=TEXT, domains=""):
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17{domains}]> {text}')


@pytest.fixture
def read(tmp_path):
    """Load a model from a file."""

    def run(proto):
        path = tmp_path / "ann.onnx"
        path.write_bytes(proto.SerializeToString())
        return load(path)

    return run


def refused(read, proto, *words):
    with pytest.raises(ModelError) as error:
        read(proto)
    assert str(error.value).isprintable()
    for word in ("ann.onnx", *words):
        assert word in str(error.value)


def test_valid(read):
    assert [node.op for node in read(parse()).graph.nodes] == ["MatMul", "Relu"]


def test_output_that_is_listed_twice(read):
    """ONNX Runtime loads such a file all the same."""
    proto = parse()
    proto.graph.output.append(proto.graph.output[0])
    ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    refused(read, proto, "lists the output 'y' twice")


def test_output_that_is_no_tensor(read):
    text = "g (float[N,3] x) => (seq(float[N,3]) y) { r = Relu (x) y = SequenceConstruct (r, x) }"
    refused(read, parse(text), "output 'y' is a sequence, not a tensor")


@pytest.mark.parametrize(
    "body",
    [
        "a = MatMul (x, w) y = Relu ()",
        "a = MatMul (x) y = Relu (a)",
        "a = MatMul (x, missing) y = Relu (a)",
        "a = MatMul (x, b) b = Neg (a) y = Relu (a)",
        "a = MatMul (x, w) y = Relu <axis = 3> (a)",
        "a = MatMul (x, w) b = Transpose <perm = [0,1,7]> (a) y = Relu (b)",
        "a = MatMul (x, w) a = Neg (x) y = Relu (a)",
        "a = MatMul (w, x) b = Concat <axis = 5> (a) y = Relu (b)",
        "a = MatMul (x, w) y = NoSuchOperator (a)",
    ],
    ids="no_input one_input dangling cycle attribute perm twice axis operator".split(),
)
def test_graph_that_is_not_valid(body, read):
    head, _, _ = TEXT.partition("{\n")
    refused(read, parse(f"{head} {{ {body} }}"), "is not valid ONNX")


def test_what_only_the_checker_minds_is_let_through(read):
    """LayerNormalization came with opset 17; ONNX Runtime has it in 16 as well."""
    text = """agraph (float[N,3] x) => (float[N,3] y) <float[3] s = {1,2,3}> {
        a = LayerNormalization (x, s)
        y = Relu (a)
    }"""
    proto = parse(text)
    proto.opset_import[0].version = 16
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(proto)
    assert len(read(proto).graph.nodes) == 2


@pytest.mark.parametrize(
    ("dims", "data_type", "size", "words"),
    [
        ([3, 2], 1, 20, "20 bytes, where its type and sizes need 24"),
        ([3, -2], 1, 24, "[3, -2]"),
        ([2**40, 2**40], 1, 24, "need"),
        ([3, 2], 99, 24, "cannot be read"),
        ([3, 2], 11, 24, "need 48"),
        ([3, 2], 22, 24, "need 3"),
        ([3, 2], 8, 24, "0 texts, where its sizes need 6"),
    ],
    ids="cut negative giant unknown_type double int4 text".split(),
)
def test_weight_that_does_not_hold_what_it_says(dims, data_type, size, words, read):
    proto = parse()
    (weight,) = proto.graph.initializer
    weight.ClearField("float_data")
    weight.dims[:] = dims
    weight.data_type = data_type
    weight.raw_data = bytes(size)
    refused(read, proto, "weight 'w'", words)


def test_constant_in_a_branch_is_looked_at_too(read):
    proto = parse("""agraph (float[N,3] x, bool c) => (float[N,3] y) {
        a = Relu (x)
        y = If (c) <
            then_branch = g () => (float[N,3] t) { k = Constant <value = float[1] {2.0}> ()
                t = Mul (a, k) },
            else_branch = h () => (float[N,3] e) { e = Identity (a) }
        >
    }""")
    constant = proto.graph.node[1].attribute[0].g.node[0].attribute[0].t
    constant.ClearField("float_data")
    constant.raw_data = bytes(3)
    refused(read, proto, "holds 3 bytes")


@pytest.mark.parametrize("where", ["name", "doc_string", "metadata", "weight"])
def test_text_that_is_not_utf8(where, tmp_path):
    proto = parse()
    if where == "weight":
        array = np.zeros((300, 300), np.float32)  # as large as those that are read by themselves
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, "MARK"))
    elif where == "metadata":
        proto.graph.node[0].metadata_props.add(key="k", value="MARK")
    else:
        setattr(proto.graph.node[0], where, "MARK")
    path = tmp_path / "ann.onnx"
    path.write_bytes(proto.SerializeToString().replace(b"MARK", b"\xff\xfe\xc3\x28"))
    with pytest.raises(ModelError, match="is not UTF-8"):
        load(path)


def test_two_versions_of_the_standard_operators(read):
    proto = parse()
    proto.opset_import.add(domain="ai.onnx", version=13)
    refused(read, proto, "in versions [13, 17]")


def test_other_word_for_the_standard_domain(read):
    proto = parse()
    for node in proto.graph.node:
        node.domain = "ai.onnx"
    proto.opset_import[0].domain = "ai.onnx"
    assert {node.domain for node in read(proto).graph.nodes} <= {"", None}


def test_functions_of_another_opset(read):
    proto = parse("agraph (float[N,3] x) => (float[N,3] y) { y = own.f (x) }", domains=', "own": 1')
    body = [onnx.helper.make_node("Relu", ["i"], ["o"])]
    opsets = [onnx.helper.make_opsetid("", 13)]
    proto.functions.append(onnx.helper.make_function("own", "f", ["i"], ["o"], body, opsets))
    refused(read, proto, "functions cannot be inlined")


def test_sizes_below_zero_are_unknown(read):
    proto = parse()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = -7
    model = read(proto)
    for tensor in (*model.graph.inputs, *model.graph.outputs):
        assert not isinstance(tensor.shape[0], int)
        assert tensor.shape[1] > 0


@pytest.mark.parametrize("said", [[], [1, 2, 3], ["N", 2**31 - 1]])
def test_output_that_is_not_what_the_file_says(said, read):
    proto = parse()
    del proto.graph.output[:]
    proto.graph.output.append(onnx.helper.make_tensor_value_info("y", 1, said))
    model = read(proto)
    infer_shapes(model)
    assert len(model.graph.outputs[0].shape) == 2
    assert model.graph.outputs[0].shape[1] == 2


def test_weights_are_not_copied_to_be_checked():
    from graphpass.admission import without_weights

    proto = parse()
    large = onnx.numpy_helper.from_array(np.zeros((3, 200), np.float32), "large")
    proto.graph.initializer.append(large)
    light = without_weights(proto)
    assert [tensor.name for tensor in light.graph.initializer] == ["w"]
    assert [value.name for value in light.graph.input] == ["x", "large"]
    assert [tensor.name for tensor in proto.graph.initializer] == ["w", "large"]
    assert light.graph.node == proto.graph.node


OWN = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("own", 1)]


def function(name, *called):
    """A function that calls others one after another; without any, a Relu."""
    names = ["i", *(f"t{i}" for i in range(len(called) - 1)), "o"]
    nodes = [
        onnx.helper.make_node(op, [names[i]], [names[i + 1]], domain="own")
        for i, op in enumerate(called)
    ] or [onnx.helper.make_node("Relu", ["i"], ["o"])]
    return onnx.helper.make_function("own", name, ["i"], ["o"], nodes, OWN)


def calling(functions, name):
    text = f"agraph (float[N,3] x) => (float[N,3] y) {{ y = own.{name} (x) }}"
    proto = parse(text, domains=', "own": 1')
    proto.functions.extend(functions)
    return proto


def test_functions_that_call_each_other_without_end(read):
    refused(read, calling([function("f", "h"), function("h", "f")], "f"), "functions stand for")


def test_functions_that_stand_for_very_many_nodes(read):
    """Thirty functions, each calling the one before twice."""
    chain = [function("f0"), *(function(f"f{i}", f"f{i - 1}", f"f{i - 1}") for i in range(1, 31))]
    refused(read, calling(chain, "f30"), "more than 1,000,000 nodes")
    assert len(read(calling(chain, "f6")).graph.nodes) == 64


@pytest.mark.parametrize("where", ["../secret.bin", "ABSOLUTE", "link.bin", "a/../../secret.bin"])
def test_external_data_elsewhere_is_not_read(where, tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones((3, 2), np.float32).tobytes())
    folder = tmp_path / "in"
    (folder / "a").mkdir(parents=True)
    (folder / "link.bin").symlink_to(secret)
    proto = parse()
    (weight,) = proto.graph.initializer
    weight.ClearField("float_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=where.replace("ABSOLUTE", str(secret)))
    (folder / "ann.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="external data cannot be read"):
        load(folder / "ann.onnx")


def test_subgraphs_nested_deeper_than_protobuf_reads(tmp_path):
    body = onnx.helper.make_graph([], "g", [], [onnx.helper.make_tensor_value_info("y", 1, None)])
    content = body.SerializeToString()
    for _ in range(200):  # a node with a graph attribute, written by hand
        attribute = b"\x0a\x0bthen_branch\x32" + _length(content) + content
        node = b"\x22\x02If\x2a" + _length(attribute) + attribute
        content = b"\x0a" + _length(node) + node
    path = tmp_path / "ann.onnx"
    path.write_bytes(b"\x08\x08\x3a" + _length(content) + content)
    with pytest.raises(ModelError, match="not an ONNX file, or cut short"):
        load(path)


def _length(content):
    size, encoded = len(content), bytearray()
    while size > 127:
        encoded.append(size & 127 | 128)
        size >>= 7
    return bytes([*encoded, size])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weight_of_a_layer_that_is_not_finite(value, read):
    proto = parse()
    proto.graph.initializer[0].float_data[3] = value
    refused(read, proto, "weight 'w'", "not finite")


def test_weight_of_a_layer_beyond_what_sums_have_room_for(read):
    proto = parse()
    proto.graph.initializer[0].float_data[3] = 1e33
    assert len(read(proto).graph.nodes) == 2
    proto.graph.initializer[0].float_data[3] = -1e38
    refused(read, proto, "weight 'w'", "beyond 2^112")


def test_storage_order_that_onnx_does_not_have(read):
    text = "agraph (float[N,3,4,4] x) => (float[N,3,2,2] y) {{ y = MaxPool <{}> (x) }}"
    attributes = "kernel_shape = [2,2], strides = [2,2], storage_order = {}"
    assert len(read(parse(text.format(attributes.format(1)))).graph.nodes) == 1
    proto = parse(text.format(attributes.format(2)))
    refused(read, proto, "MaxPool node", "storage_order of 2", "use 0 or 1")


def test_weight_in_half_precision_is_compared_with_its_bound_quietly(read):
    proto = parse(TEXT.replace("float", "float16"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read(proto).graph.nodes) == 2


def test_infinity_beside_layers_is_let_through(read):
    text = TEXT.replace("{1,2,3,4,5,6}>", "{1,2,3,4,5,6}, float m = {1}>")
    text = text.replace("Relu (a)", "Min (a, m)")
    proto = parse(text)
    proto.graph.initializer[1].float_data[0] = np.inf
    assert len(read(proto).graph.nodes) == 2
    proto.graph.initializer[1].float_data[0] = np.nan
    refused(read, proto, "weight 'm'", "not finite")


def test_experimental_operators_print_nothing(read, capfd):
    text = "agraph (float[N,3] x) => (float[N,3] y) { y = Affine <alpha = 2.0, beta = 1.0> (x) }"
    proto = parse(text)
    proto.opset_import[0].version = 9
    with contextlib.suppress(ModelError):
        read(proto)
    assert capfd.readouterr().out == ""

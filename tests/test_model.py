"""Loading and saving: nothing is lost, nothing is half written, errors say what is wrong."""

import os
import stat

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

from graphpass import dialect, stages
from graphpass.editing import constant, redirect
from graphpass.model import (
    from_proto,
    load,
    save,
    to_bytes,
    to_proto,
)
from graphpass_runtime.errors import ModelError, OutputError
from graphpass_runtime.metadata import FileRecord, Stage

TEXT = """agraph (float[batch,3] x) => (float[batch,2] y) <float[3,2] w = {1,2,3,4,5,6}> {
    [first] a = MatMul (x, w)
    [second] y = Relu (a)
}"""


def parse(text=TEXT, opset=17, ir_version=10, domains=""):
    header = f'<ir_version: {ir_version}, opset_import: ["": {opset}{domains}]>'
    return onnx.parser.parse_model(f"{header} {text}")


def rich():
    """A model with everything that a file can say beside its graph."""
    proto = parse()
    proto.model_version = 7
    proto.domain = "org.example"
    proto.doc_string = "about the model"
    proto.producer_name, proto.producer_version = "somebody", "1.2"
    proto.graph.doc_string = "about the graph"
    for key, value in (("author", "me"), ("license", "MIT")):
        proto.metadata_props.add(key=key, value=value)
    for node in proto.graph.node:
        node.doc_string = f"about {node.name}"
        node.metadata_props.add(key="origin", value=node.name)
        node.metadata_props.add(key="line", value="12")
    return proto


def props(message):
    return {p.key: p.value for p in message.metadata_props}


def run(proto, x):
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


class TestRoundTrip:
    def test_what_graphsurgeon_would_lose_is_kept(self):
        before, after = rich(), to_proto(from_proto(rich()))
        assert (after.model_version, after.domain) == (7, "org.example")
        assert (after.doc_string, after.graph.doc_string) == ("about the model", "about the graph")
        assert (after.producer_name, after.producer_version) == ("somebody", "1.2")
        assert props(after) == {"author": "me", "license": "MIT"}
        for old, new in zip(before.graph.node, after.graph.node, strict=True):
            assert (new.op_type, new.name, list(new.output)) == (
                old.op_type,
                old.name,
                list(old.output),
            )
            assert new.doc_string == old.doc_string
            assert props(new) == props(old) == {"origin": old.name, "line": "12"}

    def test_interface_keeps_names_and_symbols(self):
        after = to_proto(from_proto(rich()))
        for value, name, size in ((after.graph.input[0], "x", 3), (after.graph.output[0], "y", 2)):
            dims = value.type.tensor_type.shape.dim
            assert value.name == name
            assert (dims[0].dim_param, dims[1].dim_value) == ("batch", size)

    def test_outputs_are_the_same(self):
        x = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
        np.testing.assert_array_equal(run(to_proto(from_proto(rich())), x), run(rich(), x))

    @pytest.mark.parametrize("opset", [8, 9, 11, 12, 13, 17, 18, 22, 26])
    def test_opset_is_kept(self, opset):
        after = to_proto(from_proto(parse(opset=opset)))
        assert {o.domain: o.version for o in after.opset_import} == {"": opset}
        run(after, np.ones((1, 3), np.float32))

    def test_other_domains_are_kept(self):
        text = TEXT.replace("Relu (a)", "com.microsoft.Gelu (a)")
        after = to_proto(from_proto(parse(text, domains=', "com.microsoft": 1')))
        assert {o.domain: o.version for o in after.opset_import} == {"": 17, "com.microsoft": 1}

    @pytest.mark.parametrize(
        ("given", "kept"), [(3, 4), (4, 4), (8, 8), (10, 10), (13, 13), (14, 13)]
    )
    def test_ir_version_is_one_that_onnx_runtime_loads(self, given, kept):
        after = to_proto(from_proto(parse(opset=8, ir_version=given)))
        assert after.ir_version == kept
        run(after, np.ones((1, 3), np.float32))

    def test_functions_need_ir_8(self):
        model = from_proto(parse(opset=8, ir_version=4))
        (node,) = [n for n in model.graph.nodes if n.op == "Relu"]
        node.op, node.domain = dialect.CLIP_RELU, dialect.DOMAIN
        node.inputs.append(constant(model, "theta", np.ones((), np.float32)))
        after = to_proto(model)
        assert after.ir_version == 8
        assert [f.name for f in after.functions] == ["ClipReLU"]
        run(after, np.ones((1, 3), np.float32))

    def test_functions_of_the_dialect_are_written_once_more(self):
        text = TEXT.replace("Relu (a)", "graphpass.QCFS (a, t, t)")
        text = text.replace("<float", "<float t = {2.0}, float")
        model = from_proto(parse(text, domains=', "graphpass": 1'))
        again = from_proto(onnx.load_from_string(to_bytes(model)))
        assert [f.name for f in to_proto(again).functions] == ["QCFS"]
        assert to_bytes(again) == to_bytes(model)

    def test_functions_of_others_are_inlined(self):
        proto = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["": 17, "local": 1]>'
            " g (float[N,3] x) => (float[N,3] y) { y = local.twice (x) }"
            ' <domain: "local", opset_import: ["": 17]> twice (a) => (b) { b = Add (a, a) }'
        )
        model = from_proto(proto)
        assert [n.op for n in model.graph.nodes] == ["Add"]
        assert not to_proto(model).functions

    def test_notes_of_a_node_whose_output_is_renamed_stay_with_it(self):
        model = from_proto(rich())
        tensors = model.graph.tensors()
        redirect(model, tensors["y"], tensors["a"])
        model.graph.cleanup().toposort()
        (node,) = to_proto(model).graph.node
        assert (node.op_type, node.output[0], node.doc_string) == ("MatMul", "y", "about first")

    def test_record_is_written_and_read(self):
        model = from_proto(rich())
        model.record = FileRecord(Stage.CLIP, preprocess={"a": 1})
        after = to_proto(model)
        assert props(after)["author"] == "me"
        again = from_proto(after)
        assert again.record is not None
        assert (again.record.stage, again.record.preprocess) == (Stage.CLIP, {"a": 1})
        assert again.props == {"author": "me", "license": "MIT"}

    def test_initializers_that_are_inputs_too(self):
        proto = parse(ir_version=3, opset=8)
        weight = proto.graph.initializer[0]
        proto.graph.input.append(
            onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        )
        assert [value.name for value in to_proto(from_proto(proto)).graph.input] == ["x"]

    def test_nodes_of_one_name_are_numbered(self):
        proto = rich()
        for node in proto.graph.node:
            node.name = "same"
        after = to_proto(from_proto(proto))
        assert [node.name for node in after.graph.node] == ["same", "same_2"]
        run(after, np.ones((1, 3), np.float32))


class TestDeterminism:
    def test_same_model_same_bytes(self):
        assert to_bytes(from_proto(rich())) == to_bytes(from_proto(rich()))

    def test_writing_changes_nothing(self):
        model = from_proto(rich())
        assert to_bytes(model) == to_bytes(model)

    def test_looking_at_weights_changes_nothing(self):
        model = from_proto(rich())
        before = to_bytes(model)
        assert model.graph.tensors()["w"].values.shape == (3, 2)
        assert to_bytes(model) == before

    def test_a_file_in_between_changes_nothing(self):
        model = from_proto(rich())
        stages.normalise(model)
        assert to_bytes(from_proto(onnx.load_from_string(to_bytes(model)))) == to_bytes(model)


class TestSaving:
    def test_file_appears_whole_and_alone(self, tmp_path):
        model = from_proto(rich())
        save(model, tmp_path / "out.onnx")
        assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]
        assert (tmp_path / "out.onnx").read_bytes() == to_bytes(model)
        assert to_bytes(load(tmp_path / "out.onnx")) == to_bytes(model)

    def test_old_file_is_replaced(self, tmp_path):
        path = tmp_path / "out.onnx"
        path.write_bytes(b"old")
        save(from_proto(rich()), path)
        assert path.read_bytes() == to_bytes(from_proto(rich()))

    def test_mode_follows_the_umask(self, tmp_path):
        old = os.umask(0o027)
        try:
            save(from_proto(rich()), tmp_path / "out.onnx")
        finally:
            os.umask(old)
        assert stat.S_IMODE((tmp_path / "out.onnx").stat().st_mode) == 0o640

    def test_failing_replacement_leaves_no_file(self, tmp_path):
        (tmp_path / "out.onnx").mkdir()
        with pytest.raises(OutputError, match="cannot be written"):
            save(from_proto(rich()), tmp_path / "out.onnx")
        assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]

    def test_missing_folder(self, tmp_path):
        with pytest.raises(OutputError, match="folder that exists") as caught:
            save(from_proto(rich()), tmp_path / "no" / "out.onnx")
        assert str(tmp_path / "no" / "out.onnx") in str(caught.value)
        assert list(tmp_path.iterdir()) == []


class TestErrors:
    def raises(self, path, problem, remedy):
        with pytest.raises(ModelError) as caught:
            load(path)
        assert problem in caught.value.problem
        assert caught.value.remedy is not None
        assert remedy in caught.value.remedy
        assert path.name in str(caught.value)

    def test_missing(self, tmp_path):
        self.raises(tmp_path / "no.onnx", "no such file", "check the path")

    def test_folder(self, tmp_path):
        self.raises(tmp_path, "no such file", "check the path")

    @pytest.mark.parametrize("suffix", ["onnx", "json", "txt", "textproto", "onnxtxt"])
    def test_not_onnx(self, tmp_path, suffix):
        path = tmp_path / f"a.{suffix}"
        path.write_text("this is no model\n" * 9)
        self.raises(path, "not an ONNX file", "again")

    @pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
    def test_truncated(self, tmp_path, share):
        path = tmp_path / "a.onnx"
        content = to_bytes(from_proto(rich()))
        graph = content[: int(len(content) * share)]
        path.write_bytes(graph)
        self.raises(path, "not an ONNX file, or cut short", "again")

    def test_empty_file(self, tmp_path):
        (tmp_path / "a.onnx").write_bytes(b"")
        self.raises(tmp_path / "a.onnx", "no graph", "is it an ONNX model?")

    def test_missing_external_data(self, tmp_path):
        path = tmp_path / "a.onnx"
        onnx.save(
            to_proto(from_proto(parse())),
            path,
            save_as_external_data=True,
            location="w.bin",
            size_threshold=0,
        )
        assert to_bytes(load(path)) == to_bytes(from_proto(onnx.load(path)))
        (tmp_path / "w.bin").unlink()
        self.raises(path, "external data cannot be read", "beside the model")

    def test_external_data_cut_short(self, tmp_path):
        path = tmp_path / "a.onnx"
        onnx.save(
            to_proto(from_proto(parse())),
            path,
            save_as_external_data=True,
            location="w.bin",
            size_threshold=0,
        )
        (tmp_path / "w.bin").write_bytes(b"1234")
        with pytest.raises(ModelError, match=r"a\.onnx"):
            load(path)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("g (float[N,3] x) => (float[N,3] y) { }", "no graph with nodes"),
            ("g (float[N,3] x) => () { y = Relu (x) }", "no graph with nodes"),
        ],
    )
    def test_empty_graph(self, text, problem):
        with pytest.raises(ModelError, match=problem):
            from_proto(parse(text))

    @pytest.mark.parametrize("opset", [1, 6, 27, 99])
    def test_opset_outside_the_range(self, opset):
        with pytest.raises(ModelError, match=rf"opset {opset} is outside 7\.\.26"):
            from_proto(parse(opset=opset))

    def test_no_opset(self):
        proto = parse()
        del proto.opset_import[:]
        with pytest.raises(ModelError, match="opset 0"):
            from_proto(proto)

    def test_function_of_a_newer_version(self):
        text = TEXT.replace("Relu (a)", "graphpass.FutureNeuron (a)")
        with pytest.raises(ModelError, match=r"graphpass::FutureNeuron.*does not know"):
            from_proto(parse(text, domains=', "graphpass": 1'))

    def test_damaged_record(self):
        proto = parse()
        proto.metadata_props.add(key="graphpass.schema", value="1")
        with pytest.raises(ModelError, match="damaged"):
            from_proto(proto)

"""Stage files whose metadata and graph have come apart are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphpass import convert, inspect
from graphpass_models.digits import digits_model_path
from graphpass_runtime.errors import GraphpassError, ModelError

CNN = digits_model_path("digits_cnn")


@pytest.fixture(scope="module")
def stage_files(digits_npz, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    options = {"data": digits_npz[0], "form": "counts", "population": 1}
    convert(CNN, folder / "snn.onnx", steps=4, stages=folder, **options)
    return folder


@pytest.fixture
def carry_on(stage_files, tmp_path, digits_npz):
    """Change a stage file, carry on from it, and give the error; nothing may be written."""

    def run(stage, change, **options):
        proto = onnx.load(stage_files / f"{stage}.onnx")
        props = {entry.key: entry.value for entry in proto.metadata_props}
        change(proto, props)
        del proto.metadata_props[:]
        for key, value in props.items():
            proto.metadata_props.add(key=key, value=value)
        onnx.save(proto, tmp_path / "stage.onnx")
        with pytest.raises(GraphpassError) as error:
            convert(
                tmp_path / "stage.onnx", tmp_path / "snn.onnx",
                data=digits_npz[0], form="counts", **options,
            )  # fmt: skip
        assert [path.name for path in tmp_path.iterdir()] == ["stage.onnx"]
        assert str(error.value).isprintable()
        return str(error.value)

    return run


def neurons(change):
    """A change of the first neuron in the metadata."""

    def run(_, props):
        listed = json.loads(props["graphpass.neurons"])
        change(listed[0])
        props["graphpass.neurons"] = json.dumps(listed)

    return run


def entry(key, value):
    def run(_, props):
        props[f"graphpass.{key}"] = value

    return run


def of_op(proto, op):
    return next(node for node in proto.graph.node if node.op_type == op)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (neurons(lambda n: n.update(name="elsewhere")), "names other neurons"),
        (neurons(lambda n: n.update(batch_axis=2)), "has other axes"),
        (neurons(lambda n: n.update(batch_axis=1)), "channels without an axis"),
        (neurons(lambda n: n.update(channel_axis=2)), "has other axes"),
        (neurons(lambda n: n.update(channel_axis=None)), "channels without an axis"),
        (neurons(lambda n: n.update(channel_axis=17)), "has other axes"),
        (neurons(lambda n: n.update(levels=5)), "5 levels"),
        (neurons(lambda n: n.update(levels=0)), "out of range"),
        (neurons(lambda n: n.update(levels=2.5)), "no whole number"),
        (neurons(lambda n: n.update(sign=True)), "no whole number"),
        (neurons(lambda n: n.update(sign=0)), "sign is 0"),
        (neurons(lambda n: n["threshold"].__setitem__(0, 0)), "not positive"),
        (neurons(lambda n: n["threshold"].pop()), "differ in shape"),
        (neurons(lambda n: n.update(threshold=[1e39] * len(n["threshold"]))), "not finite"),
        (neurons(lambda n: n.update(pools=[{}])), "metadata is damaged"),
        (neurons(lambda n: n.update(pools=[{"op": "Conv", "attrs": {}}])), "a pool is none"),
        (neurons(lambda n: n.update(pools=[{"op": "MaxPool", "attrs": None}])), "is damaged"),
        (
            neurons(lambda n: n.update(pools=[{"op": "MaxPool", "attrs": {"pads": []}}])),
            "a pool is none",
        ),
        (entry("neurons", "[]"), "names no neurons"),
        (entry("neurons", "[" * 10_000), "metadata is damaged"),
        (entry("steps", "3"), "4 levels"),
        (entry("steps", "null"), "is not a int"),
        (entry("steps", "1e999"), "not finite"),
        (entry("steps", "9" * 5000), "metadata is damaged"),
        (entry("stage", "5-gone"), "metadata is damaged"),
        (entry("activations", "[{}]"), "metadata is damaged"),
        (entry("activations", '[{"name": 3, "operator": "Relu", "status": "kept"}]'), "no text"),
        (entry("activations", '[{"name": "a", "operator": "b", "status": "x"}]'), "unknown"),
        (entry("activations", '[{"name": "a", "threshold_max": NaN}]'), "not finite"),
        (entry("batch_norms", '{"a": null}'), "metadata is damaged"),
        (entry("batch_norms", '{"a": {"mean": "x"}}'), "metadata is damaged"),
    ],
)
@pytest.mark.parametrize("stage", ["2-daqcfs", "3-calibrated"])
def test_metadata_that_does_not_fit(stage, change, words, carry_on):
    assert words in carry_on(stage, change)


def test_more_steps_than_there_may_be(carry_on):
    def change(proto, props):
        props["graphpass.steps"] = "1000000000"

    assert "1000000000 is out of range" in carry_on("3-calibrated", change)


def test_neuron_given_twice(carry_on):
    def change(proto, _):
        again = proto.graph.node.add()
        again.CopyFrom(of_op(proto, "DAQCFS"))
        again.name += "_again"
        again.output[:] = [f"{name}_again" for name in again.output]
        shape = ["N", None, None, None]
        proto.graph.output.append(onnx.helper.make_tensor_value_info(again.output[0], 1, shape))

    assert "names other neurons" in carry_on("3-calibrated", change)


def test_parameter_that_is_no_constant(carry_on):
    def change(proto, _):
        node = of_op(proto, "DAQCFS")
        node.input[:] = list(node.input)[::-1]

    assert "lacks a parameter" in carry_on("3-calibrated", change)


@pytest.mark.parametrize("key", ["stage", "schema"])
def test_neurons_of_a_later_stage(key, carry_on):
    """As of an earlier one, or of a file without metadata that can be read."""

    def change(_, props):
        if key == "stage":
            props["graphpass.stage"] = "1-clip"
        else:
            del props["graphpass.schema"]

    assert "neurons of a later stage" in carry_on("2-daqcfs", change, steps=4)


@pytest.mark.parametrize("stage", ["2-daqcfs", "3-calibrated"])
def test_parameter_of_another_shape(stage, carry_on):
    def change(proto, _):
        name = [node for node in proto.graph.node if node.op_type == "DAQCFS"][-1].input[2]
        (tensor,) = (w for w in proto.graph.initializer if w.name == name)
        tensor.dims.append(1)

    assert "parameters of other shapes" in carry_on(stage, change)


@pytest.mark.parametrize("stage", ["1-clip", "2-daqcfs", "3-calibrated"])
def test_node_that_cannot_be_placed_in_time(stage, carry_on):
    def change(proto, _):
        node = of_op(proto, "Add")
        node.op_type, node.input[1] = "Mul", node.input[0]

    options = {"steps": 4} if stage == "1-clip" else {}
    assert "both vary in time" in carry_on(stage, change, **options)


def test_verdict_on_what_is_not_there(carry_on):
    def change(_, props):
        listed = json.loads(props["graphpass.activations"])
        listed[-1]["name"] = "elsewhere"
        props["graphpass.activations"] = json.dumps(listed)

    assert "names other neurons" in carry_on("1-clip", change, steps=4)


def test_verdicts_are_read_by_inspect_too(stage_files, tmp_path):
    proto = onnx.load(stage_files / "3-calibrated.onnx")
    for prop in proto.metadata_props:
        if prop.key == "graphpass.activations":
            prop.value = '[{"name": "a", "operator": "b", "status": "x"}]'
    onnx.save(proto, tmp_path / "stage.onnx")
    with pytest.raises(ModelError, match="metadata is damaged"):
        inspect(tmp_path / "stage.onnx")


def test_calibration_that_says_anything(stage_files, tmp_path):
    proto = onnx.load(stage_files / "3-calibrated.onnx")
    for prop in proto.metadata_props:
        if prop.key == "graphpass.calibration":
            prop.value = '{"rule": "paper", "recovered": null}'
    onnx.save(proto, tmp_path / "stage.onnx")
    assert convert(tmp_path / "stage.onnx", tmp_path / "snn.onnx").advice() is None


def test_neuron_that_no_output_hangs_on(carry_on):
    def change(proto, _):
        of_op(proto, "Gemm").output[0] = "unused"
        proto.graph.node.append(onnx.helper.make_node("Flatten", ["image"], ["logits"]))
        del proto.graph.output[0].type.tensor_type.shape.dim[:]
        proto.graph.output[0].type.tensor_type.shape.dim.add(dim_param="N")
        proto.graph.output[0].type.tensor_type.shape.dim.add(dim_value=64)

    assert "names other neurons" in carry_on("2-daqcfs", change)


@pytest.mark.parametrize("output", [1, 2])
@pytest.mark.parametrize("stage", ["2-daqcfs", "3-calibrated"])
def test_node_that_reads_the_potential_or_the_spikes(carry_on, stage, output):
    """They are no tensors of the network: a form puts others in their place."""

    def change(proto, _):
        neuron = of_op(proto, "DAQCFS")
        for node in proto.graph.node:
            for index, name in enumerate(node.input):
                if name == neuron.output[0]:
                    node.input[index] = "read"
        proto.graph.node.append(
            onnx.helper.make_node("Add", [neuron.output[0], neuron.output[output]], ["read"])
        )

    assert "are read" in carry_on(stage, change)


def test_tensor_without_elements(write_model):
    text = """g (float[N,2,4,4] x) => (float[N,2,M,K] y) {
        r = Relu (x)
        a = GlobalAveragePool (r)
        y = MaxPool <kernel_shape = [2,2]> (a)
    }"""
    with pytest.raises(ModelError, match="MaxPool node 'y' writes a tensor of sizes"):
        inspect(write_model(text))


def test_data_that_leaves_tensors_without_elements(write_model, tmp_path):
    """Only the data says how large the images are."""
    text = """g (float[N,2,H,W] x) => (float[N,2,P,Q] y) {
        r = Relu (x)
        y = MaxPool <kernel_shape = [4,4], strides = [2,2]> (r)
    }"""
    ann, snn = write_model(text), tmp_path / "snn.onnx"
    images = np.ones((3, 2, 2, 2), np.float32)
    with pytest.raises(ModelError, match=r"MaxPool node 'y' .* sizes \['N', 2, 0, 0\]"):
        convert(ann, snn, steps=4, data=[{"x": images}])
    assert not snn.exists()
    convert(ann, snn, steps=4, data=[{"x": np.ones((3, 2, 4, 4), np.float32)}])

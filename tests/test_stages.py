"""One stage at a time, on models in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphpass import stages
from graphpass.model import Model, load, to_bytes
from graphpass.neurons.parameters import SMALLEST_THRESHOLD
from graphpass.pipeline import plan_conversion
from graphpass_runtime.metadata import FileRecord, Stage
from graphpass_runtime.neuron import Carrier

FORMS = ("matmul", "sorted", "counts")

NET = """g (float[N,2,4,4] x) => (float[N,2] y) {
    a = Conv(x, w1)
    r1 = Relu(a)
    b = Conv(r1, w2)
    r2 = Clip(b, zero, top)
    c = Conv(r2, w2)
    r3 = Clip(c, zero, top)
    p = GlobalAveragePool(r3)
    f = Flatten(p)
    y = MatMul(f, w3)
}"""


@pytest.fixture
def ann(write_model: Callable[..., Path]) -> Path:
    rng = np.random.default_rng(4)
    shapes = {"w1": (3, 2, 1, 1), "w2": (3, 3, 1, 1), "w3": (3, 2)}
    weights = {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}
    return write_model(NET, weights | {"zero": np.float32(0), "top": np.float32(2)})


def until(path: Path, stage: Stage, steps: int = 4) -> Model:
    """The model after this stage; r1 stays analog, so that nothing is measured."""
    model = load(path)
    stages.normalise(model)
    if stage >= Stage.CLIP:
        stages.bound(model, plan_conversion(model), {})
    if stage >= Stage.DAQCFS:
        stages.quantise(model, steps)
    if stage >= Stage.CALIBRATED:
        stages.calibrate(model, "none", None)
    return model


def test_paddings_that_are_computed_from_sizes_behind_another(write_model) -> None:
    """`SAME` of TensorFlow in PyTorch: the floats make every size known only after the last one."""
    layers = [
        f"""s{i} = Shape (x{i}) h{i} = Gather (s{i}, two) f{i} = Cast <to = 1> (h{i})
        m{i} = Mod <fmod = 1> (f{i}, halves) c{i} = Clip (m{i}, zero) l{i} = Cast <to = 7> (c{i})
        e{i} = Concat <axis = 0> (none, l{i}, l{i}) p{i} = Pad (x{i}, e{i})
        x{i + 1} = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (p{i})"""
        for i in range(5)
    ]
    weights = {
        "two": np.array([2], np.int64),
        "none": np.zeros(6, np.int64),
        "halves": np.full(1, 2, np.float32),
        "zero": np.float32(0),
    }
    nodes = ["x0 = Relu (x)", *layers, "y = Neg (x5)"]
    text = f"g (float[N,2,37,37] x) => (float[N,2,A,B] y) {{ {' '.join(nodes)} }}"
    model = load(write_model(text, weights))
    stages.normalise(model)
    assert [node.op for node in model.graph.nodes] == ["Relu", *["Pad", "MaxPool"] * 5, "Neg"]
    assert model.graph.outputs[0].shape == ["N", 2, 2, 2]


def test_each_stage_says_which_it_is(ann: Path) -> None:
    for stage in list(Stage)[:4]:
        model = until(ann, stage)
        assert model.record is not None
        assert model.record.stage is stage
        assert model.record.steps == (4 if stage >= Stage.DAQCFS else None)
        assert len(model.record.neurons) == (2 if stage >= Stage.DAQCFS else 0)
        assert model.record.form is None


def test_operators_of_each_stage(ann: Path) -> None:
    expected = {
        Stage.NORMALISED: ["Relu", "Clip", "Clip"],
        Stage.CLIP: ["Relu", "ClipReLU", "ClipReLU"],
        Stage.DAQCFS: ["Relu", "DAQCFS", "DAQCFS"],
        Stage.CALIBRATED: ["Relu", "DAQCFS", "DAQCFS"],
    }
    for stage, operators in expected.items():
        nodes = {node.outputs[0].name: node.op for node in until(ann, stage).graph.nodes}
        assert [nodes[name] for name in ("r1", "r2", "r3")] == operators


@pytest.mark.parametrize("steps", [1, 2, 4, 32])
def test_stage_2_is_the_clip_at_t_levels(
    steps: int, ann: Path, bare_run: Callable[..., dict[str, Any]]
) -> None:
    x = np.random.default_rng(1).normal(size=(5, 2, 4, 4)).astype(np.float32)
    clip = bare_run(to_bytes(until(ann, Stage.CLIP)), {"x": x})["y"]
    np.testing.assert_allclose(clip, bare_run(ann, {"x": x})["y"], rtol=1e-5, atol=1e-5)
    weights = {t.name: np.asarray(t.values) for t in load(ann).graph.tensors().values()
               if hasattr(t, "values")}  # fmt: skip

    def layer(z: Any, w: Any) -> Any:
        return np.einsum("nchw,oc->nohw", z, w[..., 0, 0])

    def levels(z: Any) -> Any:
        return 2 / steps * np.clip(np.floor(z * steps / 2 + 0.5), 0, steps)

    r1 = np.maximum(layer(x.astype(np.float64), weights["w1"]), 0)
    r3 = levels(layer(levels(layer(r1, weights["w2"])), weights["w2"]))
    expected = r3.mean(axis=(2, 3)) @ weights["w3"]
    found = bare_run(to_bytes(until(ann, Stage.DAQCFS, steps)), {"x": x})["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_thresholds_reach_the_verdicts(ann: Path) -> None:
    model = until(ann, Stage.DAQCFS)
    assert model.record is not None
    verdicts = {str(v["name"]): v for v in model.record.activations}
    assert verdicts["r1"]["threshold_max"] is None
    for name in ("r2", "r3"):
        assert verdicts[name]["channels"] == 3
        assert verdicts[name]["threshold_min"] == verdicts[name]["threshold_max"] == 2.0


def test_no_calibration_ends_with_a_threshold_of_next_to_nothing(ann: Path) -> None:
    model = until(ann, Stage.DAQCFS)
    assert model.record is not None
    found = np.array([0.0, 1e-42, 0.5], np.float32)
    neurons = tuple(replace(neuron, threshold=found) for neuron in model.record.neurons)
    stages.calibrate(model, "some rule", lambda _: (neurons, {}))
    smallest = np.float32(SMALLEST_THRESHOLD)
    for neuron in model.record.neurons:
        np.testing.assert_array_equal(neuron.threshold, [smallest, smallest, 0.5])
    assert FileRecord.from_props(model.record.to_props()) is not None
    assert all(np.isfinite(65536 / neuron.threshold).all() for neuron in model.record.neurons)


def test_unbounded_names_what_has_to_be_measured(ann: Path) -> None:
    model = until(ann, Stage.NORMALISED)
    assert stages.unbounded(model, ["r1", "r2", "r3"]) == ["r1"]
    assert stages.unbounded(model, ["r2"]) == []


def test_lossless_is_for_qcfs_alone(ann: Path) -> None:
    from graphpass_models.digits import digits_model_path

    assert not stages.lossless(until(ann, Stage.DAQCFS))
    qcfs = digits_model_path("digits_qcfs_l8")
    assert stages.lossless(until(qcfs, Stage.DAQCFS, 8))
    assert not stages.lossless(until(qcfs, Stage.DAQCFS, 4))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", [4, 16])
def test_peak_counts_time_where_there_is_time(form: str, steps: int, ann: Path) -> None:
    model = until(ann, Stage.CALIBRATED, steps)
    stages.emit(model, form)
    assert model.record is not None
    assert (model.record.stage, model.record.form) == (Stage.SPIKING, form)
    trains = {neuron.carrier for neuron in model.record.neurons} == {Carrier.TRAIN}
    assert trains == (form != "counts")
    assert model.record.peak_elements == 3 * 4 * 4 * (steps if trains else 1)


@pytest.mark.parametrize("form", FORMS)
def test_emitting_does_not_name_a_batch_size(form: str, ann: Path) -> None:
    model = until(ann, Stage.CALIBRATED)
    stages.emit(model, form)
    for tensor in (*model.graph.inputs, *model.graph.outputs):
        assert not isinstance(tensor.shape[0], int)


@pytest.mark.parametrize("form", FORMS)
def test_output_keeps_the_sizes_that_the_file_declares(
    form: str, write_model: Callable[..., Path]
) -> None:
    """Behind a sequence no inference follows the mean over time; an initializer has no other."""
    path = write_model(
        """g (float[1,3] x) => (float[1,3] y, float[3,3] m) {
            r = Clip(x, zero, top) a = Abs (r) w = SequenceConstruct (a)
            at = Constant <value_int = 0> () q = SequenceAt (w, at) f = Flatten (q)
            y = MatMul (f, m) }""",
        {"zero": np.float32(0), "top": np.float32(2), "m": np.eye(3, dtype=np.float32)},
    )
    model = load(path)
    stages.normalise(model)
    stages.bound(model, plan_conversion(model, first_activation="spiking"), {})
    stages.quantise(model, 4)
    stages.calibrate(model, "none", None)
    stages.emit(model, form)
    assert [list(output.shape) for output in model.graph.outputs] == [[1, 3], [3, 3]]


def test_preprocessing_is_kept_through_all_stages(ann: Path) -> None:
    config = {"image_mean": [0.5], "image_std": [0.25]}
    model = load(ann)
    stages.normalise(model, config)
    stages.bound(model, plan_conversion(model), {})
    stages.quantise(model, 4)
    stages.calibrate(model, "none", None)
    stages.emit(model, "matmul")
    assert model.record is not None
    assert model.record.preprocess == config

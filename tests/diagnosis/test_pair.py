"""Two files: every form is judged as itself, and a file of another ANN is told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphpass import Session, convert, diagnose, evaluate, populations
from graphpass.model import load, save
from graphpass_models.digits import digits_model_path
from graphpass_runtime.data import open_data
from graphpass_runtime.errors import ModelError

CNN = digits_model_path("digits_cnn")


@pytest.fixture(scope="module")
def forms(
    stage_files: Path, tmp_path_factory: pytest.TempPathFactory, digits_npz: tuple[Path, Path]
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("forms")
    for form in ("matmul", "sorted", "counts", "counts-cpu", "int8"):
        convert(stage_files / "3-calibrated.onnx", folder / form, form=form, data=digits_npz[0])
    for serial in ("scan", "step"):
        convert(stage_files / "3-calibrated.onnx", folder / serial, method="qcfs", serial=serial)
    convert(CNN, folder / "fp16", steps=4, data=digits_npz[0], form="counts", precision="fp16")
    files = {path.name: path for path in folder.iterdir()}
    return files | {"stage 3": stage_files / "3-calibrated.onnx"}


@pytest.mark.parametrize("form", ["stage 3", "matmul", "sorted", "counts", "counts-cpu", "int8"])
def test_parallel_forms(form: str, forms: dict[str, Path], digits_npz: tuple[Path, Path]) -> None:
    result = diagnose(CNN, forms[form], digits_npz[1], samples=20)
    wanted = diagnose(CNN, forms["stage 3"], digits_npz[1], samples=20)
    found = {layer.name: layer for layer in result.layers}
    assert len(found) == 4
    assert result.samples == 20
    for layer in wanted.layers:
        assert found[layer.name].share == pytest.approx(layer.share)
        assert found[layer.name].activation_db == pytest.approx(layer.activation_db)
    session, images = Session(forms[form]), np.load(digits_npz[1])
    data = open_data([{"image": images["image"][np.arange(20) * 60 // 20]}], session.inputs)
    measured = evaluate(session, data, reference=Session(CNN))
    assert result.output_error == pytest.approx(measured.output_relative_error, rel=1e-3)
    assert result.agreement == measured.agreement
    assert ("int8" in result.note) == (form == "int8")


def test_firing_is_that_of_the_file(forms: dict[str, Path], digits_npz: tuple[Path, Path]) -> None:
    feeds = {"image": np.load(digits_npz[1])["image"][np.arange(20) * 60 // 20]}
    for form in ("matmul", "int8", "step"):
        session = Session(forms[form])
        neurons = session.record.neurons
        counts = populations.joined_counts(neurons, session.spike_counts(feeds))
        levels = {neuron.name: neuron.levels for neuron in populations.joined(neurons)}
        assert set(levels.values()) == {4, 8, 12}
        for layer in diagnose(CNN, forms[form], digits_npz[1], samples=20).layers:
            assert layer.rate == pytest.approx(counts[layer.name].mean() / levels[layer.name])
            assert layer.saturated == pytest.approx(
                (counts[layer.name] == levels[layer.name]).mean()
            )
            assert layer.silent == pytest.approx((counts[layer.name] == 0).mean())


@pytest.mark.parametrize("form", ["scan", "step"])
def test_serial_forms_get_what_can_be_measured(
    form: str, forms: dict[str, Path], digits_npz: tuple[Path, Path]
) -> None:
    result = diagnose(CNN, forms[form], digits_npz[1], samples=12)
    assert "serial" in result.note
    assert result.output_error is not None
    assert result.agreement is not None
    assert {layer.share for layer in result.layers} == {None}
    assert all((layer.rate is None) == (form == "scan") for layer in result.layers)


def test_fp16_is_said_to_be_close(forms: dict[str, Path], digits_npz: tuple[Path, Path]) -> None:
    result = diagnose(CNN, forms["fp16"], digits_npz[1], samples=12)
    assert "fp16" in result.note
    assert all(layer.rate is not None for layer in result.layers)


def test_weights_that_were_learned_are_not_the_anns(
    forms: dict[str, Path], digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    model = load(forms["counts"])
    model.note(calibration={"rule": "finetune"})
    save(model, tmp_path / "tuned.onnx")
    result = diagnose(CNN, tmp_path / "tuned.onnx", digits_npz[1], samples=12)
    assert "weights are not the ANN's" in result.note
    assert {layer.share for layer in result.layers} == {None}
    assert all(layer.rate is not None for layer in result.layers)


@pytest.mark.parametrize("form", ["matmul", "counts"])
def test_another_ann_is_told_apart(
    form: str, forms: dict[str, Path], digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    proto = onnx.load(CNN)
    weight = proto.graph.initializer[0]
    array = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(array * np.float32(1.2), weight.name))
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match=r"fires otherwise.*is other.onnx the ANN"):
        diagnose(tmp_path / "other.onnx", forms[form], digits_npz[1], samples=12)


def test_an_ann_is_no_snn(digits_npz: tuple[Path, Path]) -> None:
    with pytest.raises(ModelError, match="no spiking neurons"):
        diagnose(CNN, CNN, digits_npz[1])


def test_qcfs_at_its_own_levels_has_lost_nothing(
    digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    ann = digits_model_path("digits_qcfs_l8")
    convert(ann, tmp_path / "snn.onnx", steps=8, data=digits_npz[0])
    result = diagnose(ann, tmp_path / "snn.onnx", digits_npz[1], samples=12)
    assert result.agreement == 1.0
    assert all((layer.activation_db or 200) > 60 for layer in result.layers)

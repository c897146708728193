"""Finetuning the digits network: closer to the ANN, repeatable, and whole downstream."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from graphpass import Conversion, convert
from graphpass.calibration.optimal import BLENDS
from graphpass.model import load
from graphpass.verification import verify
from graphpass_models.digits import INPUT_NAME, Digits, digits_model_path
from graphpass_runtime.errors import ModelError, OptionError

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

Convert = Callable[..., Conversion]


@pytest.fixture(scope="module")
def batches(digits: Digits) -> list[dict[str, np.ndarray]]:
    return [{INPUT_NAME: part} for part in np.array_split(digits.train_images[:640], 20)]


@pytest.fixture(scope="module")
def finetune(batches) -> Convert:
    pytest.importorskip("torch")

    def run(output: Path, **options) -> Conversion:
        chosen = {"steps": 1, "data": batches, "form": "counts", "threads": 1, **options}
        return convert(digits_model_path(), output, calibrate="finetune", **chosen)

    return run


@pytest.fixture(scope="module")
def finetuned(finetune: Convert, tmp_path_factory) -> tuple[Path, Conversion]:
    """A folder with the SNN and its stages, T = 1, default epochs; and what was reported."""
    folder = tmp_path_factory.mktemp("finetuned")
    return folder, finetune(folder / "snn.onnx", stages=folder)


def outputs(path: Path, images: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {INPUT_NAME: images})[0]


def test_agrees_better_with_the_ann_than_the_closed_form(finetuned, batches, digits, tmp_path):
    folder, _ = finetuned
    closed = tmp_path / "closed.onnx"
    convert(digits_model_path(), closed, steps=1, data=batches, form="counts", threads=1)
    wanted = outputs(digits_model_path(), digits.test_images)
    agreement, error = {}, {}
    for name, path in (("closed", closed), ("finetuned", folder / "snn.onnx")):
        found = outputs(path, digits.test_images)
        agreement[name] = float(np.mean(found.argmax(axis=1) == wanted.argmax(axis=1)))
        error[name] = float(np.square(found - wanted).sum() / np.square(wanted).sum())
    assert agreement["finetuned"] > agreement["closed"]
    assert error["finetuned"] < 0.85 * error["closed"]


def test_summary_says_what_was_learned_and_what_it_cost(finetuned):
    _, result = finetuned
    summary = result.to_json()["calibration"]
    assert summary["rule"] == "finetune"
    assert (summary["samples"], summary["held_out"], summary["seed"]) == (640, 64, 0)
    assert 1 <= summary["best_epoch"] <= summary["epochs"] <= 8
    assert summary["error_after"] < summary["error_before"]
    assert f"epoch {summary['best_epoch']} of {summary['epochs']}" in result.advice()
    # Each epoch runs the teacher once, and the student once forwards and once backwards.
    learned = summary["epochs"] * 0.9 * 4 + (summary["epochs"] + 1) * 0.1 * 2
    # Before, the closed form: a pass, half of one, and blends tried on a tenth of the images.
    trials = 10 * (summary["passes"] - learned - 1.5)
    assert trials == pytest.approx(round(trials), abs=0.2)
    assert 2 <= round(trials) <= len(BLENDS)


def test_weights_changed_and_steps_did_not(finetuned):
    folder, result = finetuned
    before, after = load(folder / "2-daqcfs.onnx"), load(folder / "3-calibrated.onnx")
    assert result.record.steps == 1
    assert all(neuron.firing_steps == 1 for neuron in result.record.neurons)
    changed = 0
    for old, new in zip(before.graph.nodes, after.graph.nodes, strict=True):
        assert old.op == new.op
        if old.op in ("Conv", "Gemm"):
            assert new.inputs[1].values.dtype == np.float32
            changed += not np.array_equal(old.inputs[1].values, new.inputs[1].values)
    assert changed == 5


@pytest.mark.parametrize("form", ["matmul", "sorted", "counts-cpu"])
def test_every_form_has_the_learned_counts(form, finetuned, digits, tmp_path):
    folder, _ = finetuned
    stage, other = folder / "3-calibrated.onnx", tmp_path / "other.onnx"
    convert(stage, other, form=form)
    data = [{INPUT_NAME: digits.test_images[:50]}]
    for reference in (stage, folder / "snn.onnx"):
        result = verify(reference, other, data)
        assert result.equal
        assert result.counts_compared > 0


def test_ann_is_no_reference_for_other_weights(finetuned, digits):
    folder, _ = finetuned
    with pytest.raises(ModelError, match="no reference for an SNN whose weights were finetuned"):
        verify(digits_model_path(), folder / "snn.onnx", [{INPUT_NAME: digits.test_images[:5]}])


def test_same_seed_same_bytes(finetune, tmp_path):
    content = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        finetune(tmp_path / f"{name}.onnx", epochs=1, seed=seed)
        content[name] = (tmp_path / f"{name}.onnx").read_bytes()
    assert content["a"] == content["b"]
    assert content["a"] != content["c"]


def test_what_learning_made_worse_is_not_kept(finetune, monkeypatch, batches, tmp_path):
    """With a rate that destroys the network the closed form stays, weights and all."""
    from graphpass.calibration.finetune import distillation

    monkeypatch.setattr(distillation, "WEIGHT_RATE", 50.0)
    result = finetune(tmp_path / "snn.onnx", stages=tmp_path / "finetuned")
    summary = result.record.calibration
    assert summary["best_epoch"] == 0
    assert summary["epochs"] == 8 * distillation.PATIENCE
    assert summary["error_after"] == summary["error_before"]
    closed = tmp_path / "closed.onnx"
    convert(digits_model_path(), closed, steps=1, data=batches, form="counts", threads=1)
    images = batches[0][INPUT_NAME]
    np.testing.assert_array_equal(outputs(tmp_path / "snn.onnx", images), outputs(closed, images))


def test_progress_is_told(finetune, batches, tmp_path):
    told: dict[str, list[int]] = {}

    def progress(title, samples):
        told[title] = [samples, 0]

        def advance(done):
            told[title][1] += done

        return advance

    # One epoch: of more, those that learning stops before would be told of, and not run.
    finetune(tmp_path / "snn.onnx", epochs=1, progress=progress)
    assert told["finetuning"] == [576, 576]


@pytest.mark.parametrize("options", [{"epochs": 0}, {"seed": -1}])
def test_options_that_make_no_sense(options, batches, tmp_path):
    with pytest.raises(OptionError, match=next(iter(options))):
        convert(digits_model_path(), tmp_path / "snn.onnx", steps=2, data=batches, **options)


def test_without_torch_the_error_says_what_to_install(batches, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(OptionError, match=r"needs PyTorch; pip install graphpass\[export\]"):
        convert(
            digits_model_path(), tmp_path / "snn.onnx", steps=2, data=batches, calibrate="finetune"
        )
    assert list(tmp_path.iterdir()) == []

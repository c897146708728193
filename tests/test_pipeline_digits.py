"""The digits networks from end to end: stage files, resuming from them, and the SNN alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from graphpass import Session, convert, verify
from graphpass.options import Options
from graphpass_models.digits import Digits, digits_model_path
from graphpass_runtime.errors import DataError, OptionError
from graphpass_runtime.metadata import Stage

FORMS = ("matmul", "sorted", "counts")
CNN = digits_model_path("digits_cnn")
QCFS = ("digits_qcfs_l8", "digits_qcfs_l8_dynamo")
STAGES = ("0-normalised", "1-clip", "2-daqcfs", "3-calibrated", "4-spiking")
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def converted(
    digits_npz: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """digits_cnn at T = 4: the SNN and the folder of its stages."""
    folder = tmp_path_factory.mktemp("converted")
    convert(
        *(CNN, folder / "snn.onnx"),
        **{"steps": 4, "data": digits_npz[0], "stages": folder / "stages", "calibrate": "paper"},
    )
    return folder / "snn.onnx", folder / "stages"


def test_stages_are_five_valid_models_that_run_bare(
    converted: tuple[Path, Path], digits: Digits, bare_run: Run
) -> None:
    snn, folder = converted
    assert sorted(p.name for p in folder.iterdir()) == [f"{name}.onnx" for name in STAGES]
    feeds = {"image": digits.test_images[:20]}
    ann = bare_run(CNN, feeds)["logits"]
    logits = {}
    for name in STAGES:
        onnx.checker.check_model(str(folder / f"{name}.onnx"), full_check=True)
        logits[name] = bare_run(folder / f"{name}.onnx", feeds)["logits"]
    np.testing.assert_allclose(logits["0-normalised"], ann, rtol=1e-4, atol=1e-4)
    assert not np.allclose(logits["2-daqcfs"], ann, atol=1e-2)
    assert not np.allclose(logits["3-calibrated"], logits["2-daqcfs"], atol=1e-4)
    np.testing.assert_allclose(logits["4-spiking"], logits["3-calibrated"], atol=1e-4)
    assert (folder / "4-spiking.onnx").read_bytes() == snn.read_bytes()


def test_clip_stage_changes_nothing_on_the_calibration_data(
    converted: tuple[Path, Path], digits: Digits, bare_run: Run
) -> None:
    feeds = {"image": digits.train_images[:100]}
    clipped = bare_run(converted[1] / "1-clip.onnx", feeds)["logits"]
    np.testing.assert_allclose(clipped, bare_run(CNN, feeds)["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stage", STAGES[:4])
def test_every_stage_file_leads_to_the_same_bytes(
    stage: str, converted: tuple[Path, Path], digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    snn, folder = converted
    measures = {"data": digits_npz[0], "calibrate": "paper"} if stage < "3" else {}
    convert(
        folder / f"{stage}.onnx",
        tmp_path / "snn.onnx",
        steps=4 if stage < "2" else None,
        stages=tmp_path / "stages",
        **measures,
    )
    assert (tmp_path / "snn.onnx").read_bytes() == snn.read_bytes()
    later = [name for name in STAGES if name > stage]
    assert sorted(p.stem for p in (tmp_path / "stages").iterdir()) == later
    for name in later:
        assert (tmp_path / "stages" / f"{name}.onnx").read_bytes() == (
            folder / f"{name}.onnx"
        ).read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_another_form_from_stage_3_without_data(
    form: str, converted: tuple[Path, Path], digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    result = convert(converted[1] / "3-calibrated.onnx", tmp_path / "snn.onnx", form=form)
    assert result.record.form == form
    assert result.record.steps == 4
    found = verify(converted[0], tmp_path / "snn.onnx", digits_npz[1])
    assert found.equal
    assert found.argmax_agreement == 1.0
    assert found.counts_compared == 60 * sum(_sizes(tmp_path / "snn.onnx"))


def _sizes(snn: Path) -> list[int]:
    x = np.zeros((1, 1, 8, 8), np.float32)
    return [counts[0].size for counts in Session(snn).spike_counts({"image": x}).values()]


def test_stage_file_for_another_t_is_refused(converted: tuple[Path, Path], tmp_path: Path) -> None:
    for stage, options in (("2-daqcfs", {"calibrate": "none"}), ("3-calibrated", {})):
        with pytest.raises(OptionError, match=r"made for T = 4, not 8.*1-clip\.onnx"):
            convert(converted[1] / f"{stage}.onnx", tmp_path / "snn.onnx", steps=8, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settled_by", "option"),
    [
        ("0-normalised", {"rounded_currents": "drop"}),
        ("1-clip", {"first_activation": "spiking"}),
        ("1-clip", {"keep": ["relu1"]}),
        ("1-clip", {"islands": "allow"}),
        ("2-daqcfs", {"levels": {"relu1": 2}}),
        ("2-daqcfs", {"population": 2}),
        ("3-calibrated", {"calibrate": "none"}),
        ("3-calibrated", {"threshold": "max"}),
    ],
)
def test_options_that_a_stage_file_has_settled_are_refused(
    converted: tuple[Path, Path], settled_by: str, option: dict[str, Any], tmp_path: Path
) -> None:
    """They would do nothing, without a word."""
    (name,) = option
    for stage in STAGES[STAGES.index(settled_by) : -1]:
        with pytest.raises(OptionError) as refused:
            convert(converted[1] / f"{stage}.onnx", tmp_path / "snn.onnx", steps=4, **option)
        assert f"--{name.replace('_', '-')} comes too late" in str(refused.value)
        assert f"a file of stage {stage}" in str(refused.value)
    for stage in STAGES[: STAGES.index(settled_by)]:  # in time
        Options(**option).check_unsettled(Stage(stage))
    Options(**option).check_unsettled(None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", FORMS)
def test_drop_in_replacement(
    form: str, digits: Digits, digits_npz: tuple[Path, Path], bare_run: Run, tmp_path: Path
) -> None:
    snn = tmp_path / "snn.onnx"
    convert(CNN, snn, steps=4, data=digits_npz[0], form=form)
    ours, theirs = (
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for path in (snn, CNN)
    )
    for own, other in (
        (ours.get_inputs(), theirs.get_inputs()),
        (ours.get_outputs(), theirs.get_outputs()),
    ):
        assert [(t.name, t.type, t.shape[1:]) for t in own] == [
            (t.name, t.type, t.shape[1:]) for t in other
        ]
        assert all(isinstance(t.shape[0], str) for t in own)
    x = digits.test_images
    one_by_one = [ours.run(None, {"image": x[i : i + 1]})[0] for i in range(7)]
    for size in (1, 3, 7, 2):  # one session, a batch that changes between calls
        together = ours.run(None, {"image": x[:size]})[0]
        assert together.shape == (size, 10)
        np.testing.assert_allclose(together, np.concatenate(one_by_one[:size]), atol=1e-4)


def test_snn_runs_where_graphpass_is_not(
    converted: tuple[Path, Path], digits: Digits, bare_run: Run, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", digits.test_images[:3])
    script = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"graphpass", "graphpass_runtime", "onnx",
                                      "onnx_graphsurgeon", "torch"}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocker())
import numpy, onnxruntime
try:
    import graphpass_runtime
except ImportError:
    pass
else:
    raise SystemExit("the blocker does not block")
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
numpy.save(sys.argv[3], session.run(None, {"image": numpy.load(sys.argv[2])})[0])
"""
    subprocess.run(
        [
            *(sys.executable, "-c", script, str(converted[0])),
            *(str(tmp_path / "x.npy"), str(tmp_path / "y.npy")),
        ],
        check=True,
        cwd=tmp_path,
    )
    expected = bare_run(converted[0], {"image": digits.test_images[:3]})["logits"]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)


@pytest.mark.parametrize("name", QCFS)
@pytest.mark.parametrize("form", FORMS)
def test_qcfs_at_its_own_levels_is_lossless_and_needs_no_data(
    name: str,
    form: str,
    digits: Digits,
    digits_npz: tuple[Path, Path],
    bare_run: Run,
    tmp_path: Path,
) -> None:
    ann, snn = digits_model_path(name), tmp_path / "snn.onnx"
    result = convert(ann, snn, steps=8, form=form)
    assert [a.status for a in result.activations] == ["converted"] * 4
    assert [n.trained_levels for n in result.record.neurons] == [8] * 4
    assert result.record.calibration == {"rule": "none"}
    found = verify(ann, snn, digits_npz[1])
    assert found.equal
    assert (found.samples, found.layers, found.origin_unexplained) == (60, 4, 0)
    assert found.argmax_agreement == 1.0
    feeds = {"image": digits.test_images}
    ours, theirs = bare_run(snn, feeds)["logits"], bare_run(ann, feeds)["logits"]
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() >= 0.998
    if found.origin_near_tie == 0:
        np.testing.assert_allclose(ours[:60], theirs[:60], atol=1e-4)


@pytest.mark.parametrize("name", QCFS)
def test_qcfs_thresholds_are_those_that_were_trained(name: str, tmp_path: Path) -> None:
    # models/README.md: "the four thresholds learned are 1.52, 1.58, 1.53 and 2.02".
    record = convert(digits_model_path(name), tmp_path / "snn.onnx", steps=8).record
    learned = [float(neuron.threshold.max()) for neuron in record.neurons]
    np.testing.assert_allclose(learned, [1.52, 1.58, 1.53, 2.02], atol=0.005)


def test_qcfs_at_other_levels_needs_data(digits_npz: tuple[Path, Path], tmp_path: Path) -> None:
    ann = digits_model_path("digits_qcfs_l8")
    with pytest.raises(DataError, match=r"needed.*--data, or --steps 8, which is lossless, or"):
        convert(ann, tmp_path / "snn.onnx", steps=4, calibrate="paper")
    assert list(tmp_path.iterdir()) == []
    plain = convert(ann, tmp_path / "plain.onnx", steps=4, calibrate="none").record
    record = convert(
        ann, tmp_path / "snn.onnx", steps=4, data=digits_npz[0], passes=3, calibrate="paper"
    ).record
    assert record.calibration["rule"] == "paper"
    assert record.calibration["batches"] == 30
    assert all(np.abs(n.amplitude * 4 - n.threshold).max() > 1e-3 for n in record.neurons)
    assert any(np.abs(n.shift).max() > 1e-3 for n in record.neurons[1:])
    for own, bare in zip(record.neurons, plain.neurons, strict=True):
        np.testing.assert_array_equal(own.threshold, bare.threshold)
        assert not bare.shift.any()
    assert verify(ann, tmp_path / "snn.onnx", digits_npz[1]).equal

"""The default calibration on a real small network: better than the others, and repeatable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from graphpass import Session, convert
from graphpass.calibration import optimal, tails, threshold_rules
from graphpass.calibration.histogram import BINS, Histogram
from graphpass.calibration.recording import Trial
from graphpass.model import load
from graphpass_models.digits import INPUT_NAME, digits_model_path, load_digits
from graphpass_runtime.errors import OptionError

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")


@pytest.fixture(scope="module")
def batches() -> list[dict[str, np.ndarray]]:
    images = load_digits().train_images[:640]
    return [{INPUT_NAME: images[start : start + 32]} for start in range(0, 640, 32)]


def _error(snn: Path) -> float:
    """Relative error of the outputs on held-out digits."""
    images = load_digits().test_images[:200]
    wanted, found = (
        next(iter(Session(path).run({INPUT_NAME: images}).values()))
        for path in (digits_model_path(), snn)
    )
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_output_is_closer_to_the_ann_than_with_any_other_rule(steps, batches, tmp_path):
    errors = {}
    for rule in ("optimal", "paper", "none"):
        output = tmp_path / f"{rule}.onnx"
        convert(
            digits_model_path(), output, steps=steps, data=batches, calibrate=rule, form="counts"
        )
        errors[rule] = _error(output)
    assert errors["optimal"] < min(errors["paper"], errors["none"])


def test_with_many_steps_hardly_anything_is_left_to_correct(batches, tmp_path):
    output = tmp_path / "snn.onnx"
    result = convert(digits_model_path(), output, steps=256, data=batches, form="counts")
    for neuron in result.record.neurons:
        assert np.abs(neuron.shift).max() < 0.01 * neuron.threshold.max()
    assert _error(output) < 0.01


def test_same_data_same_bytes(batches, tmp_path):
    outputs = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for output in outputs:
        convert(digits_model_path(), output, steps=4, data=batches, threads=1)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_summary_says_what_was_chosen_and_what_it_cost(batches, tmp_path):
    result = convert(digits_model_path(), tmp_path / "snn.onnx", steps=4, data=batches)
    summary = result.record.calibration
    assert summary["rule"] == "optimal"
    assert summary["samples"] == 640
    assert summary["errors"][str(summary["blend"])] == min(summary["errors"].values())
    trials = 64 * len(summary["errors"])
    matched = 10 * 32  # every second batch
    assert summary["passes"] == round((640 + trials + matched - 64) / 640, 2)


@pytest.mark.parametrize("last", [0.4, 0.3])
def test_trials_end_where_the_error_falls_no_more(last, monkeypatch):
    tried = []
    shares = {0.0: np.inf, 0.125: 0.4, 0.25: 0.3, 0.5: last, 1.0: 0.1}

    class Matcher:
        def run(self, blend, feeds, wanted):
            tried.append(blend)
            return [feeds + np.float32(np.sqrt(shares[blend]))], wanted + blend

    monkeypatch.setattr(optimal, "blended", lambda _shares, blend: blend)
    monkeypatch.setattr(optimal, "with_thresholds", lambda _seen, blend: blend)
    told: list[int] = []
    measuring = SimpleNamespace(progress=lambda _title, _total: told.append)
    one = np.ones(1, np.float32)
    seen = SimpleNamespace(kept=32, trials={7: Trial(one, [one])}, paired={7: 10.0})
    best, errors = optimal.best_blend(seen, {}, Matcher(), measuring)
    assert errors == pytest.approx({b: shares[b] for b in tried}, rel=1e-5)
    assert tried == [0.0, 0.125, 0.25, 0.5]
    assert (best.blend, best.error, best.moments) == (0.25, errors[0.25], {7: 10.25})
    assert sum(told) == len(optimal.BLENDS) * 32  # the progress bar ends full


def test_currents_of_the_trials_are_not_measured_again(batches, tmp_path, monkeypatch):
    """What the best blend's trials gave is what a run for it alone gives."""
    stages = tmp_path / "stages"
    convert(
        digits_model_path(), tmp_path / "snn.onnx", steps=4, data=batches, stages=stages, threads=1
    )
    known, own_moments = [], optimal.own_moments

    def again(seen, judged, matcher, measuring):
        known.append(list(judged.moments))
        return own_moments(seen, replace(judged, moments={}), matcher, measuring)

    monkeypatch.setattr(optimal, "own_moments", again)
    convert(stages / "2-daqcfs.onnx", tmp_path / "again.onnx", data=batches, threads=1)
    assert known == [[0, 2]]  # of 32 images each, an eighth of all and at most 64
    records = [load(tmp_path / name).record for name in ("snn.onnx", "again.onnx")]
    for once, twice in zip(records[0].neurons, records[1].neurons, strict=True):
        np.testing.assert_array_equal(once.shift, twice.shift)
        np.testing.assert_array_equal(once.threshold, twice.threshold)


def test_channels_follow_their_layer_where_the_network_bounds_currents():
    """Where bounds are the largest currents recorded, room is left for larger ones."""
    counts = np.zeros((2, BINS), np.int64)
    counts[0, 5] = 1  # fired once, unlike the other one
    counts[1] = np.arange(BINS, 0, -1)
    histogram = Histogram(np.ones(2), counts)
    shares = optimal.threshold_shares(
        SimpleNamespace(  # type: ignore[arg-type]
            neurons=dict.fromkeys(("clip", "relu"), SimpleNamespace(levels=8)),
            histograms=dict.fromkeys(("clip", "relu"), histogram),
            fractions={"relu": 1.0},
            unbounded={"relu"},
            moments=lambda: dict.fromkeys(("clip", "relu")),
        ),
        "mse",
    )
    assert threshold_rules.squared_error(histogram, 8)[0] < 0.05
    assert shares["clip"][0] > 0.5
    roomy = threshold_rules.squared_error(histogram, 8, tails.unseen(histogram))
    np.testing.assert_array_equal(shares["relu"], roomy)


@pytest.mark.parametrize("threshold", optimal.THRESHOLDS)
def test_every_rule_of_thresholds_beats_none(threshold, batches, tmp_path):
    errors = {}
    for options in ({"threshold": threshold}, {"calibrate": "none"}):
        output = tmp_path / "snn.onnx"
        result = convert(
            digits_model_path(), output, steps=4, data=batches, form="counts", **options
        )
        errors[result.record.calibration["rule"]] = _error(output)
        if "threshold" in options:
            assert result.record.calibration["threshold"] == threshold
            assert ("blend" in result.record.calibration) == (threshold == "blend")
    assert errors["optimal"] < errors["none"]


def test_rules_order_the_thresholds(batches, tmp_path):
    found = {}
    for threshold in ("max", "percentile", "mse"):
        result = convert(
            digits_model_path(), tmp_path / "snn.onnx", steps=4, data=batches, threshold=threshold
        )
        found[threshold] = float(np.mean([n.threshold.mean() for n in result.record.neurons]))
    assert found["max"] > found["percentile"] > found["mse"]


@pytest.mark.parametrize("calibrate", ["paper", "none"])
def test_threshold_belongs_to_optimal(calibrate, batches, tmp_path):
    with pytest.raises(OptionError, match=f"leave it out: --calibrate {calibrate} has its own"):
        convert(
            digits_model_path(),
            tmp_path / "snn.onnx",
            steps=4,
            data=batches,
            calibrate=calibrate,
            threshold="max",
        )


#: Inputs without positions: 32 of them show 32 currents of each neuron.
DENSE = """g (float[N,16] x) => (float[N,8] y) {
    a = MatMul(x, w1)
    r = Relu(a)
    b = MatMul(r, w2)
    c = Clip(b, zero, top)
    y = MatMul(c, w3)
}"""


@pytest.fixture
def dense(write_model) -> Path:
    rng = np.random.default_rng(3)
    shapes = {"w1": (16, 64), "w2": (64, 64), "w3": (64, 8)}
    weights = {k: rng.normal(size=s, scale=s[0] ** -0.5) for k, s in shapes.items()}
    numbers = {"zero": 0.0, "top": 1.0}
    return write_model(DENSE, {k: np.float32(v) for k, v in (weights | numbers).items()})


@pytest.fixture
def few() -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """32 inputs to calibrate with, and others."""
    drawn = np.random.default_rng(5).normal(size=(532, 16)).astype(np.float32)
    return [{"x": row[None]} for row in drawn[:32]], drawn[32:]


def test_room_above_the_largest_current_only_where_the_net_sets_no_bound(dense, few, tmp_path):
    recorded = {}
    for rule, options in {"none": {"calibrate": "none"}, "mse": {"threshold": "mse"}}.items():
        result = convert(
            *(dense, tmp_path / "snn.onnx"),
            **{"steps": 64, "data": few[0], "first_activation": "spiking", "population": 1},
            **options,
        )
        recorded[rule] = {neuron.name: neuron.threshold for neuron in result.record.neurons}
    assert (recorded["mse"]["r"] > 1.1 * recorded["none"]["r"]).mean() > 0.5
    assert (recorded["mse"]["c"] > 1.02 * recorded["none"]["c"]).mean() < 0.1


def test_few_inputs_leave_less_error_than_clipping_at_the_largest(dense, few, tmp_path):
    wanted = next(iter(Session(dense).run({"x": few[1]}).values()))
    errors = {}
    for threshold in ("blend", "max"):
        output = tmp_path / f"{threshold}.onnx"
        convert(
            *(dense, output),
            **{"steps": 64, "data": few[0], "first_activation": "spiking"},
            threshold=threshold,
        )
        found = next(iter(Session(output).run({"x": few[1]}).values()))
        errors[threshold] = float(np.linalg.norm(found - wanted))
    assert errors["blend"] < 0.6 * errors["max"]

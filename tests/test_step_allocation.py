"""Steps for each layer: within the budget, where the error falls most, the same in all forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphpass import Session, convert, convert_allocated, verify
from graphpass.step_allocation import allocate
from graphpass_models.digits import Digits, digits_model_path
from graphpass_runtime.errors import OptionError

CNN = digits_model_path("digits_cnn")
CHOICES = (1, 2, 3, 4, 6, 8)


def falling(scale: float) -> dict[int, float]:
    return {steps: scale / steps**2 for steps in CHOICES}


def test_alike_layers_get_the_same() -> None:
    errors = {name: falling(1.0) for name in "abcd"}
    assert allocate(errors, dict.fromkeys("abcd", 5), 4.0) == dict.fromkeys("abcd", 4)


def test_sensitive_layers_get_more_and_dear_ones_less() -> None:
    errors = {"dull": falling(0.01), "keen": falling(1.0)}
    assert allocate(errors, {"dull": 10, "keen": 10}, 3.0) == {"dull": 2, "keen": 4}
    errors = {"cheap": falling(1.0), "dear": falling(1.0)}
    assert allocate(errors, {"cheap": 10, "dear": 60}, 3.0) == {"cheap": 8, "dear": 2}


@pytest.mark.parametrize("seed", range(20))
def test_the_budget_holds_and_no_step_more_would_fit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"layer{i}" for i in range(8)]
    errors = {name: dict(zip(CHOICES, rng.uniform(size=6).tolist(), strict=True)) for name in names}
    work = {name: int(rng.integers(0, 50)) for name in names}
    budget = float(rng.uniform(1, 8))
    steps = allocate(errors, work, budget)
    spent = sum(work[name] * steps[name] for name in names)
    assert spent <= budget * sum(work.values()) + 1e-9
    for name in names:
        for more in [count for count in CHOICES if count > steps[name]]:
            dearer = spent + work[name] * (more - steps[name]) > budget * sum(work.values())
            assert dearer or errors[name][more] >= errors[name][steps[name]]


def test_more_steps_that_do_not_help_are_not_given() -> None:
    assert allocate({"a": {1: 0.5, 2: 0.7, 4: 0.5}}, {"a": 3}, 8.0) == {"a": 1}


def test_a_step_that_does_not_help_is_jumped_over() -> None:
    assert allocate({"a": {1: 0.5, 2: 0.7, 4: 0.1}}, {"a": 3}, 8.0) == {"a": 4}


def test_digits(digits: Digits, digits_npz: tuple[Path, Path], tmp_path: Path) -> None:
    snn = tmp_path / "snn.onnx"
    common: dict[str, Any] = {"data": digits_npz[0], "first_activation": "spiking"}
    result, found = convert_allocated(CNN, snn, 3.0, stages=tmp_path / "stages", **common)
    assert len(found.steps) == len(found.work) == len(found.errors) == 4
    assert found.mean <= 3.0
    assert len(set(found.steps.values())) > 1
    assert result.record.steps == max(found.steps.values())
    assert {n.population: n.firing_steps for n in result.record.neurons} == found.steps
    mean = sum(found.work[n] * s for n, s in found.steps.items()) / sum(found.work.values())
    assert found.mean == pytest.approx(mean)
    for choices in found.errors.values():  # alone, a layer at many steps is better than at few
        assert choices[max(choices)] < choices[min(choices)]
    assert verify(CNN, snn, digits_npz[1], samples=20).equal
    convert(tmp_path / "stages" / "3-calibrated.onnx", tmp_path / "counts.onnx", form="counts")
    assert verify(snn, tmp_path / "counts.onnx", digits_npz[1], samples=20, strict=True).equal
    _, again = convert_allocated(CNN, tmp_path / "again.onnx", 3.0, **common)
    assert again == found
    assert (tmp_path / "again.onnx").read_bytes() == snn.read_bytes()
    assert Session(snn).record is not None


@pytest.mark.parametrize(
    ("budget", "options", "words"),
    [
        (0.5, {}, "use 1 to 1024"),
        (4.0, {"steps": 4}, "give --budget alone"),
        (4.0, {"data": None}, "give --data"),
        (4.0, {"data": iter([])}, "can be read again"),
        (4.0, {"method": "qcfs"}, "one --steps T for all layers"),
    ],
)
def test_options_that_make_no_sense(
    budget: float,
    options: dict[str, Any],
    words: str,
    digits_npz: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(OptionError, match=words):
        convert_allocated(CNN, tmp_path / "x.onnx", budget, **{"data": digits_npz[0]} | options)
    assert list(tmp_path.iterdir()) == []

"""The smallest T within a limit: what the search measures, keeps apart and promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphpass import Session, convert, convert_within, evaluate, step_search
from graphpass.step_search import CANDIDATES, StepSearch
from graphpass_models.digits import Digits, digits_model_path
from graphpass_runtime.data import open_data
from graphpass_runtime.errors import DataError, GraphpassError, OptionError

CNN = digits_model_path("digits_cnn")


@pytest.fixture(scope="module")
def labelled(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 training digits with labels."""
    path = tmp_path_factory.mktemp("labelled") / "train.npz"
    np.savez(path, image=digits.train_images[:400], labels=digits.train_labels[:400])
    return path


class Ladder:
    """Losses by T, and what was asked."""

    def __init__(self, losses: dict[int, float]) -> None:
        self.asked: list[int] = []
        self._losses = losses

    def loss(self, steps: int) -> float:
        self.asked.append(steps)
        return self._losses[steps]


def bisect(losses: dict[int, float], limit: float, form: str = "counts") -> tuple[StepSearch, Any]:
    ladder = Ladder(losses)
    search = StepSearch(limit, "accuracy", 100)
    return step_search._bisect(ladder, search, form), ladder  # type: ignore[arg-type]


@pytest.mark.parametrize("wanted", CANDIDATES)
def test_falling_losses_give_the_smallest(wanted: int) -> None:
    losses = {steps: 100.0 / steps for steps in CANDIDATES}
    found, ladder = bisect(losses, 100.0 / wanted)
    assert found.steps == wanted
    assert len(ladder.asked) <= 5
    assert sorted(ladder.asked) == [trial.steps for trial in found.tried]


@pytest.mark.parametrize("seed", range(20))
def test_any_losses_the_answer_and_what_is_below_it_were_measured(seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses = {steps: float(rng.uniform(0, 3)) for steps in CANDIDATES}
    found, _ = bisect(losses, 1.0)
    tried = {trial.steps: trial.loss for trial in found.tried}
    if found.steps is None:
        assert tried[CANDIDATES[-1]] > 1.0
        return
    assert tried[found.steps] <= 1.0
    below = CANDIDATES[: CANDIDATES.index(found.steps)]
    assert not below or tried[below[-1]] > 1.0


def test_candidates_stop_at_what_the_form_can() -> None:
    losses = dict.fromkeys(CANDIDATES, 9.0)
    found, ladder = bisect(losses, 1.0, "int8")
    assert found.steps is None
    assert max(ladder.asked) == 192


def test_digits(labelled: Path, digits: Digits, tmp_path: Path) -> None:
    snn = tmp_path / "snn.onnx"
    result, search = convert_within(CNN, snn, 2.0, data=labelled, form="counts")
    assert search.measure == "accuracy"
    assert search.samples == 100
    assert result.record.steps == search.steps == Session(snn).record.steps  # type: ignore[union-attr]
    held = np.arange(400) % 4 == 3
    feeds = {"image": digits.train_images[:400], "labels": digits.train_labels[:400]}
    judges = open_data([{k: v[held] for k, v in feeds.items()}], Session(CNN).inputs)
    ann, own = (evaluate(Session(path), judges).accuracy for path in (CNN, snn))
    assert ann is not None
    assert own is not None
    (trial,) = (t for t in search.tried if t.steps == search.steps)
    assert trial.loss == pytest.approx(100 * (ann - own))
    assert trial.loss <= 2.0
    # What is judged does not calibrate, and what is judged is what is written.
    rest = tmp_path / "rest.npz"
    np.savez(rest, image=feeds["image"][~held])
    convert(CNN, tmp_path / "again.onnx", steps=search.steps, data=rest, form="counts")
    assert (tmp_path / "again.onnx").read_bytes() == snn.read_bytes()


def test_without_labels_agreement_on_data_of_its_own(
    digits: Digits, digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    judges = tmp_path / "judges.npz"
    np.savez(judges, image=digits.test_images[:50])
    common: dict[str, Any] = {"data": digits_npz[0], "eval_data": judges}
    _, search = convert_within(CNN, tmp_path / "snn.onnx", 4.0, **common)
    assert (search.measure, search.samples) == ("agreement", 50)
    found = evaluate(
        Session(tmp_path / "snn.onnx"),
        open_data(judges, Session(CNN).inputs),
        reference=Session(CNN),
    )
    assert found.agreement is not None
    assert found.agreement >= 0.96
    convert(CNN, tmp_path / "all.onnx", steps=search.steps, data=digits_npz[0])
    assert (tmp_path / "all.onnx").read_bytes() == (tmp_path / "snn.onnx").read_bytes()


def test_nothing_within(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_search, "CANDIDATES", (1, 2))
    with pytest.raises(OptionError, match=r"no T up to 2 loses at most 0 points of accuracy \(T ="):
        convert_within(CNN, tmp_path / "snn.onnx", 0.0, data=labelled, calibrate="none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 4}, "drop --steps"),
        ({"data": None}, "give --data"),
        ({"max_drop": -1.0}, "use 0 to 100"),
        ({"max_drop": float("nan")}, "use 0 to 100"),
    ],
)
def test_options_that_make_no_sense(
    options: dict[str, Any], words: str, labelled: Path, tmp_path: Path
) -> None:
    given = {"max_drop": 1.0, "data": labelled} | options
    limit = given.pop("max_drop")
    with pytest.raises(OptionError, match=words):
        convert_within(CNN, tmp_path / "snn.onnx", limit, **given)


def test_an_iterable_cannot_be_split(digits: Digits, tmp_path: Path) -> None:
    data = [{"image": digits.train_images[:32]}]
    with pytest.raises(DataError, match="cannot be held out"):
        convert_within(CNN, tmp_path / "snn.onnx", 1.0, data=data)


def test_outputs_without_classes(
    write_model: Callable[..., Path], digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    ann = write_model(
        "g (float[N,3] x) => (float[N,1] y) { h = Relu(x) z = MatMul(h, w) y = Relu(z) }",
        {"w": np.ones((3, 1), np.float32)},
    )
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(40, 3)).astype("f4"))
    with pytest.raises(GraphpassError, match="classes to choose from"):
        convert_within(ann, tmp_path / "snn.onnx", 1.0, data=tmp_path / "x.npz")

"""The smallest number of time-steps whose loss stays within a limit.

Candidates are bisected as if the loss fell with T. That it does so is not assumed of the
answer: the T that is found was measured to stay within the limit, and the next smaller
candidate not to. A still smaller one that happens to stay within it, too, may be missed. The
loss is measured on samples that calibration does not see, so it is an estimate, with the
sampling error of so many samples.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from graphpass.forms import ALL_FORMS, FORMS
from graphpass.model import check_before_running
from graphpass.options import Options, unsettled
from graphpass.pipeline import Conversion, convert
from graphpass_runtime.data import Dataset
from graphpass_runtime.errors import OptionError
from graphpass_runtime.evaluation import evaluate
from graphpass_runtime.metadata import Stage
from graphpass_runtime.model_data import Data, PathLike, open_model_data
from graphpass_runtime.session import Session

CANDIDATES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
HELD_OUT = 4  # one sample in so many judges, where there is no data for that alone
_BATCH = 50


@dataclass(frozen=True)
class Trial:
    """A number of time-steps, and the loss that was measured, in points."""

    steps: int
    loss: float


@dataclass(frozen=True)
class StepSearch:
    """How T was found.

    Attributes:
        max_drop: the limit, in points.
        measure: ``accuracy`` (the loss is the ANN's less the SNN's) or ``agreement`` (share
            of samples that the SNN answers otherwise than the ANN).
        samples: how many judged.
        tried: what was measured, smallest T first.
        steps: the smallest of them within the limit; None if there is none.
    """

    max_drop: float
    measure: str
    samples: int
    tried: tuple[Trial, ...] = ()
    steps: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def convert_within(
    ann: PathLike,
    output: PathLike,
    max_drop: float,
    *,
    eval_data: Data | None = None,
    **options: Any,
) -> tuple[Conversion, StepSearch]:
    """Convert an ANN with the fewest time-steps that lose no more than so many points.

    Args:
        ann: an ONNX file.
        output: where the SNN goes.
        max_drop: points (0 to 100) of accuracy that may be lost, where there are labels;
            without, the share of answers that may differ from the ANN's.
        eval_data: what the loss is measured on; by default every fourth sample of the
            calibration data, which then calibrates on the others.
        **options: those of `graphpass.convert`, without `steps`; `data` is needed.

    Raises:
        OptionError: no number of time-steps stays within the limit, or options that
            contradict each other.
        GraphpassError: as `graphpass.convert`.
    """
    chosen = Options(**options)
    chosen.check()
    if chosen.steps is not None:
        raise OptionError("--max-drop finds the number of time-steps", remedy="drop --steps")
    if not 0.0 <= max_drop <= 100.0:
        raise OptionError(f"max-drop is {max_drop} points", remedy="use 0 to 100")
    if chosen.data is None:
        raise OptionError("--max-drop measures a loss", remedy="give --data")
    reference = _session(ann, chosen)
    files = [(ann, reference.record)]

    def opened(data: Data, samples: int | None = None) -> Dataset:
        return open_model_data(data, reference.inputs, files, chosen.preprocess, samples)

    calibration = opened(chosen.data, chosen.samples)
    if eval_data is None:
        calibration, judges = calibration.hold_out(HELD_OUT)
    else:
        judges = opened(eval_data)
    given = options | {"data": calibration, "samples": None}
    with tempfile.TemporaryDirectory() as scratch:
        ladder = _Ladder(ann, reference, judges, given, Path(scratch))
        found = _bisect(ladder, replace(ladder.search, max_drop=max_drop), chosen.chosen_form)
    if found.steps is None:
        best = min(found.tried, key=lambda trial: trial.loss)
        raise OptionError(
            f"no T up to {found.tried[-1].steps} loses at most {max_drop:g} points of"
            f" {found.measure} (T = {best.steps} loses {best.loss:.2f})",
            remedy="allow a larger --max-drop, or give more calibration data",
        )
    return convert(ann, output, **given | {"steps": found.steps}), found


def _bisect(ladder: _Ladder, search: StepSearch, form: str) -> StepSearch:
    most = ALL_FORMS[form].most_steps or CANDIDATES[-1]
    candidates = [steps for steps in CANDIDATES if steps <= most]
    tried: dict[int, float] = {}
    low, high = -1, len(candidates)  # fails, passes
    while high - low > 1:
        middle = (low + high) // 2
        steps = candidates[middle]
        tried[steps] = ladder.loss(steps)
        low, high = (low, middle) if tried[steps] <= search.max_drop else (middle, high)
    trials = tuple(Trial(steps, tried[steps]) for steps in sorted(tried))
    return replace(search, tried=trials, steps=candidates[high] if high < len(candidates) else None)


class _Ladder:
    """Conversions at several T, judged on held-out samples."""

    def __init__(
        self,
        ann: PathLike,
        reference: Session,
        judges: Dataset,
        options: dict[str, Any],
        scratch: Path,
    ) -> None:
        self._start = ann
        self._reference = reference
        self._judges = judges
        self._scratch = scratch
        self._chosen = Options(**options)
        self._options = options | {"stages": scratch, "diagnose": False} | self._judged_form()
        of_ann = evaluate(reference, judges, batch=_BATCH)
        self._accuracy = of_ann.accuracy
        measure = "agreement" if of_ann.accuracy is None else "accuracy"
        self.search = StepSearch(0.0, measure, of_ann.samples)

    def loss(self, steps: int) -> float:
        """The loss at T, in points."""
        snn = self._scratch / "snn.onnx"
        convert(self._start, snn, **self._options | {"steps": steps})
        self._start = self._scratch / "1-clip.onnx"  # the same for every T
        self._options = unsettled(self._options, Stage.CLIP)
        session = _session(snn, self._chosen)
        advance = self._chosen.progress(f"judging T = {steps}", self._judges.samples)
        if self._accuracy is None:
            found = evaluate(
                session, self._judges, batch=_BATCH, reference=self._reference, progress=advance
            )
            if found.agreement is None:
                raise OptionError(
                    "--max-drop needs a network with classes to choose from",
                    remedy="give --steps, and compare with graphpass evaluate --reference",
                )
            return round(100.0 * (1.0 - found.agreement), 6)
        accuracy = evaluate(session, self._judges, batch=_BATCH, progress=advance).accuracy
        assert accuracy is not None, "the judges have labels"
        return round(100.0 * (self._accuracy - accuracy), 6)

    def _judged_form(self) -> dict[str, Any]:
        """Of forms that are the same network, the fastest stands for all."""
        form = FORMS.get(self._chosen.chosen_form)
        if form is None or not form.same or self._chosen.precision != "fp32":
            return {}
        return {"form": "counts"}


def _session(path: PathLike, chosen: Options) -> Session:
    check_before_running(path)
    return Session(path, provider=chosen.provider, threads=chosen.threads)

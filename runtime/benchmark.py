"""How fast models are, side by side.

Rounds are interleaved (A B C A B C ...), so that whatever else the machine does hits all
of them alike; a ratio is the median over rounds of the ratio within a round. Sessions
do not spin: idle threads of one would take the cores from the others. Peak memory is
measured in a process of its own for every model, see `peak_memory`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphpass_runtime.errors import DataError, ModelError, OptionError
from graphpass_runtime.feeds import Array, TensorSpec, batch_inputs
from graphpass_runtime.model_data import Data, PathLike, open_model_data
from graphpass_runtime.peak_memory import peak_memory
from graphpass_runtime.session import Session

_FEWEST_ROUNDS = 3
_MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Measurement:
    """One model at one batch size.

    Attributes:
        model: the model's path.
        batch: samples per run.
        rounds: how often it was timed.
        median_ms: median duration of a run, in milliseconds.
        iqr_ms: distance between the quartiles of the duration.
        ratio: median over rounds of the duration over the first model's.
        ratio_iqr: distance between the quartiles of that ratio.
        peak_mb: memory in MiB that the model took at its highest, weights included, over
            what ONNX Runtime takes anyway; None where it cannot be measured.
    """

    model: str
    batch: int
    rounds: int
    median_ms: float
    iqr_ms: float
    ratio: float
    ratio_iqr: float
    peak_mb: float | None


@dataclass(frozen=True)
class Benchmark:
    """What `bench` found, in the order of batch sizes, then models.

    Attributes:
        provider: what the models ran on.
        threads: threads of each, None for one per core.
        measurements: one for every model and batch size.
    """

    provider: str
    threads: int | None
    measurements: tuple[Measurement, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"measurements": [asdict(item) for item in self.measurements]}


def bench(
    models: Sequence[PathLike],
    *,
    batches: Sequence[int] = (1,),
    repeat: int = 20,
    threads: int | None = None,
    provider: str = "auto",
    data: Data | None = None,
    seconds: float | None = None,
    memory: bool = True,
    progress: Callable[[str, int | None], Callable[[int], None]] = lambda _t, _n: lambda _d: None,
) -> Benchmark:
    """Time models that take the same inputs.

    Args:
        models: paths of ONNX files; ratios are to the first.
        batches: batch sizes.
        repeat: rounds.
        threads: threads of every model.
        provider: ``auto``, ``cpu`` or ``cuda``.
        data: where the inputs come from, as for `evaluate`; by default they are random,
            normal, from a fixed seed.
        seconds: a model that has been timed for this long sits out the further rounds,
            after three at least (the first model never does).
        memory: measure peak memory too.
        progress: called with a title and a number of rounds when a batch size starts; what
            it returns is told the rounds done.

    Raises:
        OptionError: no models, or numbers below 1.
        ModelError: a model that does not load or run.
        DataError: models with other inputs than the first, inputs that random numbers
            cannot stand for, or data that does not fit.
    """
    if not models:
        raise OptionError("no models", remedy="name one or more ONNX files")
    for name, value in (("repeat", repeat), *(("batch", size) for size in batches)):
        if value < 1:
            raise OptionError(f"{name} is {value}", remedy="use 1 or more")
    paths = [Path(os.fspath(model)) for model in models]
    sessions = [Session(p, provider=provider, threads=threads, spinning=False) for p in paths]
    for session in sessions[1:]:
        _check_same_inputs(sessions[0], session)
    found: list[Measurement] = []
    for batch in batches:
        feeds = _feeds(sessions[0], paths[0], data, batch)
        advance = progress(f"batch {batch}", repeat)
        times = _rounds(sessions, feeds, repeat, seconds, advance)
        for path, session, own in zip(paths, sessions, times, strict=True):
            peak = None
            if memory:
                peak = peak_memory(path, feeds, threads=threads, provider=session.provider)
            found.append(_measurement(str(path), batch, own, times[0], peak))
    return Benchmark(sessions[0].provider, threads, tuple(found))


def _rounds(
    sessions: Sequence[Session],
    feeds: Mapping[str, Array],
    repeat: int,
    seconds: float | None,
    advance: Callable[[int], None],
) -> list[list[float]]:
    """Durations in seconds, per model; a shorter list ends earlier."""
    for session in sessions:
        session.run(feeds)  # warm-up: memory, and kernels chosen at the first run
    times: list[list[float]] = [[] for _ in sessions]
    for done in range(repeat):
        for index, session in enumerate(sessions):
            tired = seconds is not None and sum(times[index]) > seconds
            if index and tired and done >= _FEWEST_ROUNDS:
                continue
            start = time.perf_counter()
            session.run(feeds)
            times[index].append(time.perf_counter() - start)
        advance(1)
    return times


def _measurement(
    model: str, batch: int, times: list[float], first: list[float], peak: int | None
) -> Measurement:
    ratios = np.divide(times, first[: len(times)])
    return Measurement(
        model=model,
        batch=batch,
        rounds=len(times),
        median_ms=1e3 * float(np.median(times)),
        iqr_ms=1e3 * _spread(np.asarray(times)),
        ratio=float(np.median(ratios)),
        ratio_iqr=_spread(ratios),
        peak_mb=None if peak is None else peak / _MEGABYTE,
    )


def _spread(values: Array) -> float:
    low, high = np.percentile(values, [25, 75])
    return float(high - low)


def _check_same_inputs(first: Session, other: Session) -> None:
    def described(session: Session) -> dict[str, str]:
        return {spec.name: str(spec.dtype) for spec in session.inputs}

    if described(first) != described(other):
        raise DataError(
            f"has the inputs {_listed(other.inputs)}, but {first.where} has"
            f" {_listed(first.inputs)}",
            where=other.where,
            remedy="compare models that take the same inputs",
        )


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name!r} {spec}" for spec in specs)


def _feeds(session: Session, path: Path, data: Data | None, batch: int) -> dict[str, Array]:
    """One batch of data, or of random numbers."""
    if data is None:
        return random_feeds(session.inputs, batch, where=session.where)
    source = open_model_data(data, session.inputs, [(path, session.record)], None, batch)
    feeds = next(iter(source.batches(batch))).feeds
    if any(len(array) != batch for array in feeds.values()):
        raise DataError(f"has fewer than {batch} samples", remedy="give more data")
    return feeds


def random_feeds(
    specs: Sequence[TensorSpec], batch: int, *, seed: int = 0, where: str | None = None
) -> dict[str, Array]:
    """Normally distributed inputs, the same for the same seed.

    Raises:
        ModelError: an input that is not of floats, or has an axis of unknown size
            besides the batch.
    """
    rng = np.random.default_rng(seed)
    batched, _ = batch_inputs(specs)
    feeds = {}
    for spec in specs:
        shape = [batch if spec.name in batched else s for s in spec.shape[:1]]
        shape += list(spec.shape[1:])
        if spec.dtype.kind != "f" or not all(isinstance(size, int) for size in shape):
            raise ModelError(
                f"input {spec.name!r} is {spec}, for which no random numbers can be made up",
                where=where,
                remedy="give --data",
            )
        sizes = [size for size in shape if isinstance(size, int)]
        feeds[spec.name] = rng.normal(size=sizes).astype(spec.dtype)
    return feeds

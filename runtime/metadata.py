"""What a graphpass file says about itself.

A stage file or SNN carries its own description in the ONNX `metadata_props`,
under keys that start with ``graphpass.``. This module is the schema: the
compiler writes through `FileRecord.to_props`, and whoever runs the file reads
through `FileRecord.from_props`, from the string map that ONNX Runtime hands
out, without the `onnx` package.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphpass_runtime import plain_json
from graphpass_runtime.errors import ModelError
from graphpass_runtime.neuron import LARGEST_T, Neuron
from graphpass_runtime.plain_json import floats, integer, integer_or_none

SCHEMA_VERSION = 1
PREFIX = "graphpass."


class Stage(enum.StrEnum):
    """The stages of a conversion, in order; the value is the stage file's stem."""

    NORMALISED = "0-normalised"
    CLIP = "1-clip"
    DAQCFS = "2-daqcfs"
    CALIBRATED = "3-calibrated"
    SPIKING = "4-spiking"


@dataclass(frozen=True)
class State:
    """A tensor that one run of a file hands to the next; it starts at zero.

    Attributes:
        input: the input that takes it.
        output: the output that gives it.
        shape: its shape for one sample.
        batch_axis: the axis that grows with the batch, None when it does not.
    """

    input: str
    output: str
    shape: tuple[int, ...]
    batch_axis: int | None = None

    def shape_of(self, batch: int) -> tuple[int, ...]:
        """Its shape for a batch."""
        return tuple(
            size * batch if axis == self.batch_axis else size
            for axis, size in enumerate(self.shape)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "input": self.input,
            "output": self.output,
            "shape": list(self.shape),
            "batch_axis": self.batch_axis,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> State:
        """Inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: when a field is missing or malformed.
        """
        shape = tuple(integer(size, 1) for size in values["shape"])
        return cls(
            input=str(values["input"]),
            output=str(values["output"]),
            shape=shape,
            batch_axis=integer_or_none(values["batch_axis"], 0, len(shape) - 1),
        )


@dataclass(frozen=True, eq=False)
class FileRecord:
    """Everything that a graphpass file says about itself.

    Attributes:
        stage: which stage of the conversion wrote the file.
        steps: number of time-steps T; None before a T was chosen (stages 0 and 1).
        form: name of the spiking form (stage 4 only).
        activations: the verdict on every activation of the ANN, as plain JSON values
            (from stage 1 on).
        neurons: the spiking layers, in topological order (from stage 2 on).
        calibration: how the parameters were found, as plain JSON values.
        preprocess: how images become inputs, in the keys of Hugging Face's
            ``preprocessor_config.json``; None when not known.
        batch_norms: data-free statistics of stage 0: tensor name -> ``{"mean": [C],
            "std": [C]}`` of the BatchNormalization that wrote it before folding.
        peak_elements: elements per sample of the largest tensor, time included.
        states: what the file hands from one time-step to the next. A file with states
            computes one step: it is run T times, and its outputs count after the last.
        precision: what the file computes in, where that is not float32: ``fp16``.
        ranges: smallest and largest value of currents, by tensor name, for form ``int8``.
        means: mean per channel of what layers read, by tensor name, for the same form.
    """

    stage: Stage
    steps: int | None = None
    form: str | None = None
    activations: tuple[Mapping[str, Any], ...] = ()
    neurons: tuple[Neuron, ...] = ()
    calibration: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Mapping[str, Any] | None = None
    batch_norms: Mapping[str, Any] = field(default_factory=dict)
    peak_elements: int | None = None
    states: tuple[State, ...] = ()
    precision: str | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    means: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def not_finite(self) -> str | None:
        """What of the numbers is infinite or no number, if anything: it cannot be written."""
        for neuron in self.neurons:
            for key in ("threshold", "shift", "amplitude", "baseline"):
                array = getattr(neuron, key)
                if array is not None and not np.isfinite(array).all():
                    return f"the {key} of '{neuron.name}'"
        for name, ends in self.ranges.items():
            if not np.isfinite(ends).all():
                return f"the range of '{name}'"
        for name, mean in self.means.items():
            if not np.isfinite(mean).all():
                return f"the mean of '{name}'"
        return None

    def to_props(self) -> dict[str, str]:
        """The record as ONNX metadata entries, the same bytes for the same record."""
        values: dict[str, Any] = {
            "schema": SCHEMA_VERSION,
            "stage": self.stage.value,
            "steps": self.steps,
            "form": self.form,
            "activations": [dict(verdict) for verdict in self.activations] or None,
            "neurons": [neuron.to_json() for neuron in self.neurons] or None,
            "calibration": dict(self.calibration) or None,
            "preprocess": None if self.preprocess is None else dict(self.preprocess),
            "batch_norms": dict(self.batch_norms) or None,
            "peak_elements": self.peak_elements,
            "states": [state.to_json() for state in self.states] or None,
            "precision": self.precision,
            "ranges": {name: list(ends) for name, ends in self.ranges.items()} or None,
            "means": {name: list(mean) for name, mean in self.means.items()} or None,
        }
        return {
            PREFIX + key: value if isinstance(value, str) else plain_json.dump(value)
            for key, value in values.items()
            if value is not None
        }

    @classmethod
    def from_props(cls, props: Mapping[str, str], *, where: str | None = None) -> FileRecord | None:
        """Read a record back; None for a file that graphpass did not write.

        Args:
            props: the file's metadata entries, others' keys included.
            where: what to call the file in an error.

        Raises:
            ModelError: the entries are from a newer schema, or damaged.
        """
        own = {k[len(PREFIX) :]: v for k, v in props.items() if k.startswith(PREFIX)}
        if "schema" not in own:
            return None
        if own["schema"] != str(SCHEMA_VERSION):
            raise ModelError(
                f"graphpass metadata has schema {own['schema'][:20]},"
                f" this version reads {SCHEMA_VERSION}",
                where=where,
                remedy="update graphpass, or convert the ANN again",
            )
        try:
            record = cls(
                stage=Stage(own["stage"]),
                steps=integer_or_none(_load(own, "steps", int), 1, LARGEST_T),
                form=own.get("form"),
                activations=tuple(dict(v) for v in _load(own, "activations", list) or ()),
                neurons=tuple(Neuron.from_json(item) for item in _load(own, "neurons", list) or ()),
                calibration=_load(own, "calibration", dict) or {},
                preprocess=_load(own, "preprocess", dict),
                batch_norms={
                    name: {key: list(floats(found[key])) for key in ("mean", "std")}
                    for name, found in (_load(own, "batch_norms", dict) or {}).items()
                },
                peak_elements=integer_or_none(_load(own, "peak_elements", int), 1, 2**63 - 1),
                states=tuple(State.from_json(item) for item in _load(own, "states", list) or ()),
                precision=own.get("precision"),
                ranges={
                    name: _ends(*floats(ends))
                    for name, ends in (_load(own, "ranges", dict) or {}).items()
                },
                means={
                    name: floats(mean) for name, mean in (_load(own, "means", dict) or {}).items()
                },
            )
            record._check()
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ModelError(
                f"graphpass metadata is damaged ({type(error).__name__}: {error})",
                where=where,
                remedy="convert the ANN again",
            ) from error
        return record

    def _check(self) -> None:
        """Do the neurons agree with each other?

        Raises:
            ValueError: they do not.
        """
        if len({neuron.name for neuron in self.neurons}) != len(self.neurons):
            raise ValueError("a neuron is given twice")
        if len({neuron.carrier for neuron in self.neurons}) > 1:
            raise ValueError("neurons send different things")
        populations: dict[str, list[Neuron]] = {}
        for neuron in self.neurons:
            if neuron.member:
                populations.setdefault(neuron.population, []).append(neuron)
        for name, members in populations.items():
            wanted = list(range(1, members[0].members + 1))
            if [neuron.member for neuron in members] != wanted or any(
                not neuron.is_like(members[0]) for neuron in members
            ):
                raise ValueError(f"the population {name} is not whole")


def _ends(low: float, high: float) -> tuple[float, float]:
    if low > high:
        raise ValueError("a range ends before it begins")
    return low, high


def _load(own: Mapping[str, str], key: str, kind: type) -> Any:
    return plain_json.load(own[key], kind) if key in own else None

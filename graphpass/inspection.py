"""What is in a file, and what a conversion would make of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from graphpass import dialect, editing, stages
from graphpass.model import Model, infer_shapes, load
from graphpass.plan import Activation, make_plan
from graphpass.timeflow import TimeFlow, infer
from graphpass_runtime.errors import ModelError
from graphpass_runtime.metadata import Stage
from graphpass_runtime.model_data import PathLike


@dataclass(frozen=True)
class TensorReport:
    """A tensor: name, shape (None for unknown sizes) and its type in time flow."""

    name: str
    shape: tuple[int | str | None, ...]
    kind: str
    batch_axis: int | None
    channel_axis: int | None


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    Attributes:
        model: name of the file.
        stage: stage of a graphpass file, None for a foreign ANN.
        form: form of an SNN, else None.
        steps: T, where the file has one.
        opset: version of the standard operator set.
        inputs: name -> dtype and shape, as text.
        outputs: the same.
        activations: what would become, or became, of each.
        tensors: time types in topological order. For a foreign ANN these are the tensors
            of its normalised graph.
        refused: what stands in the way, one line each.
    """

    model: str
    stage: str | None
    form: str | None
    steps: int | None
    opset: int
    inputs: dict[str, str]
    outputs: dict[str, str]
    activations: tuple[Activation, ...]
    tensors: tuple[TensorReport, ...]
    refused: tuple[str, ...]

    @property
    def convertible(self) -> bool:
        """Would `convert` go through, or has it?"""
        return not self.refused

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"convertible": self.convertible}


def inspect(
    path: PathLike, *, keep: Collection[str] = (), first_activation: str = "analog"
) -> Inspection:
    """Look at an ANN, a stage file or an SNN without running it.

    Args:
        path: the ONNX file.
        keep: activations that would be kept, as for `graphpass.convert`.
        first_activation: ``analog`` or ``spiking``, as for `graphpass.convert`.

    Raises:
        ModelError: the file cannot be read.
        OptionError: a name in `keep` is no activation.
    """
    model = load(path)
    interface = _interface(model)
    stage = model.record.stage if model.record else None
    if stage in (None, Stage.NORMALISED):
        if stage is None:
            stages.normalise(model)
        activations, flow, refused = _foresee(model, keep, first_activation)
    else:
        infer_shapes(model)
        flow, refused = infer(model, _neurons(model)), ()
        assert model.record is not None, "a stage file has a record"
        activations = tuple(Activation(**verdict) for verdict in model.record.activations)
    return Inspection(
        model=model.name,
        stage=stage.value if stage else None,
        form=model.record.form if model.record else None,
        steps=model.record.steps if model.record else None,
        opset=model.opset,
        inputs=interface[0],
        outputs=interface[1],
        activations=activations,
        tensors=_tensors(flow),
        refused=refused,
    )


def _interface(model: Model) -> tuple[dict[str, str], dict[str, str]]:
    graph = model.graph
    return (
        {t.name: f"{t.dtype}{_text(t.shape)}" for t in graph.inputs},
        {t.name: f"{t.dtype}{_text(t.shape)}" for t in graph.outputs},
    )


def _text(shape: list[Any] | None) -> str:
    return "[?]" if shape is None else "[" + ",".join(str(s or "?") for s in shape) + "]"


def _foresee(
    model: Model, keep: Collection[str], first_activation: str
) -> tuple[tuple[Activation, ...], TimeFlow, tuple[str, ...]]:
    try:
        plan = make_plan(model, keep=keep, first_activation=first_activation)
    except ModelError as error:  # nothing to convert: still worth looking at
        return (), infer(model, ()), (str(error),)
    return plan.activations, plan.flow, tuple(str(refused) for refused in plan.refused)


def _neurons(model: Model) -> list[str]:
    return [
        node.outputs[0].name
        for node in model.graph.nodes
        if editing.is_dialect(node, *dialect.NEURONS)
    ]


def _tensors(flow: TimeFlow) -> tuple[TensorReport, ...]:
    return tuple(
        TensorReport(
            name, tuple(flow.shapes.get(name, ())), kind.kind, kind.batch_axis, kind.channel_axis
        )
        for name, kind in flow.types.items()
        if name
    )

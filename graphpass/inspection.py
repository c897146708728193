"""What is in a file, and what a conversion would make of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from graphpass import dialect, editing, stages
from graphpass.model import Model, infer_shapes, load
from graphpass.plan import ALLOW_ISLANDS, Plan, make_plan
from graphpass.timeflow import TimeFlow, infer
from graphpass.verdicts import Activation, recorded_verdicts
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
        outlook: what a conversion would do, and what would unlock the rest, one line each;
            empty for a file that is converted already.
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
    outlook: tuple[str, ...] = ()

    @property
    def convertible(self) -> bool:
        """Would `convert` go through, or has it?"""
        return not self.refused

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"convertible": self.convertible}


def inspect(
    path: PathLike,
    *,
    keep: Collection[str] = (),
    first_activation: str = "analog",
    rounded_currents: str = "auto",
    islands: str = "forbid",
) -> Inspection:
    """Look at an ANN, a stage file or an SNN without running it.

    Args:
        path: the ONNX file.
        keep: activations that would be kept, as for `graphpass.convert`.
        first_activation: ``analog`` or ``spiking``, as for `graphpass.convert`.
        rounded_currents: ``spike``, ``drop`` or ``auto``, which is ``drop`` where T is not
            known, as for `graphpass.convert`; a stage file has been through it.
        islands: ``forbid`` or ``allow``, as for `graphpass.convert`.

    Raises:
        ModelError: the file cannot be read.
        OptionError: a name in `keep` is no activation.
    """
    model = load(path)
    interface = _interface(model)
    stage = model.record.stage if model.record else None
    if stage in (None, Stage.NORMALISED):
        if stage is None:
            stages.normalise(model, rounded_currents=rounded_currents)
        choices = {"keep": keep, "first_activation": first_activation, "islands": islands}
        foreseen, flow, refused, outlook = _foresee(model, choices)
        activations = (*recorded_verdicts(model), *foreseen)  # stage 0 knows what it dropped
    else:
        infer_shapes(model)
        flow, refused, outlook = infer(model, _neurons(model), islands=True), (), ()
        activations = recorded_verdicts(model)
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
        outlook=outlook,
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
    model: Model, choices: dict[str, Any]
) -> tuple[tuple[Activation, ...], TimeFlow, tuple[str, ...], tuple[str, ...]]:
    try:
        plan = make_plan(model, **choices)
    except ModelError as error:  # nothing to convert: still worth looking at
        return (), infer(model, ()), (str(error),), ()
    refused = tuple(str(node) for node in plan.refused)
    if not plan.refused:
        return plan.activations, plan.flow, refused, (f"convert: {_summary(plan)}",)
    return plan.activations, plan.flow, refused, (_unlock(model, choices),)


def _unlock(model: Model, choices: dict[str, Any]) -> str:
    """What would become of the model with islands."""
    try:
        plan = make_plan(model, **choices | {"islands": "allow"})
    except ModelError as error:
        return f"with {ALLOW_ISLANDS}: {error}"
    if plan.refused:
        return f"with {ALLOW_ISLANDS}: still refused: {plan.refused[0]}"
    return f"with {ALLOW_ISLANDS}: {_summary(plan)}"


def _summary(plan: Plan) -> str:
    """How many activations would spike, and what would compute on rates."""
    islands = [verdict for verdict in plan.activations if verdict.status == "island"]
    activations = len(plan.activations) - len(islands)
    text = f"converts, {len(plan.converted)} of {activations} activations spike"
    if not islands:
        return text
    operators = ", ".join(sorted({verdict.operator for verdict in islands}))
    known = [verdict.work for verdict in islands if verdict.work is not None]
    share = f", {100 * sum(known):.1f} % of the work" if len(known) == len(islands) else ""
    verb = "operator computes" if len(islands) == 1 else "operators compute"
    return f"{text}, {len(islands)} {verb} on rates ({operators}{share})"


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

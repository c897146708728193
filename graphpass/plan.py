"""Which nodes are activations, and which of them become neurons.

The plan is made on the normalised graph, before anything is measured: one verdict
per activation, with a reason wherever it is not converted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from graphpass import dialect, editing
from graphpass.activation import channel_count, upper_bound
from graphpass.candidates import Candidates, find_candidates
from graphpass.model import Model
from graphpass.neurons import Ties
from graphpass.timeflow import Kind, Refusal, RefusedNode, TimeFlow, infer, rules_quantised
from graphpass.verdicts import Activation
from graphpass.work import island_shares
from graphpass_runtime.errors import GraphpassError, ModelError, OptionError

ALLOW_ISLANDS = "--islands allow"

#: Operators that the table shows where they are no part of a neuron.
_OTHERS = frozenset(
    "Celu Elu Erf Exp Gelu HardSigmoid HardSwish LeakyRelu Log Mish PRelu Selu Sigmoid Sign"
    " Softplus Softsign Sqrt Swish Tanh ThresholdedRelu Softmax LogSoftmax".split()
)


@dataclass(frozen=True)
class Plan:
    """What a conversion will do.

    Attributes:
        activations: one verdict each, in topological order.
        flow: time types with the converted activations as neurons.
        islands_would_help: whether nothing would stand in the way with islands allowed.
        functions: names of the converted activations that are scalar functions, neither
            rectifiers nor QCFS.
    """

    activations: tuple[Activation, ...]
    flow: TimeFlow
    islands_would_help: bool = False
    functions: tuple[str, ...] = ()

    @property
    def refused(self) -> list[RefusedNode]:
        """Nodes that stand in the way."""
        return self.flow.refused

    @property
    def converted(self) -> list[str]:
        """Names of the activations that become neurons."""
        return [a.name for a in self.activations if a.status == "converted"]

    @property
    def rectifiers(self) -> list[str]:
        """Names of the converted activations that need no function: Relu, Clip and QCFS."""
        return [name for name in self.converted if name not in self.functions]


class RefusedConversion(GraphpassError):
    """A conversion that would not be exact; carries the whole verdict table."""

    def __init__(self, plan: Plan, *, where: str):
        self.plan = plan
        first, *others = plan.refused
        more = f" (and {len(others)} more)" if others else ""
        remedy = first.refusal.remedy
        if plan.islands_would_help:
            remedy += f", or let it compute on rates ({ALLOW_ISLANDS})"
        super().__init__(
            f"{editing.describe(first.node)} {first.refusal.reason}{more}",
            where=where,
            remedy=remedy,
        )


def make_plan(
    model: Model,
    *,
    keep: Collection[str] = (),
    first_activation: str = "analog",
    islands: str = "forbid",
) -> Plan:
    """Decide what becomes of every activation of a normalised graph.

    Args:
        model: stage 0.
        keep: names of activations (or of their nodes) that stay analog.
        first_activation: ``analog`` leaves an activation that no other one precedes as it
            is, unless it is QCFS or nothing else would spike; ``spiking`` converts all.
        islands: ``forbid``, or ``allow``: what cannot compute in time computes on rates.

    Raises:
        OptionError: a name in `keep` is no activation.
        ModelError: there is no activation to convert, or none that can spike.
    """
    candidates = find_candidates(model)
    nodes = candidates.nodes
    kept = _kept_by_name(nodes, keep)
    if not [n for n in nodes if id(n) not in kept]:
        raise _nothing_to_convert(model, candidates)
    if first_activation == "analog":
        stem = _stem(nodes)
        if any(id(n) not in kept and id(n) not in stem for n in nodes):
            kept.update({i: why for i, why in stem.items() if i not in kept})
    chosen = {n.outputs[0].name: id(n) for n in nodes if id(n) not in kept}
    flow, spiking = _typed(model, candidates, chosen, islands == "allow")
    on_rates = _on_rates(flow)
    if flow.islands and on_rates.issuperset(spiking.values()):
        raise ModelError(
            f"has no activation that can spike: each {flow.islands[0].refusal.reason}",
            where=model.name,
            remedy=flow.islands[0].refusal.remedy,
        )
    helpful = False
    if flow.refused and islands != "allow":
        freed, rest = _typed(model, candidates, chosen, True)
        helpful = not freed.refused and not _on_rates(freed).issuperset(rest.values())
    functions = tuple(name for name, i in spiking.items() if i in candidates.functions)
    verdicts = _verdicts(model, candidates, kept, set(spiking.values()), flow)
    return Plan(tuple(verdicts), flow, helpful, functions)


def _typed(
    model: Model, candidates: Candidates, chosen: Mapping[str, int], islands: bool
) -> tuple[TimeFlow, dict[str, int]]:
    """Time flow, and which of the chosen activations spike, by name.

    Where islands are allowed, a function that no neuron can stand for is left to its
    operators, which compute on rates one by one like any others.
    """
    spiking = dict(chosen)
    while True:
        pairs = [name for name, i in spiking.items() if i in candidates.pairs]
        flow = infer(model, list(spiking), pairs, islands=islands)
        flow.refused = [_explained(each, candidates) for each in flow.refused]
        refused = {id(r.node) for r in flow.refused}
        unfit = {n for n, i in spiking.items() if i in refused and i in candidates.functions}
        if not islands or not unfit or len(unfit) == len(spiking):
            return flow, spiking
        spiking = {name: i for name, i in spiking.items() if name not in unfit}


def _explained(refused: RefusedNode, candidates: Candidates) -> RefusedNode:
    """Of a scalar function that neurons cannot stand for, say what it is about it."""
    reason = candidates.unfit.get(id(refused.node))
    if reason is None:
        return refused
    remedy = "use an activation that turns at most once, or keep the ones before it (--keep)"
    refusal = Refusal(f"belongs to a function of one current that {reason}", remedy)
    return RefusedNode(refused.node, refusal)


def _on_rates(flow: TimeFlow) -> set[int]:
    return {id(island.node) for island in flow.islands}


def _nothing_to_convert(model: Model, candidates: Candidates) -> ModelError:
    for node in model.graph.nodes:
        if (refusal := rules_quantised.hides_activations(node, model.opset)) is not None:
            return ModelError(
                f"{editing.describe(node)} {refusal.reason}",
                where=model.name,
                remedy=refusal.remedy,
            )
    for node in model.graph.nodes:
        bodies = list(node.subgraphs(recursive=True))
        inside = {n.op for body in bodies for n in body.nodes if n.op in _OTHERS | {"Relu", "Clip"}}
        if inside:
            return ModelError(
                f"{editing.describe(node)} has the activations ({', '.join(sorted(inside))}) in"
                " its bodies, which are not converted",
                where=model.name,
                remedy="export the network without control flow, or one branch of it",
            )
    for node in model.graph.nodes:
        if (reason := candidates.unfit.get(id(node))) is not None:
            return ModelError(
                f"has no activation to convert: {editing.describe(node)} belongs to a function of"
                f" one current that {reason}",
                where=model.name,
                remedy="use an activation that turns at most once",
            )
    found = sorted({n.op for n in model.graph.nodes if n.op in _OTHERS})
    others = f" (only {', '.join(found)}, as gates or not between layers)" if found else ""
    return ModelError(
        f"has no activation to convert{others}",
        where=model.name,
        remedy="graphpass converts Relu, Clip, QCFS and other activations between layers",
    )


def _kept_by_name(candidates: Iterable[gs.Node], keep: Collection[str]) -> dict[int, str]:
    names = {n.outputs[0].name: n for n in candidates} | {n.name: n for n in candidates if n.name}
    missing = [name for name in keep if name not in names]
    if missing:
        known = ", ".join(sorted({n.outputs[0].name for n in candidates})[:8])
        raise OptionError(
            f"there is no activation '{missing[0]}' to keep", remedy=f"activations are: {known}"
        )
    return {id(names[name]): "kept on request" for name in keep}


def _stem(candidates: Iterable[gs.Node]) -> dict[int, str]:
    """Activations that no other activation precedes, QCFS left out: it is exact."""
    after: set[int] = set()
    nodes = list(candidates)
    for node in nodes:
        waiting = [n for output in node.outputs for n in output.outputs]
        while waiting:
            reader = waiting.pop()
            if id(reader) not in after:
                after.add(id(reader))
                waiting += [n for output in reader.outputs for n in output.outputs]
    reason = "first activation: stays analog, as in the paper (--first-activation spiking)"
    return {
        id(n): reason
        for n in nodes
        if id(n) not in after and not editing.is_dialect(n, dialect.QCFS)
    }


def _verdicts(
    model: Model,
    candidates: Candidates,
    kept: Mapping[int, str],
    spiking: Collection[int],
    flow: TimeFlow,
) -> Iterable[Activation]:
    refused = {id(r.node): r.refusal for r in flow.refused}
    islands = {id(r.node): r.refusal for r in flow.islands}
    shares = island_shares(model, flow) if islands else {}
    for node in model.graph.nodes:
        if not node.outputs:
            continue
        name = node.outputs[0].name
        function = candidates.functions.get(id(node))
        operator = _operator(node) if function is None else function.operators
        if id(node) in refused:
            yield Activation(name, operator, "refused", refused[id(node)].reason)
        elif id(node) in islands:
            reason = f"computed on rates: {islands[id(node)].reason}"
            yield Activation(name, operator, "island", reason, work=shares[id(node)])
        elif id(node) in kept:
            yield Activation(name, operator, "kept", kept[id(node)])
        elif function is not None and id(node) in spiking:
            axis = flow.types[name].channel_axis
            channels = channel_count(function.source, axis)
            yield Activation(name, operator, "converted", channels=channels)
        elif id(node) in spiking:
            yield _converted(node, flow)
        elif id(node) in candidates.inside:
            continue
        elif node.op in _OTHERS and editing.is_standard(node, node.op):
            tail = flow.types[name].kind is Kind.RATE
            reason = "behind the last neuron: computed on rates" if tail else "reads no spikes"
            yield Activation(name, node.op, "kept", reason)


def _operator(node: gs.Node) -> str:
    """What a verdict calls an activation."""
    if editing.is_dialect(node, dialect.QCFS) and dialect.ties_of(node.op) is Ties.HALF_EVEN:
        return f"quantiser ({editing.scalar(node.inputs[2]):.0f} levels)"
    return str(node.op)


def _converted(node: gs.Node, flow: TimeFlow) -> Activation:
    source = node.inputs[0]
    channels = channel_count(source, flow.types[source.name].channel_axis)
    verdict = Activation(node.outputs[0].name, _operator(node), "converted", channels=channels)
    if (limit := upper_bound(node)) is not None:
        return replace(verdict, threshold_min=limit, threshold_max=limit)
    if editing.is_dialect(node, dialect.QCFS):
        theta = np.asarray(editing.values(node.inputs[1]))
        return replace(verdict, threshold_min=float(theta.min()), threshold_max=float(theta.max()))
    return verdict

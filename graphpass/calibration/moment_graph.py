"""Mean and variance of currents without data: moments sent through the network.

The network's own operators compute them, in a graph that stands two tensors, one of means
and one of variances, for every tensor between those whose moments are known and the
currents that are asked for:

- what only moves elements moves both;
- an affine operator takes the means as they are, zero padding and all, and the variances
  with its weights squared, as if its inputs were independent;
- an activation takes them in closed form, as if its input were normal;
- a maximum of k is that of k independent normal variables of the window's largest mean
  and variance.

So a mean is exact up to the shape of the distributions before it; a variance is only as
good as the independence. Both start again wherever moments are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from graphpass import large_weights
from graphpass.calibration import statistics
from graphpass.calibration.moment_rules import MomentRules, moving, parts
from graphpass.calibration.moments import Moments
from graphpass.model import Model, to_proto
from graphpass.running import OpenSession
from graphpass_runtime.errors import ModelError


@dataclass(frozen=True, eq=False)
class Known:
    """Moments that are known of a tensor, and the axis of its channels."""

    moments: Moments
    channel_axis: int | None


def recorded(model: Model) -> dict[str, Known]:
    """What stage 0 recorded of every BatchNormalization."""
    assert model.record is not None, "stage 0 has a record"
    known = {}
    for name, found in model.record.batch_norms.items():
        mean, std = (np.asarray(found[key], np.float64) for key in ("mean", "std"))
        if mean.shape == std.shape:
            known[name] = Known(Moments(mean, std), 1)
    return known


def currents(
    model: Model,
    channel_axes: Mapping[str, int | None],
    known: Mapping[str, Known],
    open_session: OpenSession,
) -> dict[str, Moments]:
    """Moments of the currents of some activations, per channel over all positions.

    Args:
        model: stage 0, 1 or 2.
        channel_axes: name of the activation -> axis of its channels.
        known: tensors whose moments are given; what lies before them is not looked at.
        open_session: runs a graph, as `graphpass.running.open_session`.

    Returns:
        Activation name -> moments of its current, of the pooled current where a MaxPool is
        all that reads the activation.

    Raises:
        ModelError: the moments of a current cannot be had, or are not finite; names the node.
    """
    build = _Build(model, known)
    wanted = {name: build.current(name) for name in channel_axes}
    tensors = list(dict.fromkeys(wanted.values()))  # two activations may read one current
    session = open_session(build.finish(tensors))
    found = session.run(build.feeds, [part for tensor in tensors for part in parts(tensor)])
    for name, tensor in wanted.items():
        if not all(np.isfinite(found[part]).all() for part in parts(tensor)):
            raise ModelError(
                f"the estimated mean or spread of the current of '{name}' is not finite",
                where=model.name,
                remedy="check the weights, or measure them: another --threshold, with --data",
            )
    return {
        name: _over_positions([found[part] for part in parts(tensor)], channel_axes[name])
        for name, tensor in wanted.items()
    }


def _over_positions(found: list[NDArray[Any]], channel_axis: int | None) -> Moments:
    """Moments per channel of what has a mean and a variance at every position."""

    def rows(array: NDArray[Any]) -> NDArray[np.float64]:
        wide = array.astype(np.float64)
        if channel_axis is None:
            return wide.reshape(1, -1)
        return np.moveaxis(wide, channel_axis, 0).reshape(wide.shape[channel_axis], -1)

    means, variances = (rows(array) for array in found)
    return Moments(means.mean(axis=1), np.sqrt(variances.mean(axis=1) + means.var(axis=1)))


class _Build:
    """The graph of moments while it grows, from the known tensors to the currents."""

    def __init__(self, model: Model, known: Mapping[str, Known]) -> None:
        self.proto = to_proto(model)
        self.feeds: dict[str, NDArray[np.float32]] = {}
        self._opset = model.opset
        self._known = known
        self._shapes = {n: list(t.shape or []) for n, t in model.graph.tensors().items()}
        graph = self.proto.graph
        self._constants = {t.name: large_weights.array_of(t) for t in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._made: set[str] = set()
        self._rules = MomentRules(self._constants, self._shape, model.name)

    def current(self, name: str) -> str:
        """The current of an activation, pooled if a MaxPool is all that reads the activation."""
        current = str(self._producers[name].input[0])
        self._reach(current)
        pool = statistics.pool_behind(self.proto, name)
        if pool is None:
            return current
        return self._rules.pooled(pool, current, f"{name}/pooled")

    def _reach(self, target: str) -> None:
        """Nodes for the moments of a tensor, and of all that it needs."""
        waiting = [target]
        while waiting:
            tensor = waiting[-1]
            if tensor in self._made:
                waiting.pop()
            elif tensor in self._known:
                self._given(tensor, self._known[tensor])
            elif tensor in self._constants:
                self._constant(tensor)
            elif missing := [t for t in self._read_for(tensor) if t not in self._made]:
                waiting += missing
            else:
                self._rules.write(self._producers[tensor])
                self._made.update(self._producers[tensor].output)

    def _read_for(self, tensor: str) -> list[str]:
        if tensor in self._producers:
            return moving(self._producers[tensor])
        reader = next(n for n in self.proto.graph.node if tensor in n.input)
        raise self._rules.refused(
            reader, f"reads '{tensor}', of which no BatchNormalization tells the statistics"
        )

    def _constant(self, tensor: str) -> None:
        mean, variance = parts(tensor)
        self._rules.constant(mean, self._constants[tensor])
        self._rules.constant(variance, np.zeros_like(self._constants[tensor]))
        self._made.add(tensor)

    def _given(self, tensor: str, known: Known) -> None:
        shape, axis = self._shape(tensor), known.channel_axis
        full = self._rules.constant(f"{tensor}/full_shape", np.array(shape, np.int64))
        vectors = (known.moments.mean, known.moments.spread**2)
        for output, vector in zip(parts(tensor), vectors, strict=True):
            fed, shaped = f"{output}/fed", f"{output}/shaped"
            self.feeds[fed] = vector.astype(np.float32)
            self._inputs.append(
                helper.make_tensor_value_info(fed, onnx.TensorProto.FLOAT, [vector.size])
            )
            self._rules.nodes += statistics.shaped(fed, shaped, rank=len(shape), channel_axis=axis)
            self._rules.add("Expand", [shaped, full], output)
        self._made.add(tensor)

    def _shape(self, tensor: str) -> list[int]:
        """Shape for a batch of one."""
        first, *rest = self._shapes.get(tensor) or [None]
        sizes = [first if isinstance(first, int) else 1, *rest]
        if not all(isinstance(size, int) for size in sizes):
            reader = next(n for n in self.proto.graph.node if tensor in (*n.output, *n.input))
            raise self._rules.refused(reader, f"has a tensor of unknown size, '{tensor}'")
        return sizes

    def finish(self, tensors: Iterable[str]) -> onnx.ModelProto:
        """The graph, with the moments of these tensors as outputs."""
        proto, graph, nodes = self.proto, self.proto.graph, self._rules.nodes
        del graph.output[:], graph.input[:], graph.value_info[:]
        graph.input.extend(self._inputs)
        for part in (part for tensor in tensors for part in parts(tensor)):
            info = helper.make_tensor_value_info(part, onnx.TensorProto.FLOAT, None)
            graph.output.append(info)
        statistics.replace_nodes(proto, nodes)
        used = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:], proto.functions[:], proto.metadata_props[:]
        graph.initializer.extend(kept)
        proto.functions.extend(self._rules.functions(self._opset))
        domains = sorted({function.domain for function in proto.functions})
        proto.opset_import.extend(helper.make_opsetid(domain, 1) for domain in domains)
        return proto

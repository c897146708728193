"""The rules of time flow, and the bounds of activations, against ONNX's own operator tests.

Each case there is one operator with data. Its node is asked about in every way that it could
stand in a network: any of its inputs varies in time, with the batch and the channels on any
axis; the others are constant, or carry the same batch. Where the rule says that time passes,
ONNX Runtime is asked too.
"""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.printer
import pytest
from numpy.typing import NDArray

from graphpass.activation import bounds
from graphpass.timeflow import Kind, Refusal
from graphpass.timeflow.view import known_operators

OPSETS = range(8, 27)


@dataclass(frozen=True)
class NodeCase:
    """An operator test: one node, and the data for each of its inputs ("" where left out)."""

    name: str
    node: onnx.NodeProto
    opset: int
    data: dict[str, NDArray]


@pytest.fixture(scope="module")
def node_cases(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[NodeCase]:
    folder = tmp_path_factory.mktemp("node_tests")
    with tarfile.open(shared_data / "onnx_node_tests.tar.gz") as archive:
        for member in archive:  # the filter "data" of extractall came with Python 3.11.4
            target = (folder / member.name).resolve()
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None and target.is_relative_to(folder):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
    found = []
    for path in sorted(folder.glob("*/model.onnx")):
        proto = onnx.load(path)
        opset = next(o.version for o in proto.opset_import if o.domain == "")
        if len(proto.graph.node) != 1 or opset not in OPSETS:
            continue
        data = {}
        for index, value in enumerate(proto.graph.input):
            tensor = onnx.load_tensor(path.parent / f"test_data_set_0/input_{index}.pb")
            data[value.name] = onnx.numpy_helper.to_array(tensor)
        found.append(NodeCase(path.parent.name, proto.graph.node[0], opset, data))
    return found


def _call(case: NodeCase, varying: str) -> tuple[str, str]:
    """Outputs and call in ONNX's text, with x for the input that varies."""
    node = onnx.NodeProto()
    node.CopyFrom(case.node)
    node.name = node.doc_string = ""
    node.input[:] = ["x" if n == varying else n and f"c_{n}" for n in node.input]
    outputs, _, call = onnx.printer.to_text(node).strip().partition(" = ")
    return outputs, call


def _ways(bench, case: NodeCase, kind: Kind) -> Iterator:
    """The case for every input that could vary, and every place of batch and channels."""
    for name, data in case.data.items():
        if data.dtype != np.float32 or list(case.node.input).count(name) != 1:
            continue
        outputs, call = _call(case, name)
        constants = {f"c_{other}": array for other, array in case.data.items() if other != name}
        # Of a current, nothing depends on where its channels are.
        channels = (None, *range(data.ndim)) if kind is Kind.SPIKES else (None,)
        for batch, channel in itertools.product(range(data.ndim), channels):
            if batch == channel:
                continue
            shape = _with_batch(data.shape, batch)
            alike = (data.dtype, data.shape)
            shared = [n for n, array in constants.items() if (array.dtype, array.shape) == alike]
            for static in ([], shared) if shared else ([],):
                yield bench.case(
                    call,
                    shape,
                    at=channel,
                    weights={n: array for n, array in constants.items() if n not in static},
                    static=dict.fromkeys(static, shape),
                    opset=case.opset,
                    outputs=outputs,
                    data=data,
                )


def _with_batch(shape: tuple[int, ...], axis: int) -> tuple[int | str, ...]:
    return tuple("N" if i == axis else size for i, size in enumerate(shape))


def _untrue(bench, way, kind: Kind) -> str | None:
    """What is wrong with what the rule says; None where it is right. Raises for a refusal."""
    steps = bench.steps(way)
    verdict = steps.verdict(kind)
    if isinstance(verdict, Refusal):
        raise LookupError(verdict.reason)
    if not verdict.varies or verdict.batch_axis is None:
        return f"time is lost: {verdict}"
    x = steps.trains() if kind is Kind.SPIKES else steps.currents()
    folded = steps.by_step(x, verdict.batch_axis)
    alone = np.stack([steps.run(step, 1) for step in x])
    if folded.shape != alone.shape or not np.allclose(folded, alone, rtol=1e-4, atol=1e-5):
        return "folded into the batch it computes something else"
    mean, of_mean = alone.mean(axis=0), steps.run(x.mean(axis=0), 1)
    if not np.allclose(mean, of_mean, rtol=1e-4, atol=1e-5 * max(1, np.abs(alone).max())):
        return "the mean over time does not pass"
    trains = verdict.kind is Kind.SPIKES and verdict.poolable
    if trains and not bench.are_trains(alone, verdict.channel_axis):
        return "what it calls spikes are no trains"
    return None


@pytest.mark.parametrize("kind", [Kind.CURRENT, Kind.SPIKES])
def test_what_a_rule_says_is_true(kind, bench, node_cases):
    known = set(known_operators())
    wrong, checked, refused = [], {}, {}
    for case in node_cases:
        if case.node.op_type not in known or case.node.domain:
            continue
        for way in _ways(bench, case, kind):
            try:
                problem = _untrue(bench, way, kind)
            except LookupError:
                refused[case.name] = refused.get(case.name, 0) + 1
                continue
            checked[case.name] = checked.get(case.name, 0) + 1
            if problem is not None:
                wrong.append(f"{case.name}: {way} with channels on {way.at}: {problem}")
    never = sorted(set(refused) - set(checked))
    assert wrong == []
    assert len(checked) >= LEAST_CHECKED[kind], never


#: Operator tests that some rule lets time pass through: fewer are a regression.
LEAST_CHECKED = {Kind.CURRENT: 74, Kind.SPIKES: 87}
LEAST_BOUNDED = 3


def test_bounds_of_activations_are_true(bench, node_cases):
    checked = []
    for case in node_cases:
        source = next(name for name in case.node.input if name)
        _, call = _call(case, source)
        constants = {f"c_{other}": array for other, array in case.data.items() if other != source}
        data = case.data[source]
        if data.dtype != np.float32:
            continue
        way = bench.case(call, data.shape, weights=constants, opset=case.opset)
        steps = bench.steps(way)
        interval = bounds(steps.model.graph.nodes[0])
        if interval is not None:
            low, high = interval
            expected = np.minimum(np.maximum(data, np.float32(low)), np.float32(high))
            np.testing.assert_array_equal(steps.run(data, 1), expected, err_msg=case.name)
            checked.append(case.name)
    assert len(checked) >= LEAST_BOUNDED, checked

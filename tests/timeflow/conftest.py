"""Rules of time flow against numbers.

A case is one operator on one tensor that varies in time. Its rule is asked for the type of
the output, and ONNX Runtime is asked whether that type is true: T steps folded into the
batch axis, time outermost, must come out folded into the batch axis that the rule names;
their mean must be what the operator makes of the mean; and what the rule calls poolable
spikes must be sorted trains whose amplitude varies along the named channel axis only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from graphpass.model import Model, from_proto, infer_shapes
from graphpass.timeflow import Kind, TimeFlow, TimeType, infer
from graphpass.timeflow.view import Verdict, View, find_rule

T, N = 4, 3
Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One operator `y = op` on x, whose shape has N where the batch is.

    Attributes:
        op: the call, as ONNX text.
        shape: shape of x; "N" is the batch, "W" another size that is not known.
        batch: where the batch lies in y.
        channel: where the channels lie in y.
        spikes: does a poolable train stay poolable?
        offset: is it a train plus a constant then?
        at: axis of x's channels.
        weights: shapes or values of constants.
        static: shapes of other inputs that are the same at every step.
        opset: version of the operators.
        outputs: names of all outputs of the operator; the first one is looked at.
        first: 0 where x comes first among the inputs, 1 where it comes second.
        currents: whether the operator takes currents too.
        inner: elements on the batch axis of y, per sample.
        data: values for x, to be varied in time, where they are not to be random.
    """

    op: str
    shape: tuple[int | str, ...]
    batch: int | None = 0
    channel: int | None = 1
    spikes: bool = False
    offset: bool = False
    at: int | None = 1
    weights: dict[str, Any] = field(default_factory=dict)
    static: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    opset: int = 17
    outputs: str = "y"
    currents: bool = True
    inner: int = 1
    data: Any = None

    @property
    def operator(self) -> str:
        return self.op.split()[0]

    def __str__(self) -> str:
        return f"{self.op} {list(self.shape)}, {self.opset}".replace(" ", "")


def _dims(shape: tuple[int | str, ...]) -> str:
    return ",".join(str(size) for size in shape)


class Steps:
    """Builds, types and runs the model of a case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        inputs = ", ".join(
            f"float[{_dims(s)}] {n}" for n, s in {"x": case.shape, **case.static}.items()
        )
        first = case.outputs.split(",")[0]
        kind = "double" if "<to = 11>" in case.op else "float"
        ir_version = 8 if case.opset <= 17 else 10
        self.proto = onnx.parser.parse_model(
            f'<ir_version: {ir_version}, opset_import: ["": {case.opset}]> g ({inputs}) =>'
            f" ({kind} {first}) {{ {case.outputs} = {case.op} }}"
        )
        rng = np.random.default_rng(3)
        for name, value in case.weights.items():
            given = isinstance(value, np.ndarray | np.generic)
            array = value if given else rng.uniform(0.5, 1.5, value).astype(np.float32)
            self.proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        del self.proto.graph.output[0].type.tensor_type.shape.dim[:]
        self.proto.graph.output[0].type.tensor_type.ClearField("shape")
        self.model = from_proto(onnx.ModelProto.FromString(self.proto.SerializeToString()))
        infer_shapes(self.model)

    def verdict(self, kind: Kind) -> Verdict:
        """What the rule says when x is of this kind."""
        (node,) = self.model.graph.nodes
        case = self.case
        batch = case.shape.index("N")
        of_x = TimeType(kind, batch, case.at, poolable=kind is Kind.SPIKES)
        types = []
        for tensor in node.inputs:
            shape = case.static.get(tensor.name)
            still = TimeType(Kind.STATIC, shape.index("N") if shape and "N" in shape else None)
            types.append(None if tensor.is_empty() else of_x if tensor.name == "x" else still)
        rule = find_rule(node)
        assert rule is not None, f"no rule for {node.op}"
        return rule(View(node, tuple(types), self.model.opset))

    def run(self, x: Array, steps: int) -> Array:
        """y for x, whose batch axis holds this many steps."""
        rng = np.random.default_rng(5)
        feeds = {"x": x}
        for name, shape in self.case.static.items():
            batch = self.sizes()[self.case.shape.index("N")]
            once = rng.uniform(0.5, 1.5, [batch if s == "N" else s for s in shape])
            repeats = [steps if s == "N" else 1 for s in shape]
            feeds[name] = np.tile(once, repeats).astype(np.float32)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        session = ort.InferenceSession(
            self.proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        (y,) = session.run(None, feeds)
        return np.asarray(y)

    def sizes(self) -> list[int]:
        if self.case.data is not None:
            return list(self.case.data.shape)
        free = {"N": N, "W": 5}
        return [free.get(str(size)) or int(size) for size in self.case.shape]

    def currents(self) -> Array:
        """[T, ...]: numbers without any structure."""
        values = np.random.default_rng(7).normal(size=(T, *self.sizes()))
        data = 1 if self.case.data is None else self.case.data
        return (values * data).astype(np.float32)

    def trains(self) -> Array:
        """[T, ...]: sorted trains with one amplitude per channel, of either sign."""
        rng, sizes = np.random.default_rng(11), self.sizes()
        counts = rng.integers(0, T + 1, sizes)
        fired = np.arange(T).reshape(T, *[1] * len(sizes)) >= T - counts
        along = [1] * len(sizes)
        if self.case.at is not None:
            along[self.case.at] = sizes[self.case.at]
        amplitude = rng.uniform(0.5, 2.0, along) * np.where(rng.random(along) < 0.3, -1, 1)
        return (fired * amplitude).astype(np.float32)

    def folded(self, x: Array) -> Array:
        """[T, ...] with time folded into the batch axis."""
        return np.concatenate(list(x), axis=self.case.shape.index("N"))

    def by_step(self, x: Array, batch_axis: int) -> Array:
        """[T, ...]: the operator on the folded tensor, unfolded again."""
        y = self.run(self.folded(x), T)
        assert y.shape[batch_axis] % T == 0
        return np.stack(np.split(y, T, axis=batch_axis))

    def mean_commutes(self, x: Array, batch_axis: int) -> None:
        mean = self.by_step(x, batch_axis).mean(axis=0)
        expected = self.run(x.mean(axis=0), 1)
        assert mean.shape == expected.shape
        np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-5)
        assert np.ptp(expected) > 0


def are_trains(y: Array, channel_axis: int | None) -> bool:
    """Are these [T, ...] sorted trains, with one amplitude for each channel?"""
    silent = y == 0
    if (silent[1:] & ~silent[:-1]).any():
        return False
    axes = [a for a in range(1, y.ndim) if channel_axis is None or a != channel_axis + 1]
    moved = np.moveaxis(y, [0, *axes], range(len(axes) + 1)) if channel_axis is not None else y
    channels = moved.reshape(-1, y.shape[channel_axis + 1] if channel_axis is not None else 1)
    if channel_axis is None:
        channels = y.reshape(-1, 1)
    return all(
        np.ptp(fired) <= 1e-5 * abs(fired).max()
        for column in channels.T
        if (fired := column[column != 0]).size
    )


def maximum_commutes(y: Array, batch_axis: int | None, channel_axis: int | None) -> None:
    """What poolable promises for [T, ...]: the mean of the maxima is the maximum of the means."""
    kept = {0} | {axis + 1 for axis in (batch_axis, channel_axis) if axis is not None}
    axes = tuple(axis for axis in range(y.ndim) if axis not in kept)
    means = y.mean(axis=0, keepdims=True)
    np.testing.assert_allclose(
        y.max(axis=axes, keepdims=True).mean(axis=0, keepdims=True),
        means.max(axis=axes, keepdims=True),
        rtol=1e-5,
        atol=1e-5,
    )


class FlowBench:
    """What the tests of time flow work with."""

    case = Case
    steps = Steps

    def are_trains(self, y: Array, channel_axis: int | None) -> bool:
        return are_trains(y, channel_axis)

    def maximum_commutes(self, y: Array, batch: int | None, channel: int | None) -> None:
        maximum_commutes(y, batch, channel)

    def model(self, text: str, opset: int = 17) -> Model:
        header = f'<ir_version: 8, opset_import: ["": {opset}, "graphpass": 1, "other": 1]>'
        model = from_proto(onnx.parser.parse_model(f"{header} {text}"), name="net.onnx")
        infer_shapes(model)
        return model

    def infer(self, text: str, neurons: list[str], opset: int = 17) -> TimeFlow:
        return infer(self.model(text, opset), neurons)


@pytest.fixture
def bench() -> FlowBench:
    return FlowBench()

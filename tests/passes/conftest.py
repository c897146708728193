"""Models as ONNX text, and the contract that every pass is held to.

The contract, checked by `Bench.changed` and `Bench.unchanged`: onnx.checker passes before
and after, ONNX Runtime gives the same outputs before and after at batch sizes 1, 3 and 1
again in one session, names of inputs and outputs stay, metadata of the model and of every
node that is still there stays, initializers that stay are not edited, and a second run
finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from graphpass import dialect, editing, stages
from graphpass.model import Model, from_proto, infer_shapes, to_bytes, to_proto
from graphpass.neurons import daqcfs
from graphpass.passes.base import Pass
from graphpass.passes.bound_activations import BoundActivations
from graphpass.plan import make_plan
from graphpass.timeflow import TimeFlow, infer
from graphpass_runtime.metadata import FileRecord, Stage

BATCHES = (1, 3, 1)
NEURONS = dialect.NEURONS
Make = Callable[[], Pass]
Proto = onnx.ModelProto


def parse(text: str, opset: int) -> Proto:
    ir_version = 8 if opset <= 17 else 10
    header = f'<ir_version: {ir_version}, opset_import: ["": {opset}, "graphpass": 1]>'
    return onnx.parser.parse_model(f"{header} {text}")


def copy(proto: Proto) -> Proto:
    again = Proto()
    again.CopyFrom(proto)
    return again


def annotate(proto: Proto) -> Proto:
    """Give the model and every node something that graphsurgeon would lose."""
    proto.metadata_props.add(key="author", value="somebody")
    proto.doc_string = "about the model"
    for node in proto.graph.node:
        node.doc_string = f"about {node.op_type} {node.output[0]}"
        node.metadata_props.add(key="origin", value=node.doc_string)
    return proto


def notes(proto: Proto) -> dict[tuple[str, str], tuple[str, list[str]]]:
    return {
        (node.op_type, node.output[0]): (
            node.doc_string,
            [f"{p.key}={p.value}" for p in node.metadata_props],
        )
        for node in proto.graph.node
        if node.domain != "graphpass"
    }


def interface(proto: Proto) -> tuple[list[str], list[str]]:
    return [v.name for v in proto.graph.input], [v.name for v in proto.graph.output]


def weights(proto: Proto) -> dict[str, bytes]:
    return {
        w.name: onnx.numpy_helper.to_array(w).tobytes() + str(w.dims).encode()
        for w in proto.graph.initializer
    }


class Bench:
    """What the tests of passes work with."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def proto(self, text: str, opset: int = 17) -> Proto:
        """An annotated, checked model."""
        proto = annotate(parse(text, opset))
        self.check(proto)
        return proto

    def model(self, source: str | Proto, opset: int = 17) -> Model:
        """The same as stage 0 has it when a pass starts."""
        proto = self.proto(source, opset) if isinstance(source, str) else source
        model = from_proto(copy(proto), name="test.onnx")
        model.record = FileRecord(Stage.NORMALISED)
        infer_shapes(model)
        return model

    def with_functions(self, text: str, opset: int = 17) -> Proto:
        """A model whose graphpass functions have bodies, so that ONNX Runtime can run it."""
        return annotate(to_proto(from_proto(parse(text, opset))))

    def half(self, text: str, opset: int = 17) -> Proto:
        """The same in half precision, which ONNX text cannot spell."""
        proto = self.proto(text, opset)
        for value in [*proto.graph.input, *proto.graph.output]:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
        for weight in proto.graph.initializer:
            array = onnx.numpy_helper.to_array(weight).astype(np.float16)
            weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
        return proto

    def check(self, proto: Proto) -> None:
        onnx.checker.check_model(proto, full_check=True)

    def ops(self, model: Model) -> list[str]:
        return [node.op for node in model.graph.nodes]

    def feeds(self, proto: Proto, batch: int) -> dict[str, NDArray[Any]]:
        """Random inputs; every symbol is the batch."""
        rng = np.random.default_rng(self._seed + batch)
        result = {}
        for value in proto.graph.input:
            dims = value.type.tensor_type.shape.dim
            shape = [d.dim_value if d.HasField("dim_value") else batch for d in dims]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            drawn = rng.normal(0.4, 1.5, shape)
            result[value.name] = np.asarray(np.round(drawn) if dtype.kind == "i" else drawn, dtype)
        return result

    def run(
        self, model: Model | Proto, batches: Sequence[int] = BATCHES
    ) -> Iterator[list[NDArray[Any]]]:
        """Outputs for each batch size, all from one session."""
        proto = to_proto(model) if isinstance(model, Model) else model
        session = self._session(proto)
        for batch in batches:
            yield session.run(None, self.feeds(proto, batch))

    def run_feeds(self, proto: Proto, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs for inputs that the test brings."""
        return list(self._session(proto).run(None, feeds))

    def _session(self, proto: Proto) -> ort.InferenceSession:
        self.check(proto)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        return ort.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def same_outputs(
        self,
        left: Model | Proto,
        right: Model | Proto,
        batches: Sequence[int] = BATCHES,
        *,
        atol: float = 1e-5,
    ) -> None:
        """Both give the same outputs for the same inputs."""
        pairs = list(zip(self.run(left, batches), self.run(right, batches), strict=True))
        for first, second in pairs:
            assert len(first) == len(second)
            for one, other in zip(first, second, strict=True):
                assert one.shape == other.shape
                assert one.dtype == other.dtype
                np.testing.assert_allclose(other, one, rtol=0, atol=atol)
        for output in zip(*(first for first, _ in pairs), strict=True):
            values = np.concatenate([array.ravel() for array in output])
            assert np.ptp(values) > 0, "an output that is always the same number"

    def changed(
        self,
        make: Make,
        text: str | Proto,
        opset: int = 17,
        batches: Sequence[int] = BATCHES,
        *,
        atol: float = 1e-5,
    ) -> Model:
        """Run a pass on a model that it must change; the model after it."""
        proto = self.proto(text, opset) if isinstance(text, str) else text
        model = self.model(proto)
        self._session(proto)  # what ONNX Runtime does not load, no pass can fold
        result = make()(model)
        assert result.modified
        assert result.model is model
        after = to_proto(model)
        self.same_outputs(proto, after, batches, atol=atol)
        self._same_surroundings(proto, after)
        content = to_bytes(model)
        assert not make()(model).modified, "a second run finds something"
        assert to_bytes(model) == content, "a second run changes something"
        return model

    def net(self, text: str, shapes: dict[str, tuple[int, ...]], opset: int = 17) -> Proto:
        """A model with random weights of these shapes."""
        proto = annotate(parse(text, opset))
        rng = np.random.default_rng(self._seed)
        for name, shape in shapes.items():
            array = rng.normal(0, 1.2 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        self.check(proto)
        return proto

    def clipped(
        self, proto: Proto, first_activation: str = "spiking", islands: str = "forbid"
    ) -> Model:
        """Stage 1; thresholds of Relus differ by channel."""
        model = from_proto(copy(proto), name="net.onnx")
        stages.normalise(model)
        plan = make_plan(model, first_activation=first_activation, islands=islands)
        assert bool(plan.flow.islands) is (islands == "allow")
        assert plan.converted
        assert not plan.refused, [str(refused) for refused in plan.refused]
        rng = np.random.default_rng(self._seed + 1)
        thresholds = {
            verdict.name: rng.uniform(0.7, 2.0, verdict.channels).astype(np.float32)
            for verdict in plan.activations
            if verdict.status == "converted"
        }
        BoundActivations(plan.converted, plan.flow, thresholds)(model)
        verdicts = tuple(verdict.to_json() for verdict in plan.activations)
        model.note(stage=Stage.CLIP, activations=verdicts)
        return model

    def calibrated(
        self,
        proto: Proto,
        steps: int = 4,
        first_activation: str = "spiking",
        islands: str = "forbid",
    ) -> Model:
        """Stage 3, with shifts and amplitudes that differ by channel."""
        model = self.clipped(proto, first_activation, islands)
        stages.quantise(model, steps)
        rng = np.random.default_rng(self._seed + 2)
        neurons = {}
        for neuron in model.record.neurons:
            shift = rng.normal(0, 0.1, neuron.channels).astype(np.float32)
            factor = rng.uniform(0.8, 1.2, neuron.channels).astype(np.float32)
            neurons[neuron.name] = replace(neuron, shift=shift, amplitude=neuron.amplitude * factor)
        for node in model.graph.nodes:
            if editing.is_dialect(node, dialect.DAQCFS):
                daqcfs.build(model, node, neurons[node.outputs[0].name])
        editing.tidy(model)
        infer_shapes(model)
        model.note(neurons=tuple(neurons.values()), stage=Stage.CALIBRATED)
        return model

    def copy(self, model: Model) -> Model:
        """The same as from a file."""
        again = from_proto(to_proto(model), name=model.name)
        infer_shapes(again)
        return again

    def emitted(self, model: Model, form: str) -> Model:
        """Stage 4 of a copy of stage 3."""
        again = self.copy(model)
        stages.emit(again, form)
        return again

    def flow(self, model: Model) -> TimeFlow:
        """Time flow with the neurons of whatever stage this is."""
        infer_shapes(model)
        names = [n.outputs[0].name for n in model.graph.nodes if editing.is_dialect(n, *NEURONS)]
        return infer(model, names)

    def flow_with_islands(self, model: Model) -> TimeFlow:
        """The same where islands are allowed."""
        names = [n.outputs[0].name for n in model.graph.nodes if editing.is_dialect(n, *NEURONS)]
        return infer(model, names, islands=True)

    def unchanged(self, make: Make, text: str | Proto, opset: int = 17) -> Model:
        """Run a pass on a model that it must leave alone."""
        proto = self.proto(text, opset) if isinstance(text, str) else text
        model = self.model(proto)
        nodes, content = self.ops(model), to_bytes(model)
        assert not make()(model).modified
        assert self.ops(model) == nodes
        assert to_bytes(model) == content
        self.check(to_proto(model))
        return model

    def _same_surroundings(self, before: Proto, after: Proto) -> None:
        assert interface(after) == interface(before)
        assert after.doc_string == before.doc_string
        kept = {p.key: p.value for p in after.metadata_props}
        assert {p.key: p.value for p in before.metadata_props}.items() <= kept.items()
        old, new = notes(before), notes(after)
        assert {key: new[key] for key in old.keys() & new} == {k: old[k] for k in old.keys() & new}
        told = {text for text, _ in old.values()}
        for key in new.keys() - old.keys():
            # A node that was rewritten may keep what was said about it, under its new name,
            # but nothing is said twice.
            assert new[key][0] in told | {""}
        said = [text for text, _ in new.values() if text]
        assert len(said) == len(set(said))
        first, second = weights(before), weights(after)
        shared = first.keys() & second
        assert {name: second[name] for name in shared} == {name: first[name] for name in shared}


@pytest.fixture
def bench() -> Bench:
    return Bench(seed=20)

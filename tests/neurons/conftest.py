"""Neuron parameters of one's own in an SNN, and the parallel neuron in exact fractions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from graphpass import Neuron, convert
from graphpass_runtime.metadata import FileRecord
from graphpass_runtime.neuron import Carrier


@dataclass(frozen=True)
class Layer:
    """Parameters of a neuron layer, per channel."""

    theta: list[float]
    psi_da: list[float]
    phi: list[float]


def exact(array: Any) -> Any:
    """Floats as fractions."""
    flat = [Fraction(float(value)) for value in np.asarray(array, np.float64).ravel()]
    return np.array(flat, object).reshape(np.shape(array))


def conversion_matrix(steps: int) -> Any:
    """Lambda_PC, eq. 8: 1/(T-x+1) everywhere in row x = 1..T."""
    rows = [[Fraction(1, steps - x + 1)] * steps for x in range(1, steps + 1)]
    return np.array(rows, object)


def parallel_neuron(current: Any, layer: Layer, channel_axis: int) -> tuple[Any, Any]:
    """Spikes and output trains [T, ...] for currents [T, ...], by eqs. 8 and 9.

    s[x] = H((Lambda_PC I)[x] + b_x - theta), b_x = (theta/2 + psi_DA T)/(T-x+1), and a
    spike carries theta + phi.
    """
    steps = len(current)
    shape = [1] * (current.ndim - 1)
    shape[channel_axis] = -1
    theta, psi_da, phi = (
        exact(np.array(v)).reshape(shape) for v in (layer.theta, layer.psi_da, layer.phi)
    )
    charge = conversion_matrix(steps).dot(exact(current).reshape(steps, -1))
    charge = charge.reshape(current.shape)
    spikes = np.empty(current.shape, bool)
    for x in range(1, steps + 1):
        b_x = (theta / 2 + psi_da * steps) / Fraction(steps - x + 1)
        spikes[x - 1] = charge[x - 1] + b_x - theta >= 0
    return spikes, spikes * (theta + phi).astype(np.float64)


def _record(proto: onnx.ModelProto) -> FileRecord:
    record = FileRecord.from_props({p.key: p.value for p in proto.metadata_props})
    assert record is not None
    return record


def _set(proto: onnx.ModelProto, layers: list[Layer], steps: int) -> None:
    """Write parameters into a stage 3 file: into its weights and into its record."""
    record = _record(proto)
    nodes = {node.output[0]: node for node in proto.graph.node}
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    neurons = []
    for neuron, layer in zip(record.neurons, layers, strict=True):
        theta, psi_da, phi = (
            np.array(v, np.float32) for v in (layer.theta, layer.psi_da, layer.phi)
        )
        amplitude = ((theta + phi) / np.float32(steps)).astype(np.float32)
        neurons.append(replace(neuron, threshold=theta, shift=psi_da, amplitude=amplitude))
        node = nodes[neuron.name]
        assert node.op_type == "DAQCFS"
        for name, array in zip(node.input[1:4], (theta, psi_da, amplitude), strict=True):
            shaped = array.reshape(onnx.numpy_helper.to_array(tensors[name]).shape)
            tensors[name].CopyFrom(onnx.numpy_helper.from_array(shaped, name))
    props = {p.key: p.value for p in proto.metadata_props}
    props |= replace(record, neurons=tuple(neurons)).to_props()
    onnx.helper.set_model_props(proto, props)


def folded(trains: Any, batch_axis: int = 0) -> Any:
    """[T, ...] -> the batch axis holds T*N rows, time outermost."""
    steps = trains.shape[0]
    moved = np.moveaxis(trains, 0, batch_axis)
    shape = list(trains.shape[1:])
    shape[batch_axis] *= steps
    return moved.reshape(shape)


class FormBench:
    """What the tests of the spiking forms work with."""

    layer = Layer

    def conversion_matrix(self, steps: int) -> Any:
        return conversion_matrix(steps)

    def parallel_neuron(self, current: Any, layer: Layer, channel_axis: int) -> tuple[Any, Any]:
        return parallel_neuron(current, layer, channel_axis)

    def run(self, proto: onnx.ModelProto, x: Any) -> list[Any]:
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return list(session.run(None, {"x": x}))

    def check(self, found: Any, spikes: Any, neuron: Neuron, batch_axis: int = 0) -> None:
        """What a form shows as its spikes equals the reference's, step by step."""
        if neuron.carrier is Carrier.TRAIN:
            np.testing.assert_array_equal(found, folded(spikes, batch_axis))
        else:
            np.testing.assert_array_equal(found, spikes.sum(axis=0))


@pytest.fixture
def bench() -> FormBench:
    return FormBench()


Spiking = Callable[..., tuple[onnx.ModelProto, tuple[Neuron, ...]]]


@pytest.fixture
def spiking(write_model: Callable[..., Path], tmp_path: Path) -> Spiking:
    """Make the SNN with given neuron parameters, the neurons' spikes among its outputs."""

    def make(
        text: str,
        weights: dict[str, Any],
        layers: list[Layer],
        steps: int,
        form: str,
        *,
        opset: int = 17,
        data: Any = None,
    ) -> Any:
        arrays = {k: np.asarray(v, np.float32) for k, v in weights.items()}
        ann, folder = write_model(text, arrays, opset=opset), tmp_path / "stages"
        convert(
            *(ann, tmp_path / "unused.onnx"),
            **{"steps": steps, "data": data, "calibrate": "none", "stages": folder},
            first_activation="spiking",
        )
        stage = onnx.load(folder / "3-calibrated.onnx")
        _set(stage, layers, steps)
        onnx.save(stage, folder / "own.onnx")
        convert(folder / "own.onnx", tmp_path / "snn.onnx", form=form)
        proto = onnx.load(tmp_path / "snn.onnx")
        neurons = _record(proto).neurons
        for neuron in neurons:
            proto.graph.output.append(onnx.ValueInfoProto(name=neuron.spikes))
        return proto, neurons

    return make

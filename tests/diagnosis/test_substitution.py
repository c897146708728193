"""Switches: all off is the ANN, all on is the SNN, and in between each neuron counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from graphpass import Session
from graphpass.diagnosis.substitution import Substitution, load_ann
from graphpass.model import from_proto
from graphpass.running import open_session
from graphpass_models.digits import digits_model_path
from graphpass_runtime.errors import ModelError
from graphpass_runtime.metadata import FileRecord

CNN = digits_model_path("digits_cnn")
Images = NDArray[np.float32]


def test_all_off_is_the_ann_and_all_on_the_snn(
    net: Substitution, stage_files: Path, images: Images
) -> None:
    feeds = {"image": images}
    ann = Session(CNN).run(feeds)["logits"]
    snn = Session(stage_files / "3-calibrated.onnx").run(feeds)["logits"]
    np.testing.assert_allclose(net.run(feeds, ())[0], ann, rtol=1e-4, atol=1e-4)
    same = np.isclose(net.run(feeds, list(net.neurons))[0], snn, rtol=1e-3, atol=1e-3)
    assert same.all(axis=1).mean() > 0.9  # a rounding tie may change a sample
    assert not np.allclose(ann, snn, atol=1e-2)


def test_half_converted(net: Substitution, stage_files: Path, images: Images) -> None:
    """With the first neuron on, the others are activations: checked against a file made by hand."""
    proto = onnx.load(stage_files / "3-calibrated.onnx")
    names = list(net.neurons)
    for node in proto.graph.node:
        if node.output[0] in names[1:]:
            node.op_type, node.domain = "Relu", ""
            del node.input[1:], node.output[1:]
    wanted = Session(proto.SerializeToString()).run({"image": images})["logits"]
    found = net.run({"image": images}, names[:1])[0]
    same = np.isclose(found, wanted, rtol=1e-3, atol=1e-3)
    assert same.all(axis=1).mean() > 0.9


def test_view(net: Substitution, images: Images) -> None:
    feeds = {"image": images}
    for spiking in ((), list(net.neurons)):
        for name, view in net.look(feeds, spiking).items():
            neuron = net.neurons[name]
            axes = (-1, *[1] * (view.current.ndim - 2))
            theta, shift, amplitude = (
                np.asarray(values).reshape(axes)
                for values in (neuron.threshold, neuron.shift, neuron.amplitude)
            )
            np.testing.assert_array_equal(view.ann, np.maximum(view.current, 0))
            u = neuron.levels * (view.current + shift) / theta + 0.5
            counts = np.clip(np.floor(u), 0, neuron.levels)
            assert (view.counts == counts).mean() > 0.999
            np.testing.assert_allclose(view.snn, amplitude * view.counts, rtol=1e-5)


def test_a_switched_neuron_changes_what_follows_only(net: Substitution, images: Images) -> None:
    feeds, names = {"image": images}, list(net.neurons)
    off, on = net.look(feeds, ()), net.look(feeds, names[1:2])
    for name in names[:2]:
        np.testing.assert_array_equal(off[name].current, on[name].current)
    assert not np.array_equal(off[names[2]].current, on[names[2]].current)


def test_batches_fit_into_memory(net: Substitution) -> None:
    assert 1 <= net.small_batch <= net.batch <= 32


def test_other_ann_is_refused(net: Substitution, write_model: Callable[..., Path]) -> None:
    other = load_ann(write_model("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"))
    with pytest.raises(ModelError, match=r"writes no activation.*converted from"):
        Substitution(other, list(net.neurons.values()), open_session)


def test_stage_that_lost_the_activations_is_refused(stage_files: Path) -> None:
    assert load_ann(stage_files / "1-clip.onnx").record is not None
    with pytest.raises(ModelError, match="stage 2-daqcfs"):
        load_ann(stage_files / "2-daqcfs.onnx")


def test_unknown_shapes_are_looked_at_one_sample_at_a_time(stage_files: Path) -> None:
    proto = onnx.load(stage_files / "0-normalised.onnx")
    record = FileRecord.from_props(
        {p.key: p.value for p in onnx.load(stage_files / "3-calibrated.onnx").metadata_props}
    )
    assert record is not None
    model = from_proto(proto)
    for tensor in model.graph.tensors().values():
        if tensor.name == model.graph.nodes[0].outputs[0].name:
            tensor.shape = ["N", "C", "H", "W"]
    assert Substitution(model, record.neurons, open_session).small_batch == 1

"""Spike counts and firing rates, from trains and from counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from graphpass_runtime.errors import (
    ModelError,
)
from graphpass_runtime.metadata import FileRecord, Stage
from graphpass_runtime.neuron import Carrier, Neuron
from graphpass_runtime.session import Session

Build = Callable[..., bytes]


def _neuron(name: str, **values: Any) -> Neuron:
    ones = np.ones(values.pop("channels", 1), np.float32)
    values = {"levels": 4, "channel_axis": None, **values}
    return Neuron(name, threshold=ones, shift=ones, amplitude=ones, **values)


def _record(*neurons: Neuron, peak: int | None = None, steps: int = 4) -> FileRecord:
    return FileRecord(Stage.SPIKING, steps=steps, neurons=neurons, peak_elements=peak)


TRAIN = """g (float[N,2] x) => (float[N,2] y) {
    t = Constant <value = float[4,1,1] {1, 2, 3, 4}> ()
    u = Unsqueeze (x, zero)
    v = GreaterOrEqual (u, t)
    "a/spikes" = Reshape (v, fold)
    f = Cast <to = 1> ("a/spikes")
    w = Reshape (f, unfold)
    y = ReduceSum <keepdims = 0> (w, zero)
}"""


def _train(build: Build, record: FileRecord) -> bytes:
    constants = "<int64[1] zero = {0}, int64[2] fold = {-1, 2}, int64[3] unfold = {4, -1, 2}>"
    text = TRAIN.replace('"a/spikes"', "a_spikes").replace(") {", f") {constants} {{", 1)
    model = onnx.load_from_string(build(text, record))
    for node in model.graph.node:  # the text form has no names with a slash
        node.input[:] = ["a/spikes" if name == "a_spikes" else name for name in node.input]
        node.output[:] = ["a/spikes" if name == "a_spikes" else name for name in node.output]
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("limit", [1 << 30, 4 * 5 * 8 * 2])
def test_spikes_of_a_train_are_summed_over_time(build: Build, limit: int) -> None:
    neuron = _neuron("a", carrier=Carrier.TRAIN, channel_axis=1, channels=2)
    model = _train(build, _record(neuron, peak=8))
    session = Session(model, memory_limit=limit)
    # Time and samples must not be mixed up: all counts are different.
    x = np.array([[0, 4], [1, 3], [2, 2.5], [9, -1], [3.5, 1]], np.float32)
    counts = session.spike_counts({"x": x})
    assert counts["a"].dtype == np.int32
    np.testing.assert_array_equal(counts["a"], np.clip(np.floor(x), 0, 4))
    np.testing.assert_array_equal(session.run({"x": x})["y"], counts["a"])
    rates = session.firing_rates({"x": x})
    np.testing.assert_allclose(rates["a"], counts["a"].mean(axis=0) / 4)
    assert [output.name for output in session.outputs] == ["y"]


def _counts_model(build: Build, text: str, record: FileRecord) -> bytes:
    return build(text, record).replace(b"a_spikes", b"a/spikes")


COUNT = "g (float[N,3,2] x) => (float[N,3,2] y) { a_spikes = Floor(x) y = Relu(a_spikes) }"


def test_counts_come_as_they_are_even_padded(build: Build) -> None:
    neuron = _neuron("a", channel_axis=2, channels=2)
    x = np.random.default_rng(0).integers(0, 5, (5, 3, 2)).astype(np.float32)
    for text in (COUNT, COUNT.replace("N", "4")):
        session = Session(_counts_model(build, text, _record(neuron)))
        np.testing.assert_array_equal(session.spike_counts({"x": x})["a"], x)
        rates = session.firing_rates({"x": x})["a"]
        np.testing.assert_allclose(rates, x.mean(axis=(0, 1)) / 4)


def test_without_a_channel_axis_there_is_one_rate(build: Build) -> None:
    session = Session(_counts_model(build, COUNT, _record(_neuron("a"))))
    x = np.random.default_rng(0).integers(0, 5, (2, 3, 2)).astype(np.float32)
    np.testing.assert_allclose(session.firing_rates({"x": x})["a"], [x.mean() / 4])


def test_batch_axis_is_moved_to_the_front(build: Build) -> None:
    text = (
        "g (float[N,3] x) => (float[N,3] y) "
        "{ t = Transpose(x) a_spikes = Floor(t) y = Transpose(a_spikes) }"
    )
    neuron = _neuron("a", batch_axis=1, channel_axis=0, channels=3)
    x = np.random.default_rng(0).integers(0, 5, (5, 3)).astype(np.float32)
    for graph in (text, text.replace("N", "2")):
        session = Session(_counts_model(build, graph, _record(neuron, peak=4)), memory_limit=170)
        np.testing.assert_array_equal(session.spike_counts({"x": x})["a"], x)
        np.testing.assert_allclose(session.firing_rates({"x": x})["a"], x.mean(axis=0) / 4)


def test_spikes_need_neurons_that_are_as_recorded(build: Build) -> None:
    x = {"x": np.ones((3, 3, 2), np.float32)}
    with pytest.raises(ModelError, match="no spiking neurons"):
        Session(build(COUNT)).spike_counts(x)
    wrong = _neuron("a", carrier=Carrier.TRAIN)
    with pytest.raises(ModelError, match="3 rows are no multiple of 4"):
        Session(_counts_model(build, COUNT, _record(wrong))).spike_counts(x)
    with pytest.raises(ModelError, match="lacks an axis"):
        Session(_counts_model(build, COUNT, _record(_neuron("a", channel_axis=3)))).spike_counts(x)
    with pytest.raises(ModelError, match="no such tensor"):
        Session(_counts_model(build, COUNT, _record(_neuron("b")))).spike_counts(x)

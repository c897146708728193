"""Shares by cumulative substitution, against networks that are converted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from graphpass import Session
from graphpass.diagnosis.substitution import Substitution
from graphpass.diagnosis.survey import output_errors, survey
from graphpass_models.digits import digits_model_path
from graphpass_runtime.data import Dataset, open_data

Images = NDArray[np.float32]


@pytest.fixture
def data(net: Substitution, images: Images) -> Dataset:
    return open_data([{"image": images[:10]}, {"image": images[10:]}], net.inputs)


def test_shares(net: Substitution, data: Dataset, stage_files: Path, images: Images) -> None:
    names = list(net.neurons)
    ann = Session(digits_model_path("digits_cnn")).run({"image": images})["logits"]
    errors = [0.0]
    for end in range(1, len(names) + 1):
        proto = onnx.load(stage_files / "3-calibrated.onnx")
        for node in proto.graph.node:
            if node.output[0] in names[end:]:
                node.op_type, node.domain = "Relu", ""
                del node.input[1:], node.output[1:]
        found = Session(proto.SerializeToString()).run({"image": images})["logits"]
        errors.append(float(np.square(found - ann, dtype=np.float64).sum()))
    result = survey(net, data)
    shares = {layer.name: layer.share for layer in result.layers}
    wanted = np.diff(errors) / errors[-1]
    # Rounding ties may move single counts.
    assert [shares[name] for name in names] == pytest.approx(wanted.tolist(), abs=0.02)
    assert sum(share or 0 for share in shares.values()) == pytest.approx(1.0)
    energy = float(np.square(ann, dtype=np.float64).sum())
    assert result.output_error == pytest.approx(np.sqrt(errors[-1] / energy), rel=0.02)
    assert (result.samples, result.passes) == (24, len(names) + 3)


def test_firing_is_that_of_the_spiking_network(net: Substitution, data: Dataset) -> None:
    seen = {"spikes": 0.0, "full": 0.0, "none": 0.0}
    name, neuron = list(net.neurons.items())[-1]
    assert neuron.levels == 4 * neuron.members
    total = 0
    for batch in data.batches(1):
        counts = net.look(batch.feeds, list(net.neurons))[name].counts
        seen["spikes"] += float(counts.sum())
        seen["full"] += float((counts == neuron.levels).sum())
        seen["none"] += float((counts == 0).sum())
        total += counts.size
    (layer,) = (one for one in survey(net, data).layers if one.name == name)
    assert layer.rate == pytest.approx(seen["spikes"] / (neuron.levels * total))
    assert layer.saturated == pytest.approx(seen["full"] / total)
    assert layer.silent == pytest.approx(seen["none"] / total)


def test_no_neuron_no_error(net: Substitution, data: Dataset) -> None:
    assert output_errors(net, data, [()], lambda _done: None).errors == [0.0]


def test_counts_of_a_file_are_judged_instead(net: Substitution, data: Dataset) -> None:
    def silent(_feeds: object, views: object) -> dict[str, NDArray[np.int32]]:
        return {name: np.zeros((2, 3), np.int32) for name in net.neurons}

    result = survey(net, data, read_counts=silent)
    assert {layer.silent for layer in result.layers} == {1.0}
    assert {layer.advice for layer in result.layers} == {"silent: it never fires"}


def test_progress_is_told(net: Substitution, data: Dataset) -> None:
    told: list[tuple[str, int | None]] = []
    done: list[int] = []

    def progress(title: str, samples: int | None) -> object:
        told.append((title, samples))
        return done.append

    survey(net, data, progress=progress)  # type: ignore[arg-type]
    assert [samples for _, samples in told] == [24, 24]
    assert sum(done) == 48

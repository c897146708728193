"""Is it the same network? What `verify` finds equal, what it catches, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphpass import Session, convert, verify
from graphpass_models.digits import Digits, digits_model_path
from graphpass_runtime.errors import DataError, ModelError
from graphpass_runtime.metadata import FileRecord
from graphpass_runtime.neuron import Carrier

FORMS = ("matmul", "sorted", "counts")
CNN = digits_model_path("digits_cnn")
LAYERS, COUNTS = 3, 60 * 1024
POOLED = COUNTS - 60 * 32 * (16 - 4)  # counts fire behind the last pool


@pytest.fixture(scope="module")
def files(
    digits_npz: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """digits_cnn at T = 4 in every form, and its stages; name -> path."""
    folder = tmp_path_factory.mktemp("files")
    convert(CNN, folder / "matmul.onnx", steps=4, data=digits_npz[0], stages=folder)
    for form in FORMS:
        convert(folder / "3-calibrated.onnx", folder / f"{form}.onnx", form=form)
    return {path.stem: path for path in folder.iterdir()} | {"ann": CNN}


REFERENCES = ["ann", "3-calibrated", *FORMS]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reference", REFERENCES)
def test_every_form_equals_every_reference(
    reference: str,
    form: str,
    strict: bool,
    files: dict[str, Path],
    digits_npz: tuple[Path, Path],
) -> None:
    if strict and reference == "counts" != form:
        with pytest.raises(ModelError, match=r"in front of a MaxPool.*swap the two files"):
            verify(files[reference], files[form], digits_npz[1], strict=strict)
        return
    result = verify(files[reference], files[form], digits_npz[1], strict=strict)
    assert result.equal
    assert (result.samples, result.layers) == (60, LAYERS)
    assert result.counts_compared == (POOLED if "counts" in (reference, form) else COUNTS)
    assert result.origin_unexplained == 0
    if strict:
        assert result.downstream == 0
    if result.origin_near_tie == 0:
        assert result.max_abs_diff < 1e-4
        assert result.samples_diverged == 0
        assert result.origins == {}
    assert result.argmax_agreement >= 59 / 60


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 16, 31, 64])
def test_every_t(steps: int, digits_npz: tuple[Path, Path], tmp_path: Path) -> None:
    snn, folder = tmp_path / "snn.onnx", tmp_path / "stages"
    convert(CNN, snn, steps=steps, data=digits_npz[0], samples=20, stages=folder)
    assert verify(CNN, snn, digits_npz[1], samples=20).equal
    for form in FORMS:
        convert(folder / "3-calibrated.onnx", snn, form=form)
        for strict in (False, True):
            result = verify(
                folder / "3-calibrated.onnx", snn, digits_npz[1], samples=12, strict=strict
            )
            assert result.equal
            assert result.samples == 12
    session = Session(snn)
    counts = session.spike_counts({"image": np.load(digits_npz[1])["image"]})
    assert session.record is not None
    members = {neuron.name: neuron.together for neuron in session.record.neurons}
    assert set(members.values()) == set(range(1, 1 + min(3, 129 // steps)))
    assert max(int(counts[name].max()) / members[name] for name in counts) == steps


def test_uncalibrated_stage_2_is_its_own_network(
    files: dict[str, Path], digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    convert(files["2-daqcfs"], tmp_path / "snn.onnx", calibrate="none")
    assert verify(files["2-daqcfs"], tmp_path / "snn.onnx", digits_npz[1]).equal
    assert verify(CNN, tmp_path / "snn.onnx", digits_npz[1]).equal
    assert not verify(files["3-calibrated"], tmp_path / "snn.onnx", digits_npz[1]).equal


def test_stage_file_as_the_candidate(files: dict[str, Path], digits_npz: tuple[Path, Path]) -> None:
    assert verify(CNN, files["3-calibrated"], digits_npz[1]).equal
    assert verify(files["matmul"], files["3-calibrated"], digits_npz[1], strict=True).equal


def tampered(path: Path, output: Path, layer: int, factor: float = 0.95) -> Path:
    """The file with the potential u of one layer scaled in its graph, not in its record."""
    proto = onnx.load(path)
    record = FileRecord.from_props({p.key: p.value for p in proto.metadata_props})
    assert record is not None
    makers = {name: node for node in proto.graph.node for name in node.output}
    neuron = record.neurons[layer]
    if neuron.carrier is Carrier.TRAIN:
        scaled = [(makers[neuron.name].input[1], 1 / factor)]  # the threshold
    else:  # gain and offset are in the weights of what computes u
        waiting, scaled = [neuron.potential], []
        while waiting:
            node = makers[waiting.pop()]
            constants = [name for name in node.input if name not in makers]
            scaled += [(name, factor) for name in constants]
            if not constants:
                waiting += node.input
        assert scaled
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    for name, by in scaled:
        array = onnx.numpy_helper.to_array(weights[name]) * np.float32(by)
        weights[name].CopyFrom(onnx.numpy_helper.from_array(array, name))
    onnx.save(proto, output)
    return output


def louder(path: Path, output: Path, layer: int, factor: float) -> Path:
    """The file of trains with the post-threshold of one layer scaled in its graph."""
    proto = onnx.load(path)
    record = FileRecord.from_props({p.key: p.value for p in proto.metadata_props})
    assert record is not None
    node = next(n for n in proto.graph.node if n.output[0] == record.neurons[layer].name)
    tensor = next(t for t in proto.graph.initializer if t.name == node.input[3])
    array = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, output)
    return output


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layer", [0, 2])
def test_tampered_threshold_is_caught(
    form: str,
    strict: bool,
    layer: int,
    files: dict[str, Path],
    digits_npz: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    snn = tampered(files[form], tmp_path / "bad.onnx", layer)
    for reference in ("ann", "3-calibrated", form):
        result = verify(files[reference], snn, digits_npz[1], strict=strict)
        assert not result.equal
        assert result.origin_unexplained > 10
        neurons = Session(files[form]).record.neurons  # type: ignore[union-attr]
        names = [neuron.population for neuron in neurons]
        assert result.origins[names[layer]][1] == result.origin_unexplained
        if strict:  # judged alone: every other layer is still the same
            assert list(result.origins) == [names[layer]]
            assert result.downstream == 0
        elif layer == 0:
            assert result.downstream > 0
        assert result.samples_diverged > 10


def test_tampered_amplitude_shows_in_the_next_layer(
    files: dict[str, Path], digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    names = [n.name for n in Session(files["matmul"]).record.neurons]  # type: ignore[union-attr]
    snn = louder(files["matmul"], tmp_path / "bad.onnx", 0, 1.1)
    result = verify(files["ann"], snn, digits_npz[1])
    assert not result.equal
    assert names[0] not in result.origins
    # In strict mode the readers of the layer must still see its wrong amplitude.
    strict = verify(files["ann"], snn, digits_npz[1], strict=True)
    assert not strict.equal
    assert names[0] not in strict.origins


def test_tampered_synapse_is_caught(
    files: dict[str, Path], digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    for form in FORMS:
        proto = onnx.load(files[form])
        convolutions = [n for n in proto.graph.node if n.op_type == "Conv"]
        tensor = next(t for t in proto.graph.initializer if t.name == convolutions[1].input[1])
        array = onnx.numpy_helper.to_array(tensor).copy()
        array.flat[0] += np.float32(0.5)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        onnx.save(proto, tmp_path / "bad.onnx")
        for strict in (False, True):
            assert not verify(CNN, tmp_path / "bad.onnx", digits_npz[1], strict=strict).equal


def test_swapped_forms_of_the_comparison_see_the_same_difference(
    files: dict[str, Path], digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    bad = tampered(files["counts"], tmp_path / "bad.onnx", 2)
    there = verify(files["matmul"], bad, digits_npz[1])
    back = verify(bad, files["matmul"], digits_npz[1])
    assert there.origin_unexplained > 0
    # The last layer: nothing is downstream of it, so that both ways find the same counts.
    assert there.origin_unexplained + there.origin_near_tie == (
        back.origin_unexplained + back.origin_near_tie
    )
    assert there.max_abs_diff == back.max_abs_diff > 0


def test_counts_of_a_difference_by_hand(
    files: dict[str, Path], digits: Digits, digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    """Origins, downstream and diverged samples, counted here from the spike counts."""
    bad = tampered(files["counts"], tmp_path / "bad.onnx", 1)
    result = verify(files["counts"], bad, digits_npz[1])
    feeds = {"image": digits.test_images[:60]}
    ours, theirs = Session(files["counts"]).spike_counts(feeds), Session(bad).spike_counts(feeds)
    diverged = np.zeros(60, bool)
    origins = downstream = 0
    for name in ours:
        differs = (ours[name] != theirs[name]).reshape(60, -1)
        origins += int(differs[~diverged].sum())
        downstream += int(differs[diverged].sum())
        diverged |= differs.any(axis=1)
    assert origins > 10
    assert downstream > 0
    assert result.origin_near_tie + result.origin_unexplained == origins
    assert result.downstream == downstream
    assert result.samples_diverged == int(diverged.sum())


TIES = """g (float[N,1] x) => (float[N,1] y) {
    a = MatMul(x, one_by_one)
    r = Clip(a, zero, top)
    y = MatMul(r, one_by_one)
}"""


@pytest.mark.parametrize(("nudge", "equal"), [(2.0**-18, True), (2.0**-14, False)])
def test_what_is_a_near_tie(
    nudge: float, equal: bool, write_model: Callable[..., Path], tmp_path: Path
) -> None:
    weights = {
        "one_by_one": np.eye(1, dtype=np.float32),
        "zero": np.float32(0),
        "top": np.float32(4),
    }
    ann = write_model(TIES, weights)
    convert(ann, tmp_path / "snn.onnx", steps=4, calibrate="none")
    proto = onnx.load(tmp_path / "snn.onnx")
    record = FileRecord.from_props({p.key: p.value for p in proto.metadata_props})
    assert record is not None
    node = next(n for n in proto.graph.node if n.output[0] == "r")
    tensor = next(t for t in proto.graph.initializer if t.name == node.input[2])
    assert not onnx.numpy_helper.to_array(tensor).any()
    shape = onnx.numpy_helper.to_array(tensor).shape
    shift = np.full(shape, -nudge, np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(shift, tensor.name))
    onnx.save(proto, tmp_path / "late.onnx")
    # u = x + 1/2: the values below lie on 1, 2, 3 and 4; the shift moves them off by `nudge`.
    x = np.array([[0.5], [1.5], [2.5], [3.5], [0.25]], np.float32)
    for reference, snn in (("snn", "late"), ("late", "snn")):
        result = verify(tmp_path / f"{reference}.onnx", tmp_path / f"{snn}.onnx", [{"x": x}])
        assert result.samples_diverged == 4
        if reference == "late":
            assert result.equal is equal
            kinds = (result.origin_near_tie, result.origin_unexplained)
            assert kinds == ((4, 0) if equal else (0, 4))


def test_reference_on_a_tie_does_not_excuse_a_count_far_off(
    write_model: Callable[..., Path], tmp_path: Path
) -> None:
    """A tie explains a difference of one count, not of three."""
    weights = {
        "one_by_one": np.eye(1, dtype=np.float32),
        "zero": np.float32(0),
        "top": np.float32(4),
    }
    ann = write_model(TIES, weights)
    convert(ann, tmp_path / "snn.onnx", steps=4, calibrate="none")
    bad = tampered(tmp_path / "snn.onnx", tmp_path / "bad.onnx", 0, 0.01)
    x = np.array([[2.5], [3.5]], np.float32)
    result = verify(ann, bad, [{"x": x}])
    assert not result.equal


def test_wrong_reference_is_refused(
    files: dict[str, Path], digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    other = digits_model_path("digits_qcfs_l8")
    with pytest.raises(ModelError, match=r"digits_qcfs_l8\.onnx: writes no activation"):
        verify(other, files["matmul"], digits_npz[1])
    convert(other, tmp_path / "qcfs.onnx", steps=8)
    with pytest.raises(ModelError, match="other neurons, or another T"):
        verify(tmp_path / "qcfs.onnx", files["matmul"], digits_npz[1])
    convert(CNN, tmp_path / "t8.onnx", steps=8, data=digits_npz[0])
    with pytest.raises(ModelError, match="other neurons, or another T"):
        verify(tmp_path / "t8.onnx", files["matmul"], digits_npz[1])
    with pytest.raises(ModelError, match="has no spiking neurons"):
        verify(CNN, CNN, digits_npz[1])
    with pytest.raises(ModelError, match="no such file"):
        verify(tmp_path / "none.onnx", files["matmul"], digits_npz[1])


def test_data_that_does_not_fit_is_refused(files: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="image"):
        verify(CNN, files["matmul"], [{"image": np.zeros((2, 1, 9, 9), np.float32)}])


def test_trained_qcfs_against_a_snn_with_a_lie_in_its_record(
    digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    """The ANN keeps its own quantisation: a wrong threshold in graph and record is seen."""
    ann = digits_model_path("digits_qcfs_l8")
    convert(ann, tmp_path / "snn.onnx", steps=8)
    proto = onnx.load(tampered(tmp_path / "snn.onnx", tmp_path / "x.onnx", 0, 0.9))
    record = FileRecord.from_props({p.key: p.value for p in proto.metadata_props})
    assert record is not None
    first = record.neurons[0]
    neurons = (replace(first, threshold=first.threshold / np.float32(0.9)), *record.neurons[1:])
    props: dict[str, Any] = {p.key: p.value for p in proto.metadata_props}
    onnx.helper.set_model_props(proto, props | replace(record, neurons=neurons).to_props())
    onnx.save(proto, tmp_path / "lie.onnx")
    assert not verify(ann, tmp_path / "lie.onnx", digits_npz[1]).equal


SCALAR = """g (float[N,3] x) => (float y) {
    a = MatMul(x, w1)
    r1 = Clip(a, zero, top)
    b = MatMul(r1, w1)
    r2 = Clip(b, zero, top)
    y = ReduceMean <keepdims = 0> (r2)
}"""


@pytest.mark.parametrize("form", FORMS)
def test_output_without_a_batch_axis(
    form: str, write_model: Callable[..., Path], bare_run: Callable[..., Any], tmp_path: Path
) -> None:
    weights = {
        "w1": np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32),
        "zero": np.float32(0),
        "top": np.float32(2),
    }
    ann = write_model(SCALAR, weights)
    convert(ann, tmp_path / "snn.onnx", steps=64, calibrate="none", form=form)
    x = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    y = bare_run(tmp_path / "snn.onnx", {"x": x})["y"]
    np.testing.assert_allclose(y, bare_run(ann, {"x": x})["y"], atol=0.02)
    assert verify(ann, tmp_path / "snn.onnx", [{"x": x}]).equal

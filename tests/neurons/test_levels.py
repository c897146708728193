"""Neurons with fewer levels than the file has slots, in every form, against NumPy.

A layer with L levels in T slots is silent in the first T - L, fires in the last n of the
others, n = Clip(Floor(L z / theta + 1/2), 0, L), and the mean over all slots is n theta / L.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphpass import Session, convert, populations, verify
from graphpass_models.digits import digits_model_path
from graphpass_runtime.errors import ModelError, OptionError

CNN = digits_model_path("digits_cnn")
TRAINS, COUNTS = ("matmul", "sorted"), ("counts", "counts-cpu")
MLP = """g (float[N,4] x) => (float[N,2] y) {
    a = MatMul(x, w1)
    c = Clip(a, zero, one)
    d = MatMul(c, w2)
    f = Clip(d, zero, one)
    y = MatMul(f, w3)
}"""


def weights() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {
        "zero": np.float32(0),
        "one": np.float32(1),
        "w1": rng.normal(size=(4, 3)).astype(np.float32),
        "w2": rng.normal(size=(3, 5)).astype(np.float32),
        "w3": rng.normal(size=(5, 2)).astype(np.float32),
    }


def counts_of(current: Any, levels: int) -> Any:
    return np.clip(np.floor(levels * current.astype(np.float64) + 0.5), 0, levels)


@pytest.mark.parametrize("form", [*TRAINS, *COUNTS])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(("steps", "first", "second"), [(8, 4, 2), (5, 3, 5), (6, 6, 1), (7, 2, 4)])
@pytest.mark.parametrize("opset", [9, 17])
def test_trains_and_output(
    form: str,
    samples: int,
    steps: int,
    first: int,
    second: int,
    opset: int,
    write_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    if opset == 9:
        text = MLP.replace("Clip(a, zero, one)", "Clip <min = 0.0, max = 1.0> (a)")
        text = text.replace("Clip(d, zero, one)", "Clip <min = 0.0, max = 1.0> (d)")
        used = {name: array for name, array in weights().items() if name.startswith("w")}
    else:
        text, used = MLP, weights()
    options: dict[str, Any] = {"steps": steps, "calibrate": "none", "first_activation": "spiking"}
    levels = {"c": first, "f": second}
    ann = write_model(text, used, opset=opset)
    convert(ann, tmp_path / "snn.onnx", levels=levels, form=form, **options)
    x = np.random.default_rng(samples).normal(size=(samples, 4)).astype(np.float32)
    n1 = counts_of(x @ used["w1"], first)
    n2 = counts_of((n1 / first) @ used["w2"], second)
    session = Session(tmp_path / "snn.onnx", extra_outputs=["c/spikes", "f/spikes"])
    found = session.run({"x": x})
    np.testing.assert_allclose(found["y"], (n2 / second) @ used["w3"], rtol=1e-4, atol=1e-5)
    slots = np.arange(1, steps + 1)[:, None, None]
    for name, counts in (("c", n1), ("f", n2)):
        if form in COUNTS:
            np.testing.assert_array_equal(found[f"{name}/spikes"], counts)
        else:
            trains = found[f"{name}/spikes"].reshape(steps, samples, -1)
            np.testing.assert_array_equal(trains, slots > steps - counts)
        np.testing.assert_array_equal(session.spike_counts({"x": x})[name], counts)
        rates = session.firing_rates({"x": x})[name]
        assert rates.mean() == pytest.approx(counts.mean() / steps)


@pytest.fixture(scope="module")
def files(
    digits_npz: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The digits network, whose layers have 3, 6, 2 and 4 levels; name -> path."""
    folder = tmp_path_factory.mktemp("levels")
    data = digits_npz[0]
    common: dict[str, Any] = {"data": data, "first_activation": "spiking"}
    convert(CNN, folder / "same.onnx", steps=6, form="counts", **common)
    record = Session(folder / "same.onnx").record
    assert record is not None
    levels = dict(zip([n.name for n in record.neurons], (3, 6, 2, 4), strict=True))
    convert(CNN, folder / "matmul.onnx", steps=6, levels=levels, stages=folder, **common)
    for form in (*TRAINS, *COUNTS, "int8"):
        convert(folder / "3-calibrated.onnx", folder / f"{form}.onnx", form=form, data=data)
    return {path.stem: path for path in folder.iterdir()} | {"ann": CNN}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("reference", ["ann", "3-calibrated", "matmul", "sorted"])
@pytest.mark.parametrize("form", [*TRAINS, *COUNTS])
def test_verify(
    reference: str,
    form: str,
    strict: bool,
    files: dict[str, Path],
    digits_npz: tuple[Path, Path],
) -> None:
    result = verify(files[reference], files[form], digits_npz[1], samples=20, strict=strict)
    assert result.equal
    assert (result.origin_unexplained, result.layers) == (0, 4)


def test_int8_cuts_at_its_own_levels(files: dict[str, Path], digits_npz: tuple[Path, Path]) -> None:
    session, trains = Session(files["int8"]), Session(files["matmul"])
    assert session.record is not None
    assert trains.record is not None
    images = {"image": np.load(digits_npz[1])["image"]}
    counts, apart = session.spike_counts(images), trains.spike_counts(images)
    exact = populations.joined_counts(trains.record.neurons, apart)
    for neuron in session.record.neurons:
        assert counts[neuron.name].max() == neuron.levels
        assert np.mean(counts[neuron.name] != exact[neuron.name]) < 0.1


@pytest.mark.parametrize("serial", ["scan", "step"])
def test_serial_forms_are_refused(serial: str, files: dict[str, Path], tmp_path: Path) -> None:
    for start, options in (
        (files["3-calibrated"], {}),
        (CNN, {"steps": 6, "levels": {"a": 2}, "calibrate": "none"}),
    ):
        with pytest.raises(OptionError, match="all the same number of time-steps"):
            convert(start, tmp_path / "x.onnx", method="qcfs", serial=serial, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("levels", [{"unknown": 2}, {"c": 0}, {"c": 9}])
def test_levels_that_make_no_sense(
    levels: dict[str, int], write_model: Callable[..., Path], tmp_path: Path
) -> None:
    ann = write_model(MLP, weights())
    with pytest.raises(OptionError, match=r"use 1 to 8, for activations that are converted"):
        convert(ann, tmp_path / "snn.onnx", steps=8, levels=levels, calibrate="none")


def test_more_levels_than_slots_in_a_tampered_file(files: dict[str, Path], tmp_path: Path) -> None:
    proto = onnx.load(files["3-calibrated"])
    (entry,) = (p for p in proto.metadata_props if p.key == "graphpass.steps")
    entry.value = "5"
    onnx.save(proto, tmp_path / "tampered.onnx")
    with pytest.raises(ModelError, match=r"neuron .* has 6 levels"):
        convert(tmp_path / "tampered.onnx", tmp_path / "snn.onnx")


def test_verify_int8_against_its_integers(
    files: dict[str, Path], digits_npz: tuple[Path, Path]
) -> None:
    assert verify(files["3-calibrated"], files["int8"], digits_npz[1], samples=20).equal

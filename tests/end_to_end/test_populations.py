"""Several neurons for each value: every form is the same network, and closer to the ANN."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from graphpass import Session, convert, convert_allocated, diagnose, populations, verify

FORMS = ("matmul", "sorted", "counts", "counts-cpu")
CONV = "Conv <pads = [1,1,1,1]>"
#: Three blocks whose sums are rectified, a pool behind the last, and a classifier.
NET = f"""g (float[N,3,8,8] x) => (float[N,5] y) {{
    i = {CONV} (x, w0) r0 = Relu (i)
    a1 = {CONV} (r0, w1) b1 = Relu (a1) c1 = {CONV} (b1, w2) s1 = Add (c1, r0) r1 = Relu (s1)
    a2 = {CONV} (r1, w3) b2 = Relu (a2) c2 = {CONV} (b2, w4) s2 = Add (r1, c2) r2 = Relu (s2)
    a3 = {CONV} (r2, w5) b3 = Relu (a3) c3 = {CONV} (b3, w6) s3 = Add (c3, r2) r3 = Relu (s3)
    p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r3)
    q = GlobalAveragePool (p)
    f = Flatten (q)
    y = Gemm <transB = 1> (f, k)
}}"""
SINGLE = ["b1", "r1", "b2", "r2", "b3", "r3"]
TOGETHER = ["b1", "r1", "r1/skip", "b2", "r2", "r2/skip", "b3", "r3"]


def images(samples: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).normal(size=(samples, 3, 4, 4))
    return coarse.repeat(2, 2).repeat(2, 3).astype(np.float32)


DATA = [{"x": images(16, seed)} for seed in range(4)]


@pytest.fixture
def ann(write_model: Callable[..., Path]) -> Path:
    rng = np.random.default_rng(5)
    weights = {"k": rng.normal(0, 0.3, (5, 8)).astype(np.float32)}
    for index in range(7):
        shape = (8, 8 if index else 3, 3, 3)
        weights[f"w{index}"] = rng.normal(0, 1 / np.sqrt(72), shape).astype(np.float32)
    return write_model(NET, weights)


def output_error(ann: Path, snn: Path) -> float:
    x = images(64, 100)
    expected, found = (
        onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0] for path in (ann, snn)
    )
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("population", [2, 3])
def test_all_forms_are_one_network(
    ann: Path, tmp_path: Path, population: int, strict: bool
) -> None:
    options: dict[str, Any] = {"steps": 4, "data": DATA, "population": population}
    for form in FORMS:
        folder = {"stages": tmp_path} if form == "matmul" else {}
        result = convert(ann, tmp_path / f"{form}.onnx", form=form, **options, **folder)
        layers = populations.joined(result.record.neurons)
        assert [layer.name for layer in layers] == TOGETHER
        sizes = {layer.name: layer.levels // 4 for layer in layers}
        assert sizes["r1/skip"] == sizes["r2/skip"] == sizes["r3"] == population
        # Of the five others, all read by a Conv of the same size, one or two may have a second.
        others = [sizes[name] for name in ("b1", "r1", "b2", "r2", "b3")]
        assert sum(others) == 5 + (population - 1)
        apart = form in ("matmul", "sorted")
        assert len(result.record.neurons) == (sum(sizes.values()) if apart else 8)
    files = [ann, tmp_path / "3-calibrated.onnx", *(tmp_path / f"{f}.onnx" for f in FORMS)]
    x = [{"x": images(6, 50)}]
    for reference in files:
        for form in FORMS:
            if strict and reference.stem.startswith("counts") and not form.startswith("counts"):
                continue  # its counts are those behind the MaxPool
            found = verify(reference, tmp_path / f"{form}.onnx", x, strict=strict)
            assert found.equal, (reference, form, found)
            assert found.layers == 8


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_closer_to_the_ann(ann: Path, tmp_path: Path, steps: int) -> None:
    errors = []
    for population in (1, 3):
        snn = tmp_path / "snn.onnx"
        convert(ann, snn, steps=steps, data=DATA, population=population, form="sorted")
        errors.append(output_error(ann, snn))
    assert errors[1] < 0.85 * errors[0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"calibrate": "paper"}, SINGLE),
        ({"calibrate": "none"}, SINGLE),
        ({"population": 1}, SINGLE),
        ({"calibrate": "paper", "population": 2}, TOGETHER),
        ({"calibrate": "none", "population": 2}, TOGETHER),
        ({"threshold": "max"}, TOGETHER),
        ({"threshold": "gaussian"}, TOGETHER),
        ({"calibrate": "finetune", "epochs": 1}, TOGETHER),
    ],
    ids=str,
)
def test_calibrations(
    ann: Path, tmp_path: Path, options: dict[str, Any], expected: list[str]
) -> None:
    if options.get("calibrate") == "finetune":
        pytest.importorskip("torch")
    snn, stages = tmp_path / "snn.onnx", tmp_path / "stages"
    result = convert(ann, snn, steps=4, data=DATA, stages=stages, **options)
    assert [layer.name for layer in populations.joined(result.record.neurons)] == expected
    assert verify(stages / "3-calibrated.onnx", snn, [{"x": images(6, 50)}]).equal


def test_the_close_network_is_close(ann: Path, tmp_path: Path) -> None:
    errors = {}
    for form in ("counts", "int8"):
        snn = tmp_path / f"{form}.onnx"
        convert(ann, snn, steps=8, data=DATA, form=form)
        errors[form] = output_error(ann, snn)
    assert errors["int8"] < errors["counts"] + 0.05
    found = verify(tmp_path / "counts.onnx", tmp_path / "int8.onnx", [{"x": images(6, 50)}])
    assert found.equal
    assert [layer.name for layer in found.agreement] == TOGETHER


@pytest.mark.parametrize("serial", ["scan", "step"])
def test_serial_neurons(ann: Path, tmp_path: Path, serial: str) -> None:
    """More steps come closer to the ANN, populations or not."""
    errors = []
    for steps in (4, 32):
        snn = tmp_path / "snn.onnx"
        convert(ann, snn, steps=steps, data=DATA, method="qcfs", serial=serial)
        x = images(32, 100)
        expected, found = (Session(path).run({"x": x})["y"] for path in (ann, snn))
        errors.append(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    assert errors[1] < errors[0] / 2


def test_steps_for_each_layer(ann: Path, tmp_path: Path) -> None:
    snn = tmp_path / "snn.onnx"
    result, allocation = convert_allocated(ann, snn, 4.0, data=DATA)
    assert sorted(allocation.steps) == sorted(TOGETHER)
    assert allocation.work["r1/skip"] == 0
    assert allocation.work["r3"] == 3 * 5 * 8  # three neurons, each read by the classifier
    for layer in populations.joined(result.record.neurons):
        assert layer.firing_steps == allocation.steps[layer.name]
    assert verify(ann, snn, [{"x": images(6, 50)}]).equal


@pytest.mark.parametrize("form", ["matmul", "counts"])
def test_firing(ann: Path, tmp_path: Path, form: str) -> None:
    snn, x = tmp_path / "snn.onnx", images(16, 50)
    result = convert(ann, snn, steps=4, data=DATA, form=form, diagnose=True)
    session, neurons = Session(snn), result.record.neurons
    rates, counts = session.firing_rates({"x": x}), session.spike_counts({"x": x})
    together = populations.joined_counts(neurons, counts)
    for layer in populations.joined(neurons):
        own = [rates[n.name].mean() for n in neurons if n.population == layer.name]
        assert 0 < np.mean(own) < 1
        assert np.mean(own) == pytest.approx(together[layer.name].mean() / layer.levels)
    found = diagnose(ann, snn, [{"x": x}])
    for diagnosis in (found, result.diagnosis):
        assert diagnosis is not None
        assert sorted(layer.name for layer in diagnosis.layers) == sorted(TOGETHER)
        assert sum(layer.share or 0 for layer in diagnosis.layers) == pytest.approx(1.0)


def test_resnet20(shared_data: Path, tmp_path: Path) -> None:
    ann, images = shared_data / "models/resnet20_cifar10.onnx", shared_data / "cifar10"
    for form in FORMS:
        result = convert(
            *(ann, tmp_path / f"{form}.onnx"),
            **{"steps": 4, "data": images / "train.npz", "samples": 60, "form": form},
        )
        layers = populations.joined(result.record.neurons)
        assert sum(layer.name.endswith("/skip") for layer in layers) == 8
        assert len(layers) == 18 + 8
        assert verify(ann, tmp_path / f"{form}.onnx", images / "test.npz", samples=6).equal

"""Converting without data, where BatchNormalization says what the currents are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graphpass import Session, convert, evaluate
from graphpass_runtime.errors import DataError, ModelError
from graphpass_runtime.model_data import open_model_data

Write = Callable[..., Path]

# Two layers with BatchNormalization, a residual sum and a MaxPool, then one without.
NET = """net (float[N,3,8,8] x) => (float[N,4] out) {
    c1 = Conv <pads = [1,1,1,1], kernel_shape = [3,3]> (x, w1)
    b1 = BatchNormalization (c1, gamma, beta, mean1, var1)
    r1 = Relu (b1)
    c2 = Conv <pads = [1,1,1,1], kernel_shape = [3,3]> (r1, w2)
    b2 = BatchNormalization (c2, gamma, beta, mean2, var2)
    s = Add (b2, r1)
    r2 = Relu (s)
    p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r2)
    c3 = Conv <kernel_shape = [1,1]> (p, w3)
    r3 = Relu (c3)
    c4 = Conv <kernel_shape = [4,4]> (r3, w4)
    out = Flatten (c4)
}"""


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(200, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def net(write_model: Write, images: np.ndarray) -> Path:
    """Random weights; the BatchNormalizations hold the statistics of the images, as trained."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(0, 0.3, (6, 3, 3, 3)),
        "w2": rng.normal(0, 0.2, (6, 6, 3, 3)),
        "w3": rng.normal(0, 0.5, (6, 6, 1, 1)),
        "w4": rng.normal(0, 0.2, (4, 6, 4, 4)),
        "gamma": rng.uniform(0.5, 1.5, 6),
        "beta": rng.normal(0, 0.5, 6),
        **{f"{key}{layer}": np.full(6, key == "var", float) for layer in "12" for key in _STATS},
    }
    weights = {key: array.astype(np.float32) for key, array in weights.items()}
    for layer in "12":
        session = Session(write_model(NET, weights), extra_outputs=[f"c{layer}"])
        found = session.run({"x": images}, [f"c{layer}"])[f"c{layer}"]
        weights[f"mean{layer}"] = found.mean(axis=(0, 2, 3))
        weights[f"var{layer}"] = found.var(axis=(0, 2, 3))
    return write_model(NET, weights)


_STATS = ("mean", "var")


def _error(ann: Path, snn: Path, images: np.ndarray) -> float:
    wanted, found = (next(iter(Session(p).run({"x": images}).values())) for p in (ann, snn))
    return float(np.square(found - wanted).sum() / np.square(wanted - wanted.mean(axis=0)).sum())


@pytest.mark.parametrize("steps", [4, 8, 16])
def test_without_data_nearly_as_good_as_with_it(
    steps: int, net: Path, images: np.ndarray, tmp_path: Path
) -> None:
    free, driven, maximum = (tmp_path / f"{name}.onnx" for name in ("free", "driven", "max"))
    common = {"steps": steps, "form": "counts"}
    convert(net, free, threshold="gaussian", **common)
    convert(net, driven, data=[{"x": images}], **common)
    convert(net, maximum, data=[{"x": images}], calibrate="none", **common)
    errors = [_error(net, path, images) for path in (driven, free, maximum)]
    assert errors[1] < min(2 * errors[0], errors[2])


def test_report_says_that_no_data_was_used(net: Path, tmp_path: Path) -> None:
    result = convert(net, tmp_path / "snn.onnx", steps=4, threshold="gaussian")
    assert result.to_json()["calibration"] == {
        "rule": "optimal",
        "threshold": "gaussian",
        "samples": 0,
        "passes": 0,
    }


def test_same_model_same_bytes(net: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for output in outputs:
        convert(net, output, steps=4, threshold="gaussian", threads=1)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_carries_on_from_a_stage_file(net: Path, tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole.onnx", tmp_path / "resumed.onnx"
    convert(net, whole, steps=4, threshold="gaussian", stages=tmp_path, threads=1)
    for stage in ("0-normalised", "1-clip", "2-daqcfs"):
        convert(tmp_path / f"{stage}.onnx", resumed, steps=4, threshold="gaussian", threads=1)
        assert resumed.read_bytes() == whole.read_bytes()


def test_other_rules_ask_for_data(net: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="calibration data is needed"):
        convert(net, tmp_path / "snn.onnx", steps=4, threshold="mse")


def test_without_batch_normalization_the_node_is_named(write_model: Write, tmp_path: Path) -> None:
    text = """net (float[N,2,4,4] x) => (float[N,2,4,4] out) {
        z = Conv <kernel_shape = [1,1]> (x, w)  r = Relu (z)
        s = Conv <kernel_shape = [1,1]> (r, w)  out = Relu (s)
    }"""
    ann = write_model(text, {"w": np.ones((2, 2, 1, 1), np.float32)})
    with pytest.raises(ModelError, match=r"Conv node 'z' reads 'x', .*; give --data") as caught:
        convert(ann, tmp_path / "snn.onnx", steps=4, threshold="gaussian")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "snn.onnx").exists()


def test_resnet20_without_any_data(shared_data: Path, tmp_path: Path) -> None:
    ann = shared_data / "models" / "resnet20_cifar10_bn.onnx"
    convert(ann, tmp_path / "snn.onnx", steps=8, threshold="gaussian", form="counts")
    session = Session(tmp_path / "snn.onnx")
    data = open_model_data(
        shared_data / "cifar10/train.npz", session.inputs, [(ann, None)], None, 200
    )
    accuracy = evaluate(session, data, batch=50).accuracy
    assert accuracy is not None
    assert accuracy > 0.94  # 97 % of 2,000 images when this was written; the ANN has 99.7

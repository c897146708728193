"""Measures against plain computations, and against published accuracies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphpass_runtime.data import Dataset, open_data
from graphpass_runtime.errors import DataError, ModelError
from graphpass_runtime.evaluation import evaluate
from graphpass_runtime.preprocess import Preprocess
from graphpass_runtime.session import Session

Build = Callable[..., bytes]

ECHO = "g (float[N,K] x) => (float[N,K] y) { y = Identity(x) }"
SQUEEZED = """g (float[N,K] x) => (float[N,K,1,1] y)
    <int64[2] axes = {2, 3}> { y = Unsqueeze(x, axes) }"""
HALF = "g (float[N,K] x) => (float[N,K] y) <float h = {0.5}> { y = Mul(x, h) }"


def _data(session: Session, scores: Any, labels: Any = None) -> Dataset:
    item = {"x": np.asarray(scores, np.float32)}
    if labels is not None:
        item["labels"] = np.asarray(labels)
    return open_data([item, item], session.inputs)


@pytest.mark.parametrize("text", [ECHO, SQUEEZED])
def test_accuracy_and_top5_against_sorting(build: Build, text: str) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (200, 9)).astype(np.float32)  # many ties
    labels = rng.integers(0, 9, 200)
    session = Session(build(text))
    result = evaluate(session, _data(session, scores, labels))
    order = np.argsort(-scores, axis=1, kind="stable")
    accuracy = (scores.argmax(axis=1) == labels).mean()
    assert result.samples == 400
    assert result.accuracy == pytest.approx(accuracy)
    assert result.accuracy_stderr == pytest.approx((accuracy * (1 - accuracy) / 400) ** 0.5)
    assert result.top5 == pytest.approx((order[:, :5] == labels[:, None]).any(axis=1).mean())


def test_scores_are_the_first_floats(build: Build) -> None:
    """A label stands before them, in classifiers of scikit-learn."""
    text = """g (float[N,K] x) => (int64[N] label, float[N,K] y) {
        label = ArgMax <axis = 1, keepdims = 0> (x)
        y = Identity (x)
    }"""
    session = Session(build(text))
    result = evaluate(session, _data(session, [[1, 0], [1, 0]], [0, 1]))
    assert result.accuracy == 0.5


def test_json_is_plain_and_says_only_what_was_measured(build: Build) -> None:
    session = Session(build(ECHO))
    result = evaluate(session, _data(session, [[1, 0], [1, 0]], [0, 1])).to_json()
    assert json.loads(json.dumps(result)) == {
        "samples": 4,
        "accuracy": 0.5,
        "accuracy_stderr": 0.25,
        "top5": None,
        "provider": "cpu",
    }
    unlabelled = evaluate(session, _data(session, [[1, 0]])).to_json()
    assert unlabelled["accuracy"] is unlabelled["accuracy_stderr"] is unlabelled["top5"] is None


def test_comparison_with_a_reference(build: Build) -> None:
    shifted = "g (float[N,K] x) => (float[N,K] z) <float[2] s = {1, 0}> { z = Add(x, s) }"
    session, reference = Session(build(shifted)), Session(build(ECHO))
    scores = np.array([[3, 0], [0, 0.5], [0, 3]], np.float32)
    result = evaluate(session, _data(session, scores), reference=reference).to_json()
    assert result["agreement"] == pytest.approx(2 / 3)
    assert result["output_relative_error"] == pytest.approx(
        np.linalg.norm([1, 1, 1]) / np.linalg.norm(scores)
    )
    same = evaluate(reference, _data(reference, scores), reference=reference)
    assert (same.agreement, same.output_relative_error) == (1, 0)
    half = Session(build(HALF))
    assert evaluate(half, _data(half, scores), reference=reference).output_relative_error == 0.5
    zero = evaluate(half, _data(half, np.zeros((2, 2))), reference=reference)
    assert zero.output_relative_error is None


def test_progress_counts_samples(build: Build, tmp_path: Path) -> None:
    session = Session(build(ECHO))
    np.savez(tmp_path / "d.npz", x=np.ones((5, 2), np.float32))
    seen: list[int] = []
    data = open_data(tmp_path / "d.npz", session.inputs)
    evaluate(session, data, batch=2, progress=seen.append)
    assert seen == [2, 2, 1]


def test_batch_size_does_not_matter(build: Build, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    session, reference = Session(build(HALF)), Session(build(ECHO))
    labels = rng.integers(0, 7, 50)
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(50, 7)).astype(np.float32), labels=labels)
    data = open_data(tmp_path / "d.npz", session.inputs)
    one, all_ = (evaluate(session, data, batch=size, reference=reference) for size in (1, 50))
    assert one.accuracy == all_.accuracy
    assert one.output_relative_error == pytest.approx(all_.output_relative_error)


@pytest.mark.parametrize("label", [-1, 2, 1000])
def test_labels_outside_the_classes_are_refused(build: Build, label: int) -> None:
    session = Session(build(ECHO))
    with pytest.raises(DataError, match=f"label {label} is not one of the 2 classes.*label_offset"):
        evaluate(session, _data(session, [[1, 0], [1, 0]], [0, label]))


def test_what_cannot_be_measured_is_refused(build: Build) -> None:
    echo = Session(build(ECHO))
    image = Session(
        build("g (float[N,K] x) => (float y) <int64[4] s = {-1, 2, 1, 2}> { y = Reshape(x, s) }")
    )
    two = Session(build(ECHO.replace("Identity(x)", "Neg(q) q = Neg(x)")), extra_outputs=["q"])
    root = Session(build(ECHO.replace("Identity", "Sqrt")))
    with pytest.raises(DataError, match="no class scores"):
        evaluate(image, _data(image, np.ones((2, 4)), [0, 1]))
    with pytest.raises(DataError, match=r"shape \(2, 4\) has shape \(2, 2, 1, 2\)"):
        evaluate(echo, _data(echo, np.ones((2, 4))), reference=image)
    with pytest.raises(DataError, match="2 outputs, the network 1"):
        evaluate(echo, _data(echo, [[1, 0]]), reference=two)
    with pytest.raises(ModelError, match="output 'y' holds NaN"):
        evaluate(root, _data(root, [[1, -1]]))
    with pytest.raises(DataError, match="output is empty"):
        evaluate(echo, _data(echo, np.ones((2, 0)), [0, 0]))


# Real networks


def _evaluate(shared: Path, model: str, data: str, samples: int | None = None) -> Any:
    path = shared / "models" / f"{model}.onnx"
    session = Session(path, provider="cpu")
    preprocess = Preprocess.sidecar(path)
    opened = open_data(shared / data, session.inputs, preprocess, samples=samples)
    return evaluate(session, opened)


def test_resnet20_has_its_known_accuracy(shared_data: Path) -> None:
    result = _evaluate(shared_data, "resnet20_cifar10", "cifar10/test.npz")
    assert result.samples == 700
    assert round(100 * result.accuracy, 2) == 91.71


def test_squeezenet_knows_imagenet_photographs(shared_data: Path) -> None:
    # 64.5 % of all 256; a wrong channel order or scale costs 6 points and more.
    result = _evaluate(shared_data, "squeezenet1.1_imagenet", "imagenet/test", samples=64)
    assert result.samples == 64
    assert result.accuracy > 0.58
    assert result.top5 > result.accuracy


def test_float16_network_with_a_literal_batch(shared_data: Path) -> None:
    full = _evaluate(shared_data, "squeezenet1.1_imagenet", "imagenet/test", samples=12)
    half = _evaluate(shared_data, "squeezenet1.1_imagenet_fp16_winml", "imagenet/test", samples=12)
    assert half.accuracy == pytest.approx(full.accuracy, abs=0.1)


def test_background_class_is_an_offset(shared_data: Path) -> None:
    result = _evaluate(shared_data, "mobilenet_v2_1.0_224_imagenet", "imagenet/test", samples=10)
    assert result.accuracy >= 0.7

"""Networks of scikit-learn, in the nodes that its converter skl2onnx writes.

Their first output is the label; the scores are the second, as a map for every sample unless the
converter was told otherwise. Scaling stands in front as an operator of the domain ai.onnx.ml.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphpass import convert, diagnose, verify
from graphpass_runtime.data import open_data
from graphpass_runtime.evaluation import evaluate
from graphpass_runtime.session import Session

TEXT = """<ir_version: 10, opset_import: ["": 21, "ai.onnx.ml": 1]>
pipeline (float[N,64] X) => (int64[N] label, {kind} probabilities) {{
    scaled = ai.onnx.ml.Scaler <offset = [0.3], scale = [3.0]> (X)
    cast = Cast <to = 1> (scaled)
    m0 = MatMul (cast, w0) a0 = Add (m0, b0) h0 = Relu (a0)
    m1 = MatMul (h0, w1) a1 = Add (m1, b1) h1 = Relu (a1)
    m2 = MatMul (h1, w2) a2 = Add (m2, b2) scores = Softmax <axis = 1> (a2)
    probabilities = {last} (scores)
    best = ArgMax <axis = 1, keepdims = 0> (scores)
    found = ai.onnx.ml.ArrayFeatureExtractor (classes, best)
    flat = Reshape (found, rest)
    label = Cast <to = 7> (flat)
}}"""
OUTPUTS = {
    "tensor": ("float[N,10]", "Identity"),
    "map": (
        "seq(map(int64, float))",
        f"ai.onnx.ml.ZipMap <classlabels_int64s = {list(range(10))}>",
    ),
}


def flat(images):
    return images.reshape(len(images), -1)


@pytest.fixture(scope="module")
def weights(digits) -> dict[str, np.ndarray]:
    networks = pytest.importorskip("sklearn.neural_network")
    net = networks.MLPClassifier((32, 16), max_iter=200, tol=1e-2, random_state=0)
    net.fit((flat(digits.train_images) - 0.3) * 3, digits.train_labels)
    found = {f"w{i}": w.astype(np.float32) for i, w in enumerate(net.coefs_)}
    found |= {f"b{i}": b.astype(np.float32) for i, b in enumerate(net.intercepts_)}
    return found | {"classes": np.arange(10), "rest": np.array([-1])}


@pytest.fixture(params=OUTPUTS)
def ann(request, weights, tmp_path) -> Path:
    kind, last = OUTPUTS[request.param]
    proto = onnx.parser.parse_model(TEXT.format(kind=kind, last=last))
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(proto, tmp_path / "ann.onnx")
    return tmp_path / "ann.onnx"


def test_classifier_converts_and_answers_like_itself(ann, digits, tmp_path) -> None:
    snn, calibration = tmp_path / "snn.onnx", [{"X": flat(digits.train_images[:256])}]
    test = [{"X": flat(digits.test_images), "labels": digits.test_labels}]
    convert(ann, snn, steps=32, data=calibration, first_activation="spiking")
    assert verify(ann, snn, data=test).equal
    assert diagnose(ann, snn, data=test).agreement > 0.95
    session, reference = Session(snn), Session(ann)
    result = evaluate(session, open_data(test, session.inputs), reference=reference)
    assert result.accuracy > 0.85  # of 500 digits; the label, which is the first output, has none
    assert result.agreement > 0.95
    assert result.output_relative_error < 0.2


def test_snn_gives_tensors(ann, digits, tmp_path) -> None:
    snn, x = tmp_path / "snn.onnx", flat(digits.train_images[:64])
    convert(ann, snn, steps=8, data=[{"X": x}])
    result = Session(snn).run({"X": x})
    assert result["probabilities"].shape == (64, 10)
    np.testing.assert_array_equal(result["label"], result["probabilities"].argmax(axis=1))

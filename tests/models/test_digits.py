"""The digits data and the networks that come with the package."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from graphpass_models import digits as digits_module
from graphpass_models.digits import (
    MODELS,
    digits_model_path,
    held_out_accuracy,
    load_digits,
    split_indices,
)
from graphpass_runtime.errors import DataError, ModelError, OptionError

# What models/README.md states, in digits out of 500. A rounding difference at a
# step of the staircase may turn a digit on another CPU: allow two.
CORRECT = {"digits_cnn": 495, "digits_qcfs_l8": 492, "digits_qcfs_l8_dynamo": 492}
MARGIN = 2

# Labels of the first held-out digits, and ink of their images in units of 1/16.
FIRST_LABELS = [2, 6, 1, 3, 5, 6, 7, 8, 0, 1]
FIRST_INK = [344, 306, 319, 321, 330]


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return load_digits()


def test_forms(digits):
    assert digits.train_images.shape == (1297, 1, 8, 8)
    assert digits.test_images.shape == (500, 1, 8, 8)
    for images in (digits.train_images, digits.test_images):
        assert images.dtype == np.float32
        assert images.flags.c_contiguous
        assert images.min() == 0.0
        assert images.max() == 1.0
    for labels, images in (
        (digits.train_labels, digits.train_images),
        (digits.test_labels, digits.test_images),
    ):
        assert labels.dtype == np.int64
        assert labels.shape == (len(images),)


def test_held_out_part_is_stratified(digits):
    assert np.bincount(digits.test_labels).tolist() == [50] * 10


def test_split_is_disjoint_complete_and_deterministic():
    labels = np.repeat(np.arange(10), 180)
    train, test = split_indices(labels)
    assert sorted([*train, *test]) == list(range(1800))
    again = split_indices(labels)
    np.testing.assert_array_equal(train, again[0])
    np.testing.assert_array_equal(test, again[1])


def test_split_stays_the_one_that_the_networks_were_trained_on(digits):
    assert digits.test_labels[:10].tolist() == FIRST_LABELS
    assert (digits.test_images[:5].sum(axis=(1, 2, 3)) * 16).tolist() == FIRST_INK


def test_no_held_out_image_was_trained_on(digits):
    train = {image.tobytes() for image in digits.train_images}
    assert not train & {image.tobytes() for image in digits.test_images}


def test_missing_scikit_learn_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match=r"pip install graphpass\[demo\]"):
        load_digits()


def test_importing_the_data_imports_no_torch():
    code = "import sys, graphpass_models.digits; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_network():
    with pytest.raises(OptionError, match="choose from digits_cnn"):
        digits_model_path("digits_rnn")


def test_network_that_was_not_installed(monkeypatch):
    monkeypatch.setattr(digits_module, "MODELS", ("gone",))
    with pytest.raises(ModelError, match="the file is missing"):
        digits_model_path("gone")


@pytest.mark.parametrize("name", MODELS)
def test_network_reaches_the_stated_accuracy(digits, name):
    correct = held_out_accuracy(digits_model_path(name), digits) * len(digits.test_labels)
    assert abs(correct - CORRECT[name]) <= MARGIN


@pytest.mark.parametrize("name", MODELS)
def test_network_file(name):
    path = digits_model_path(name)
    assert path.stat().st_size < 200_000
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == (18 if name.endswith("dynamo") else 17)
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape) == ("image", ["N", 1, 8, 8])
    assert (logits.name, logits.shape) == ("logits", ["N", 10])


def test_networks_hold_what_a_conversion_meets():
    found = {
        name: [node.op_type for node in onnx.load(digits_model_path(name)).graph.node]
        for name in MODELS
    }
    for name, operators in found.items():
        assert operators.count("Conv") == 4
        assert operators.count("MaxPool") == 2
        assert operators.count("Relu") == (4 if name == "digits_cnn" else 0)
        assert operators.count("Floor") == (0 if name == "digits_cnn" else 4)
        assert operators.count("BatchNormalization") == (0 if name.endswith("dynamo") else 4)


def test_both_exporters_wrote_the_same_function(digits):
    logits = [
        ort.InferenceSession(digits_model_path(name), providers=["CPUExecutionProvider"]).run(
            None, {"image": digits.test_images}
        )[0]
        for name in ("digits_qcfs_l8", "digits_qcfs_l8_dynamo")
    ]
    # Folding BatchNormalization moves currents by their last bits, so that single
    # samples take another step of the staircase; all others agree.
    differing = np.abs(logits[0] - logits[1]).max(axis=1) > 1e-3
    assert differing.mean() < 0.02

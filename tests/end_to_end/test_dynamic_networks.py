"""Networks that take the scale of every tensor anew: refused, or islands between neurons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnxruntime.quantization import quantize_dynamic

import graphpass_models
from graphpass import Session, convert, verify
from graphpass_models.digits import Digits
from graphpass_runtime.errors import GraphpassError


def test_scales_of_each_input_are_refused(digits: Digits, tmp_path: Path) -> None:
    ann, snn = tmp_path / "ann.onnx", tmp_path / "snn.onnx"
    source = Path(graphpass_models.__file__).parent / "digits_cnn.onnx"
    quantize_dynamic(source, ann)
    with pytest.raises(GraphpassError, match=r"takes from each tensor anew.*quantise statically"):
        convert(ann, snn, steps=255)
    assert not snn.exists()


def test_scales_of_each_input_as_islands(digits: Digits, tmp_path: Path) -> None:
    """Behind integers each channel still has a threshold of its own."""
    ann, snn = tmp_path / "ann.onnx", tmp_path / "snn.onnx"
    source = Path(graphpass_models.__file__).parent / "digits_cnn.onnx"
    quantize_dynamic(source, ann)
    images = [{"image": digits.train_images[:256]}]
    result = convert(ann, snn, steps=32, data=images, islands="allow")
    channels = {neuron.population: neuron.channels for neuron in result.record.neurons}
    assert list(channels.values()) == [16, 16, 32]
    feeds = {"image": digits.test_images}
    assert verify(ann, snn, [feeds]).equal
    logits = [Session(path).run(feeds)["logits"] for path in (ann, snn)]
    assert np.mean(logits[0].argmax(1) == logits[1].argmax(1)) > 0.95

"""The net that neurons are to match."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphpass import Session, convert
from graphpass.calibration.reference import neurons_of, reference_net
from graphpass.model import load

_IMAGES = np.random.default_rng(0).normal(0, 4, (5, 2, 6, 6)).astype(np.float32)


def _ann(activation: str, opset: int) -> onnx.ModelProto:
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}]>'
        " net (float[N,2,6,6] x) => (float[N,3] y) <float[3,2,1,1] w, float low = {0},"
        f" float high = {{6}}> {{ z = Conv (x, w) r = {activation}"
        " s = GlobalAveragePool (r) y = Flatten (s) }"
    )
    proto = onnx.parser.parse_model(text)
    weights = np.random.default_rng(1).normal(0, 1, (3, 2, 1, 1)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    return proto


@pytest.mark.parametrize(
    ("activation", "opset", "expected"),
    [
        ("Clip (z, low, high)", 17, "Clip"),  # one threshold: can be fused with the layer
        ("Clip <min = 0.0, max = 6.0> (z)", 10, "ClipReLU"),  # bounds were attributes
        ("Relu (z)", 17, "ClipReLU"),  # a threshold for each channel
    ],
)
def test_reference_is_the_ann(activation, opset, expected, tmp_path):
    ann = tmp_path / "ann.onnx"
    onnx.save(_ann(activation, opset), ann)
    options = {"data": [{"x": _IMAGES}], "calibrate": "none", "stages": tmp_path}
    convert(ann, tmp_path / "snn.onnx", steps=4, form="counts", **options)
    model = load(tmp_path / "2-daqcfs.onnx")
    reference = reference_net(model, neurons_of(model))
    assert expected in {node.op_type for node in reference.graph.node}
    found, wanted = (
        Session(net).run({"x": _IMAGES})["y"] for net in (reference.SerializeToString(), ann)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)

"""Networks that give as much as they find: the sizes of their outputs hang on values."""

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest

from graphpass import Session, convert, diagnose, evaluate, populations, verify
from graphpass_runtime.data import open_data

TEXT = """<ir_version: 8, opset_import: ["": 17]>
g (float[1,1,8,8] x) => (float[K] found, int64[2,K] where) <
    int64[1] flat = {-1}, int64[2] row = {1, -1}, float zero = {0}
> {
    a = Conv <pads = [1,1,1,1]> (x, w0) r = Relu (a)
    b = Conv <pads = [1,1,1,1]> (r, w1) s = Relu (b)
    c = Conv <pads = [1,1,1,1]> (s, w2) t = Relu (c)
    d = Conv (t, w3) scores = Reshape (d, flat) mask = Greater (scores, zero)
    found = Compress (scores, mask) m = Reshape (mask, row) where = NonZero (m)
}"""
WEIGHTS = [(6, 1, 3, 3), (8, 6, 3, 3), (8, 8, 3, 3), (2, 8, 1, 1)]


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(TEXT)
    for index, shape in enumerate(WEIGHTS):
        weight = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, f"w{index}"))
    path = tmp_path_factory.mktemp("detector") / "detector.onnx"
    onnx.save(proto, path)
    np.savez(path.with_name("x.npz"), x=rng.normal(size=(24, 1, 8, 8)).astype(np.float32))
    return path, path.with_name("x.npz")


@pytest.mark.parametrize("form", ["matmul", "counts", "int8"])
def test_detector(detector, tmp_path, form):
    ann, data = detector
    snn = tmp_path / "snn.onnx"
    done = convert(ann, snn, steps=32, data=data, form=form)
    assert len(populations.joined(done.record.neurons)) == 2
    assert verify(ann, snn, data).equal
    session, reference = Session(snn), Session(ann)
    result = evaluate(session, open_data(data, session.inputs), reference=reference)
    assert result.samples == 24
    assert result.agreement is None
    assert 0.0 < result.output_relative_error < 0.9  # of positions too, which are large numbers
    found = diagnose(ann, snn, data)
    assert found.output_error == pytest.approx(result.output_relative_error)
    assert sum(layer.share for layer in found.layers) == pytest.approx(1.0)

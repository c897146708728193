"""A MaxPool over windows of one element leaves elements out, and is linear."""

import numpy as np
import pytest

from graphpass import convert, verify
from graphpass.model import to_proto
from graphpass.passes.spell_subsampling import SpellSubsampling


def net(attributes):
    return f"g (float[N,2,7,6] x) => (float[N,2,A,B] y) {{ y = MaxPool <{attributes}> (x) }}"


@pytest.mark.parametrize("opset", [10, 13, 22])
@pytest.mark.parametrize(
    "attributes",
    [
        "kernel_shape = [1,1], strides = [2,2]",
        "kernel_shape = [1,1], strides = [3,1], dilations = [2,2]",
        "kernel_shape = [1,1]",
        'kernel_shape = [1,1], strides = [2,2], auto_pad = "VALID"',
    ],
)
def test_the_same_elements(bench, attributes, opset):
    proto = bench.proto(net(attributes), opset)
    after = bench.changed(SpellSubsampling, proto)
    assert bench.ops(after) == ["Slice"]
    x = np.random.default_rng(0).normal(size=(3, 2, 7, 6)).astype(np.float32)
    (before,), (found,) = (bench.run_feeds(p, {"x": x}) for p in (proto, to_proto(after)))
    np.testing.assert_array_equal(found, before)


@pytest.mark.parametrize(
    "attributes",
    [
        "kernel_shape = [1,2], strides = [2,2]",
        "kernel_shape = [1,1], strides = [2,2], pads = [0,1,0,0]",
        "kernel_shape = [1,1], strides = [2,2], ceil_mode = 1",
        'kernel_shape = [1,1], strides = [2,2], auto_pad = "SAME_UPPER"',
    ],
)
def test_nothing_else_is_changed(bench, attributes):
    bench.unchanged(SpellSubsampling, net(attributes))


def test_opset_without_steps(bench):
    bench.unchanged(SpellSubsampling, bench.proto(net("kernel_shape = [1,1]"), 9))


def test_sum_of_currents_is_shrunk(write_model, tmp_path):
    """As in the shortcut of a ResNet with its activations in front."""
    text = """g (float[N,2,6,6] x) => (float[N,2,A,B] y) {
        a = Relu (x) b = Conv (a, w) s = Add (a, b)
        p = MaxPool <kernel_shape = [1,1], strides = [2,2]> (s)
        r = Relu (s) c = Conv <strides = [2,2]> (r, w)
        y = Add (p, c)
    }"""
    weights = {"w": np.random.default_rng(1).normal(size=(2, 2, 1, 1)).astype(np.float32)}
    ann, snn = write_model(text, weights), tmp_path / "snn.onnx"
    data = [{"x": np.random.default_rng(2).normal(size=(16, 2, 6, 6)).astype(np.float32)}]
    convert(ann, snn, steps=8, data=data, first_activation="spiking")
    assert verify(ann, snn, data=data).equal

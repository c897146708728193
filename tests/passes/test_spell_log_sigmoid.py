"""LogSigmoid without the infinities of a logarithm of almost nothing."""

import numpy as np
import pytest

from graphpass.model import to_proto
from graphpass.passes.spell_log_sigmoid import SpellLogSigmoid


def net(body, outputs="float[N,4] y"):
    return f"g (float[N,4] x) => ({outputs}) {{ {body} }}"


@pytest.mark.parametrize("opset", [8, 13, 17])
def test_the_same_numbers_where_there_are_some(bench, opset):
    proto = bench.proto(net("s = Sigmoid (x) y = Log (s)"), opset)
    after = bench.changed(SpellLogSigmoid, proto)
    assert bench.ops(after) == ["Neg", "Softplus", "Neg"]
    x = np.linspace(-12, 30, 400, dtype=np.float32).reshape(-1, 4)
    (before,), (found,) = (bench.run_feeds(p, {"x": x}) for p in (proto, to_proto(after)))
    np.testing.assert_allclose(found, before, rtol=0.01, atol=2e-7)
    (far,) = bench.run_feeds(to_proto(after), {"x": np.full((1, 4), -80, np.float32)})
    np.testing.assert_array_equal(far, -80)


def test_a_sigmoid_that_others_read_stays(bench):
    text = net("s = Sigmoid (x) y = Log (s) z = Neg (s)", "float[N,4] y, float[N,4] z")
    after = bench.changed(SpellLogSigmoid, text)
    assert sorted(bench.ops(after)) == ["Neg", "Neg", "Neg", "Sigmoid", "Softplus"]


@pytest.mark.parametrize("body", ["s = Exp (x) y = Log (s)", "y = Log (x)", "y = Sigmoid (x)"])
def test_nothing_else_is_changed(bench, body):
    bench.unchanged(SpellLogSigmoid, net(body))

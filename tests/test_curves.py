"""What is read off a function: where it turns, and where it crosses levels."""

import math

import numpy as np
import onnx.parser
import pytest

from graphpass.curves import Curve, Unfit, level_crossings
from graphpass.model import from_proto, infer_shapes
from graphpass.regions import find_regions
from graphpass_runtime.errors import ModelError

K = (
    "float zero = {0.0}, float half = {0.5}, float one = {1.0}, float three = {3.0},"
    " float six = {6.0}, float root = {1.4142135}, float[3,1,1] slope = {0.5, -0.25, 0.0}"
)
SILU = "s = Sigmoid (x) y = Mul (x, s)"
HARD_SWISH = "a = Add (x, three) b = Clip (a, zero, six) y = Mul (x, b)"
GELU = "a = Div (x, root) b = Erf (a) c = Add (b, one) y = Mul (x, c)"
MISH = "a = Exp (x) b = Add (a, one) c = Log (b) d = Tanh (c) y = Mul (x, d)"
WAVE = "a = Neg (x) b = Mul (x, a) c = Exp (b) y = Mul (x, c)"  # x exp(-x^2)


def curve(body, opset=18):
    model = from_proto(
        onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["": {opset}]>'
            f" g (float[N,3,4,4] x) => (float[N,3,4,4] y) <{K}> {{ {body} }}"
        )
    )
    infer_shapes(model)
    return Curve.of(find_regions(model)["y"], opset)


@pytest.mark.parametrize(
    ("body", "sign"),
    [
        ("y = Sigmoid (x)", 1),
        ("y = LeakyRelu (x)", 1),
        ("y = Elu (x)", 1),
        ("y = Selu (x)", 1),
        ("y = Celu (x)", 1),
        ("y = Softplus (x)", 1),
        ("y = Softsign (x)", 1),
        ("y = HardSigmoid (x)", 1),
        ("y = Sign (x)", 1),
        ("y = ThresholdedRelu (x)", 1),
        ("y = Erf (x)", 1),
        ("y = Round (x)", 1),
        ("y = Atan (x)", 1),
        ("y = Asinh (x)", 1),
        ("y = Sinh (x)", 1),
        ("y = Shrink (x)", 1),
        ("a = Tanh (x) y = Sub (x, a)", 1),
        ("a = Exp (x) b = Add (a, one) y = Div (one, b)", -1),
    ],
)
def test_functions_that_do_not_turn(body, sign):
    (piece,) = curve(body).pieces()
    assert (piece.sign, piece.low, piece.high) == (sign, None, None)


@pytest.mark.parametrize(
    ("body", "turn", "close"),
    [
        (SILU, -1.278464543, 2e-3),
        (HARD_SWISH, -1.5, 2e-3),
        (GELU, -0.7517915244, 2e-3),
        (MISH, -1.1924370, 2e-3),
        ("y = HardSwish (x)", -1.5, 2e-3),
        ("y = Abs (x)", 0.0, 0.0),
        ("y = Mul (x, x)", 0.0, 1e-6),
    ],
)
def test_functions_with_a_valley(body, turn, close):
    left, right = curve(body).pieces()
    assert (left.sign, left.low, right.sign, right.high) == (-1, None, 1, None)
    np.testing.assert_array_equal(left.high, right.low)
    assert abs(left.high.item() - turn) <= close


def test_a_hill_has_its_rising_side_first():
    left, right = curve("a = Abs (x) b = Neg (a) y = Exp (b)").pieces()
    assert (left.sign, right.sign) == (1, -1)


def test_channels_turn_each_in_its_place():
    left, right = curve("y = PRelu (x, slope)").pieces()
    assert (left.sign, right.sign) == (-1, 1)
    assert right.low[1] == 0.0
    assert (right.low[[0, 2]] <= -1000).all()  # these never do


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (WAVE, "more than once"),
        ("y = Sqrt (x)", "no value"),
        ("y = Log (x)", "no value"),
        ("y = Reciprocal (x)", "no value"),
    ],
)
def test_functions_that_are_refused(body, reason):
    found = curve(body).pieces()
    assert isinstance(found, Unfit)
    assert reason in found.reason


def test_a_function_computes_what_its_nodes_compute():
    z = np.linspace(-6, 6, 97).astype(np.float32).reshape(-1, 1)
    by_hand = [value / (1 + math.exp(-value)) for value in z.ravel().tolist()]
    np.testing.assert_allclose(curve(SILU)(z).ravel(), by_hand, rtol=1e-5, atol=1e-6)
    many = np.repeat(z, 3, axis=1)
    slopes = np.array([0.5, -0.25, 0.0], np.float32)
    expected = np.where(many < 0, many * slopes, many)
    np.testing.assert_array_equal(curve("y = PRelu (x, slope)")(many), expected)


def test_same_function_same_file():
    first = curve("s = Sigmoid (x) y = Mul (x, s)")
    assert first == curve("other = Sigmoid (x) y = Mul (x, other)")


@pytest.mark.parametrize("body", ["y = Sigmoid (x)", "y = Tanh (x)", "y = LeakyRelu (x)"])
@pytest.mark.parametrize("levels", [1, 2, 8, 31])
def test_crossings_are_the_first_float32_that_reaches_a_level(body, levels):
    function = curve(body)
    gain = np.array([levels, levels / 2, levels * 4], np.float32)

    def potential(currents):
        return function(currents) * gain + np.float32(0.5)

    found = level_crossings(potential, 3, levels)
    assert found.shape == (levels, 3)
    assert (found[1:] >= found[:-1]).all()
    wanted = np.arange(1, levels + 1)[:, None]
    finite = np.isfinite(found)
    assert finite[:, 0].any()
    assert (potential(found) >= wanted)[finite].all()
    below = np.nextafter(found, np.float32(-np.inf))
    assert (potential(below) < wanted)[finite].all()


def test_levels_that_are_never_or_always_reached():
    function = curve("y = Sigmoid (x)")
    found = level_crossings(lambda z: function(z) * 4 - 1, 1, 4).ravel()
    assert np.isfinite(found[:2]).all()
    assert found[3] == np.inf
    assert (level_crossings(lambda z: function(z) + 9, 1, 4) == -np.inf).all()


@pytest.mark.parametrize("size", [1.0, 1e9, 1e24, 1e33])
def test_levels_of_currents_of_any_size(size):
    """One channel of them beside an ordinary one, whose levels are where they are alone."""
    function = curve("y = LeakyRelu (x)")
    threshold = np.array([size, 1.0], np.float32)

    def potential(currents):
        return function(currents) / threshold * 4 + 2

    found = level_crossings(potential, 2, 4)
    np.testing.assert_allclose(found[:, 0] / size, found[:, 1], rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(found[:, 1], [-25, 0, 0.25, 0.5], rtol=1e-6, atol=1e-5)


def test_a_jump_takes_all_levels_at_once():
    function = curve("y = Sign (x)")
    found = level_crossings(lambda z: function(z) * 4 + np.float32(0.5), 1, 4)
    assert (found > 0).all()
    assert (found < 1e-37).all()


def test_function_without_a_finite_value():
    with pytest.raises(ModelError, match="no finite value"):
        level_crossings(lambda z: np.full_like(z, np.inf), 2, 4)


def test_function_of_a_single_number():
    text = "g (float[N,3] x) => (float y) { a = ReduceMean <keepdims = 0> (x) y = Sigmoid (a) }"
    model = from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}'))
    infer_shapes(model)
    curve = Curve.of(find_regions(model)["y"], 17)
    found = curve(np.array([[0.0], [1.0]], np.float32))
    np.testing.assert_allclose(found, [[0.5], [1 / (1 + np.exp(-1))]], rtol=1e-6)

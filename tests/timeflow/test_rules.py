"""Every rule against numbers: what it says about the output is what ONNX Runtime computes."""

import os
from typing import Any

import numpy as np
import pytest

from graphpass.timeflow import Kind, TimeType
from graphpass.timeflow.view import known_operators

IMAGE = ("N", 3, 4, 4)
ROWS = ("N", 5, 6)


def i64(*values: int) -> Any:
    return np.array(values, np.int64)


def f32(*values: float) -> Any:
    return np.array(values, np.float32)


def case(op: str, shape: tuple[Any, ...] = IMAGE, **more: Any) -> dict[str, Any]:
    return {"op": op, "shape": shape, **more}


TRAIN = {"spikes": True}
OFFSET = {"spikes": True, "offset": True}
BY2 = f32(1, 1, 2, 1.5)
NORM = {"weights": {"s": (3,), "b": (3,), "m": (3,), "v": (3,)}}
POOL = "<kernel_shape = [2, 2]>"
PADDED = "<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]>"

LINEAR = [
    # element by element
    case("Identity (x)", **TRAIN),
    case("Dropout (x)", **TRAIN),
    case("Dropout <ratio = 0.3> (x)", opset=8, **TRAIN),
    case("Neg (x)", **TRAIN),
    case("Cast <to = 11> (x)", **TRAIN),
    case("Cast <to = 1> (x)", opset=8, **TRAIN),
    # sums
    case("Add (x, k)", weights={"k": (3, 1, 1)}, **OFFSET),
    case("Add (k, x)", weights={"k": (1,)}, opset=8, **OFFSET),
    case("Add (x, k)", weights={"k": (4, 4)}),
    case("Sub (x, k)", weights={"k": (3, 1, 1)}, **OFFSET),
    case("Add (x, z)", static={"z": IMAGE}),
    case("Add (x, z)", ROWS, at=2, channel=2, static={"z": ("N", 1, 6)}),
    case("Add (x, k)", ("N", 3), batch=1, channel=2, weights={"k": (2, 1, 3)}),
    case("Sub (x, k)", weights={"k": (4, 4)}),
    case("Sub (z, x)", static={"z": ("N", 3, 1, 1)}),
    case("Sum (x, k, z)", weights={"k": (3, 1, 1)}, static={"z": IMAGE}),
    case("Mean (x, k, z)", weights={"k": (3, 1, 1)}, static={"z": IMAGE}),
    case("Where (c, x, k)", weights={"c": np.eye(4, dtype=bool), "k": f32(2.0)}),
    case("Where (c, z, x)", weights={"c": np.eye(4, dtype=bool)}, static={"z": IMAGE}),
    # products
    case("Mul (x, k)", weights={"k": f32(2.5)}, **TRAIN),
    case("Mul (k, x)", weights={"k": (3, 1, 1)}, **TRAIN),
    case("Mul (x, k)", weights={"k": (1, 3, 1, 1)}, opset=8, **TRAIN),
    case("Mul (x, k)", weights={"k": (1, 1, 4, 4)}),
    case("Mul (x, k)", weights={"k": (3, 4, 4)}),
    case("Mul (x, k)", ROWS, at=2, channel=2, weights={"k": (6,)}, **TRAIN),
    case("Mul (x, k)", ROWS, at=2, channel=2, weights={"k": (5, 1)}),
    case("Mul (x, k)", ROWS, at=None, channel=None, weights={"k": (6,)}),
    case("Mul (x, k)", ("N", 1, 4), weights={"k": (5, 1)}, **TRAIN),
    case("Mul (x, z)", static={"z": ("N", 3, 1, 1)}),
    case("Div (x, k)", weights={"k": (3, 1, 1)}, **TRAIN),
    case("Div (x, k)", weights={"k": (4,)}),
    case("Div (x, z)", static={"z": ("N", 1, 1, 1)}),
    # matrices
    case("MatMul (x, k)", ROWS, at=2, channel=2, weights={"k": (6, 7)}),
    case("MatMul (x, k)", ("N", 6), weights={"k": (6, 7)}),
    case("MatMul (k, x)", ROWS, weights={"k": (7, 5)}),
    case("MatMul (k, x)", (6, "N"), at=0, batch=1, channel=0, weights={"k": (7, 6)}),
    case("MatMul (x, k)", (5, "N", 6), at=2, batch=1, channel=2, weights={"k": (6, 7)}),
    case("MatMul (x, k)", ("N", 2, 5, 6), at=3, channel=3, weights={"k": (1, 2, 6, 7)}),
    case("MatMul (x, k)", ("N", 6), at=1, batch=1, channel=2, weights={"k": (2, 6, 7)}),
    case("MatMul (x, z)", ROWS, at=2, channel=2, static={"z": ("N", 6, 7)}),
    case("MatMul (z, x)", ROWS, channel=1, static={"z": ("N", 7, 5)}),
    case("MatMul (x, k)", ROWS, at=2, channel=None, weights={"k": (6,)}),
    case("MatMul (k, x)", ("N", 6, 7), weights={"k": (6,)}, channel=None),
    case('Einsum <equation = "nsc,cd->nsd"> (x, k)', ROWS, channel=2, weights={"k": (6, 7)}),
    case('Einsum <equation = "ij,nja"> (k, x)', ROWS, channel=1, batch=2, weights={"k": (7, 5)}),
    case('Einsum <equation = "nsc,nsd->ncd"> (x, z)', ROWS, channel=2, static={"z": ("N", 5, 2)}),
    case('Einsum <equation = "nsc->cn"> (x)', ROWS, channel=None, batch=1),
    case("Gemm (x, k)", ("N", 6), weights={"k": (6, 7)}, opset=11),
    case("Gemm <alpha = 0.5, beta = 2.0> (x, k, c)", ("N", 6), weights={"k": (6, 7), "c": (7,)}),
    case("Gemm <transA = 1> (x, k)", (6, "N"), at=0, weights={"k": (6, 7)}),
    case("Gemm <transB = 1> (x, k, z)", ("N", 6), weights={"k": (7, 6)}, static={"z": ("N", 7)}),
    # convolutions and what has its shape
    case("Conv <pads = [1,1,1,1]> (x, k, c)", weights={"k": (5, 3, 3, 3), "c": (5,)}),
    case("Conv <group = 3> (x, k)", weights={"k": (3, 1, 2, 2)}, opset=8),
    case("Conv (x, k)", ("N", 3, 6), weights={"k": (5, 3, 2)}, opset=26),
    case("ConvTranspose (x, k, c)", weights={"k": (3, 5, 2, 2), "c": (5,)}),
    case("BatchNormalization (x, s, b, m, v)", **NORM),
    case("BatchNormalization (x, s, b, m, v)", opset=8, **NORM),
    case(f"AveragePool {PADDED} (x)"),
    case("AveragePool <kernel_shape = [2, 2], ceil_mode = 1> (x)", opset=26),
    case("GlobalAveragePool (x)"),
    # moves
    case("Transpose <perm = [0, 2, 3, 1]> (x)", channel=3, **TRAIN),
    case("Transpose <perm = [1, 0, 3, 2]> (x)", batch=1, channel=0, **TRAIN),
    case("Transpose (x)", ROWS, at=2, batch=2, channel=0, **TRAIN),
    case("Squeeze (x, a)", ("N", 3, 1, 4), weights={"a": i64(2)}, **TRAIN),
    case("Squeeze (x, a)", ("N", 1, 4), at=2, channel=1, weights={"a": i64(-2)}, **TRAIN),
    case("Squeeze <axes = [0]> (x)", (1, "N", 3), at=2, opset=11, **TRAIN),
    case("Squeeze (x)", ("N", 1, 3, 1), at=2, **TRAIN),
    case("Squeeze (x, a)", ("N", 1, 4), channel=None, weights={"a": i64(1)}),
    case("Unsqueeze (x, a)", ("N", 3), channel=3, weights={"a": i64(1, 2)}, **TRAIN),
    case("Unsqueeze (x, a)", ("N", 3), batch=1, channel=2, weights={"a": i64(0)}, **TRAIN),
    case("Unsqueeze <axes = [-1]> (x)", ("N", 3), opset=11, **TRAIN),
    case("Flatten (x)", channel=None),
    case("Flatten (x)", ("N", 3, 1, 1), **TRAIN),
    case("Flatten (x)", at=None, channel=None, **TRAIN),
    case("Flatten <axis = 2> (x)", ROWS, at=2, channel=1, inner=5, **TRAIN),
    case("Flatten <axis = -1> (x)", ROWS, at=2, channel=1, inner=5, opset=11, **TRAIN),
    case("Reshape (x, t)", weights={"t": i64(0, 3, -1)}, **TRAIN),
    case("Reshape (x, t)", weights={"t": i64(-1, 48)}, channel=None),
    case("Reshape (x, t)", weights={"t": i64(-1, 16)}, channel=None, inner=3),
    case("Reshape (x, t)", weights={"t": i64(1, -1)}, batch=1, channel=None, inner=48),
    case("Flatten (x)", (2, "N", 3), at=2, batch=1, channel=None, inner=3),
    case("Reshape (x, t)", ROWS, at=2, weights={"t": i64(-1, 6)}, inner=5, **TRAIN),
    case("Reshape (x, t)", ("N", 6), weights={"t": i64(1, -1, 6)}, batch=1, channel=2, **TRAIN),
    case("Reshape (x, t)", ("N", 6), weights={"t": i64(-1, 2, 3)}, channel=None),
    case(
        "Reshape (x, t)",
        (2, "N", 3),
        at=2,
        weights={"t": i64(2, -1, 3)},
        batch=1,
        channel=2,
        **TRAIN,
    ),
    case("Reshape (x, t)", weights={"t": i64(0, 0, 2, -1)}, opset=8, **TRAIN),
    case("Reshape (x, t)", ("N", 4, "W", 6), weights={"t": i64(0, 2, 2, -1)}, channel=None),
    case(
        "Reshape (x, t)",
        (2, "N", 3, 4),
        at=3,
        weights={"t": i64(2, -1, 4)},
        batch=1,
        channel=2,
        inner=3,
        **TRAIN,
    ),
    case("DepthToSpace <blocksize = 2> (x)", ("N", 8, 2, 3)),
    case("DepthToSpace <blocksize = 2> (x)", ("N", 8, 2, 3), at=None, **TRAIN),
    case("SpaceToDepth <blocksize = 2> (x)", ("N", 2, 4, 6)),
    # parts
    case("Concat <axis = 1> (x, z)", static={"z": ("N", 2, 4, 4)}, channel=None),
    case("Concat <axis = 1> (x, x)", **TRAIN),
    case("Concat <axis = -1> (x, x)", **{"spikes": False}),
    case("Concat <axis = 0> (x, z)", (5, "N"), static={"z": (2, "N")}, at=0, batch=1, channel=None),
    case("Split <axis = 1> (x, p)", weights={"p": i64(1, 2)}, outputs="y, r", **TRAIN),
    case("Split <axis = 2> (x)", outputs="y, r", **TRAIN),
    case("Split <axis = -1, split = [1, 3]> (x)", outputs="y, r", opset=11, **TRAIN),
    case("Gather <axis = 1> (x, p)", weights={"p": i64(2, 0)}, **TRAIN),
    case("Gather <axis = 1> (x, p)", weights={"p": np.array(1)}, channel=None),
    case("Gather <axis = 2> (x, p)", weights={"p": np.array(1)}, **TRAIN),
    case(
        "Gather <axis = 0> (x, p)", (5, "N", 3), at=2, weights={"p": np.array(1)}, batch=0, **TRAIN
    ),
    case("Gather <axis = -1> (x, p)", weights={"p": i64(0, 1, 2, 3).reshape(2, 2)}, **TRAIN),
    case(
        "Gather <axis = 1> (x, p)",
        ROWS,
        at=2,
        weights={"p": i64(0, 1).reshape(1, 2)},
        channel=3,
        **TRAIN,
    ),
    case("Slice (x, s, e, a)", weights={"s": i64(1), "e": i64(3), "a": i64(1)}, **TRAIN),
    case("Slice (x, s, e)", weights={"s": i64(0, 1), "e": i64(2**40, 3)}, **TRAIN),
    case("Slice <starts = [1], ends = [9], axes = [3]> (x)", opset=9, **TRAIN),
    case(
        "Slice (x, s, e, a, p)",
        weights={"s": i64(-1), "e": i64(-9), "a": i64(-1), "p": i64(-2)},
        opset=11,
        **TRAIN,
    ),
    case("Pad (x, p)", weights={"p": i64(0, 0, 1, 1, 0, 0, 1, 0)}, **TRAIN),
    case("Pad (x, p)", weights={"p": i64(0, 1, 0, 0, 0, 2, 0, 0)}, **TRAIN),
    case("Pad (x, p, v)", weights={"p": i64(0, 0, 1, 1, 0, 0, 1, 0), "v": f32(0.5)[0]}),
    case('Pad (x, p, "", a)', weights={"p": i64(1, 1), "a": i64(-1)}, opset=18, **TRAIN),
    case('Pad <mode = "reflect"> (x, p)', weights={"p": i64(0, 0, 1, 1, 0, 0, 1, 1)}, **TRAIN),
    case("Pad <pads = [0, 0, 1, 0, 0, 0, 0, 1]> (x)", opset=8, **TRAIN),
    case("Pad <pads = [0, 0, 1, 0, 0, 0, 0, 1], value = -1.0> (x)", opset=9),
    case("Tile (x, p)", weights={"p": i64(1, 2, 1, 3)}, **TRAIN),
    case("Expand (x, p)", ("N", 3, 1), weights={"p": i64(1, 1, 5)}, **TRAIN),
    case("Expand (x, p)", ("N", 3, 1), weights={"p": i64(3, 4)}, **TRAIN),
    case("Expand (x, p)", ("N", 3), batch=1, channel=2, weights={"p": i64(2, 1, 3)}, **TRAIN),
    case("Trilu <upper = 0> (x)", **TRAIN),
    case("Trilu (x, p)", ROWS, weights={"p": np.array(1)}, **TRAIN),
    # pixels
    case('Upsample <mode = "nearest", scales = [1.0, 1.0, 2.0, 2.0]> (x)', opset=8, **TRAIN),
    case('Upsample <mode = "linear"> (x, s)', weights={"s": BY2}, opset=9),
    case('Resize <mode = "nearest"> (x, s)', weights={"s": BY2}, opset=10, **TRAIN),
    case('Resize <mode = "linear"> (x, r, s)', weights={"r": f32(), "s": BY2}, opset=11),
    case('Resize (x, "", s)', weights={"s": BY2}, **TRAIN),
    case('Resize (x, "", s)', weights={"s": f32(1, 2, 1, 1)}, spikes=False),
    case('Resize <mode = "linear"> (x, "", s)', weights={"s": BY2}),
    case('Resize <mode = "cubic", antialias = 1> (x, "", s)', weights={"s": BY2}, opset=19),
    case(
        'Resize <coordinate_transformation_mode = "tf_crop_and_resize", extrapolation_value = 2.0>'
        " (x, r, s)",
        weights={"r": f32(0, 0, -0.5, 0, 1, 1, 1.5, 1), "s": BY2},
    ),
    case('Resize <axes = [2, -1]> (x, "", "", z)', weights={"z": i64(7, 3)}, opset=18, **TRAIN),
    case("GridSample (x, z)", static={"z": ("N", 2, 5, 2)}),
    # reductions
    case("CumSum (x, a)", weights={"a": np.array(1)}),
    case("ReduceMean <axes = [2, 3]> (x)", opset=13),
    case("ReduceMean <axes = [-1], keepdims = 0> (x)", opset=8),
    case("ReduceMean <keepdims = 0> (x, a)", weights={"a": i64(2, 3)}, opset=18),
    case("ReduceMean <keepdims = 0> (x, a)", weights={"a": i64(1)}, opset=26, channel=None),
    case("ReduceMean <noop_with_empty_axes = 1> (x)", opset=18, **TRAIN),
    case("ReduceSum (x, a)", weights={"a": i64(-1)}, opset=13),
    case("ReduceSum <axes = [1]> (x)", opset=11, channel=None),
    case("ReduceSum <noop_with_empty_axes = 1> (x, a)", weights={"a": i64()}, opset=13, **TRAIN),
    case("ReduceSum <keepdims = 0> (x, a)", (2, "N", 3), at=2, weights={"a": i64(0)}),
]

# The maximum commutes with the mean on trains, and only there.
POOLS = [
    case(f"MaxPool {PADDED} (x)", **TRAIN),
    case(f"MaxPool {POOL} (x)", opset=8, **TRAIN),
    case(
        "MaxPool <kernel_shape = [2, 2], ceil_mode = 1, dilations = [2, 1]> (x)", opset=12, **TRAIN
    ),
    case(f"MaxPool {POOL} (x)", at=None, **TRAIN),
    case("MaxPool <kernel_shape = [3]> (x)", ("N", 3, 6), opset=26, **TRAIN),
    case("GlobalMaxPool (x)", **TRAIN),
    case("GlobalMaxPool (x)", opset=8, **TRAIN),
    case("ReduceMax <axes = [2, 3]> (x)", opset=13, **TRAIN),
    case("ReduceMax <axes = [-1], keepdims = 0> (x)", opset=11, **TRAIN),
    case("ReduceMax <keepdims = 0> (x, a)", weights={"a": i64(2, 3)}, opset=18, **TRAIN),
]


if "GRAPHPASS_OLDEST" in os.environ:
    # ONNX Runtime 1.21 to 1.23 do not survive a Resize whose axes count from the end.
    LINEAR = [given for given in LINEAR if "axes = [2, -1]" not in given["op"]]


def ids(cases):
    return [f"{c['op']} {c['shape']} {c.get('opset', 17)}".replace(" ", "") for c in cases]


@pytest.mark.parametrize("given", LINEAR, ids=ids(LINEAR))
def test_currents(bench, given):
    case = bench.case(**given)
    steps = bench.steps(case)
    found = steps.verdict(Kind.CURRENT)
    assert isinstance(found, TimeType), found
    assert (found.kind, found.poolable) == (Kind.CURRENT, False)
    assert (found.batch_axis, found.channel_axis, found.inner) == (
        case.batch,
        case.channel,
        case.inner,
    )
    steps.mean_commutes(steps.currents(), found.batch_axis)


@pytest.mark.parametrize("given", LINEAR + POOLS, ids=ids(LINEAR + POOLS))
def test_spikes(bench, given):
    case = bench.case(**given)
    steps = bench.steps(case)
    found = steps.verdict(Kind.SPIKES)
    assert isinstance(found, TimeType), found
    assert (found.batch_axis, found.channel_axis, found.inner) == (
        case.batch,
        case.channel,
        case.inner,
    )
    assert found.poolable is case.spikes
    if case.spikes:
        assert found.kind is (Kind.CURRENT if case.offset else Kind.SPIKES)
        y = steps.by_step(steps.trains(), case.batch)
        assert case.offset or bench.are_trains(y, case.channel)
        bench.maximum_commutes(y, case.batch, case.channel)
    steps.mean_commutes(steps.trains(), case.batch)


@pytest.mark.parametrize("given", LINEAR + POOLS, ids=ids(LINEAR + POOLS))
def test_static(bench, given):
    """Nothing varies: the rule only says where the axes went."""
    case = bench.case(**given)
    found = bench.steps(case).verdict(Kind.STATIC)
    assert isinstance(found, TimeType), found
    assert not found.varies
    assert (found.batch_axis, found.inner) == (case.batch, case.inner)


@pytest.mark.parametrize("given", POOLS, ids=ids(POOLS))
def test_maximum_of_currents_is_another_number(bench, given):
    """What the refusal of MaxPool is for: the test above could not pass on currents."""
    steps = bench.steps(bench.case(**given))
    with pytest.raises(AssertionError):
        steps.mean_commutes(steps.currents(), 0)


# Rules that let no tensor pass that varies in time; see test_refusals.py.
REFUSING = {
    *("ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger"),
    *("QLinearConv", "QLinearMatMul", "QuantizeLinear"),
}


def test_every_rule_has_a_case():
    tested = {given["op"].split()[0] for given in LINEAR + POOLS}
    # Shape gives sizes and no currents: see test_infer.py.
    assert set(known_operators()) - {"Shape"} == tested | REFUSING


@pytest.mark.parametrize(
    ("y", "channel", "trains"),
    [
        ([[[0, 0]], [[0, 3]], [[2, 3]]], 1, True),
        ([[[0, 0]], [[0, 2]], [[2, 2]]], None, True),
        ([[[0, 0]], [[0, 3]], [[2, 3]]], 0, False),
        ([[[0, 0]], [[0, 3]], [[2, 3]]], None, False),
        ([[[0, 0]], [[2, 3]], [[0, 3]]], 1, False),
        ([[[0, 0]], [[1, 3]], [[2, 3]]], 1, False),
    ],
)
def test_what_counts_as_trains(bench, y, channel, trains):
    assert bench.are_trains(np.array(y, float), channel) is trains

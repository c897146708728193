"""Every function of the domain, in every opset, against NumPy."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

from graphpass import dialect
from graphpass_runtime.metadata import PREFIX

OPSETS = range(8, 27)
HALF_EVEN = "HalfEven"
T, N = 4, 3
THETA = np.array([0.5, 1.0, 2.0], np.float32).reshape(3, 1)
SHIFT = np.array([0.1, -0.2, 0.05], np.float32).reshape(3, 1)
AMPLITUDE = np.array([0.2, 0.3, -0.4], np.float32).reshape(3, 1)
LEVELS = np.array(T, np.float32)

_rng = np.random.default_rng(1)
STATIC = _rng.normal(0.3, 1.0, (N, 3, 5)).astype(np.float32)
CURRENTS = _rng.normal(0.3, 1.5, (T, N, 3, 5)).astype(np.float32)
COMMON = {"threshold": THETA, "shift": SHIFT, "amplitude": AMPLITUDE, "levels": LEVELS}
FOLDED = {"x": CURRENTS.reshape(T * N, 3, 5)}
UNFOLD = {"lead": np.array([-1]), "rest": np.array([1, 2])}
COUNTDOWN = np.arange(T, 0, -1, dtype=np.float32).reshape(T, 1)


def potential(current, middle=0.5):
    return T * (current.astype(np.float64) + SHIFT) / THETA + middle


def count(current):
    return np.clip(np.floor(potential(current)), 0, T)


def opsets(name):
    return range(dialect.OLDEST_HALF_EVEN, 27) if name.endswith(HALF_EVEN) else OPSETS


def train(n):
    """[T*N, ...]: silence first, spikes last."""
    steps = np.arange(T).reshape(T, 1, 1, 1)
    return (steps >= T - n).reshape(T * N, *n.shape[1:])


STATIC_COUNT = count(STATIC)
TRAIN_COUNT = count(CURRENTS.mean(axis=0))
QCFS_COUNT = np.clip(np.floor(T * STATIC / THETA + 0.5), 0, T)
AT_EVERY_STEP = np.broadcast_to(potential(CURRENTS.mean(axis=0)), (T, N, 3, 5)).reshape(T * N, 3, 5)
STEPS = np.arange(1, T + 1, dtype=np.float32).reshape(T, 1)
V = _rng.normal(0, 0.5, STATIC.shape).astype(np.float32)
CHARGED = STATIC + SHIFT + V
FIRED = CHARGED >= THETA / 2


def trains_of(n):
    return {"y": train(n) * AMPLITUDE * T, "spikes": train(n)}


# Level crossings [T, C], and beside a tensor with time ahead, in the order of the steps.
CROSSINGS = np.sort(_rng.normal(0.3, 0.6, (T, 3)), axis=0).astype(np.float32)
FREE = {
    "crossings": CROSSINGS[::-1].reshape(T, 1, 3, 1).copy(),
    "levels": LEVELS,
    "amplitude": AMPLITUDE,
}


def crossed(current):
    return (current[..., None] >= CROSSINGS.T[:, None]).sum(axis=-1)


# function -> (inputs, expected outputs)
CASES = {
    "ClipReLU": (
        {"x": STATIC, "threshold": THETA},
        {"y": np.minimum(np.maximum(STATIC, 0), THETA)},
    ),
    "ClipAbove": (
        {"x": STATIC, "sign": np.array(-1, np.float32), "floor": SHIFT, "threshold": THETA},
        {"y": np.clip(-STATIC - SHIFT, 0, THETA)},
    ),
    "QCFS": (
        {"x": STATIC, "threshold": THETA, "levels": LEVELS},
        {"y": QCFS_COUNT * THETA / T},
    ),
    "DAQCFS": (
        {"x": STATIC, **COMMON},
        {
            "y": STATIC_COUNT * AMPLITUDE,
            "potential": potential(STATIC),
            "spikes": STATIC_COUNT,
        },
    ),
    "SpikeCount": (
        {"x": potential(STATIC).astype(np.float32), "levels": LEVELS},
        {"spikes": STATIC_COUNT},
    ),
    "ParallelSpikes": (
        {
            **FOLDED,
            **COMMON,
            "conversion": np.ones((T, T), np.float32),
            "steps": COUNTDOWN,
            "split": np.array([T, -1]),
        },
        {**trains_of(TRAIN_COUNT), "potential": AT_EVERY_STEP},
    ),
    "ParallelSpikesStatic": (
        {"x": STATIC, **COMMON, "steps": COUNTDOWN, "split": np.array([1, -1]), **UNFOLD},
        {**trains_of(STATIC_COUNT), "potential": potential(STATIC)},
    ),
    "SortedSpikes": (
        {
            **FOLDED,
            **COMMON,
            "steps": STEPS,
            "sum": np.ones((1, T), np.float32),
            "split": np.array([T, -1]),
            "row": np.array([1, -1]),
            **UNFOLD,
        },
        {**trains_of(TRAIN_COUNT), "potential": potential(CURRENTS.mean(axis=0))},
    ),
    "SortedSpikesStatic": (
        {"x": STATIC, **COMMON, "steps": STEPS, "row": np.array([1, -1]), **UNFOLD},
        {**trains_of(STATIC_COUNT), "potential": potential(STATIC)},
    ),
    "StaircaseSpikes": (
        {
            **FOLDED,
            **FREE,
            "charging": np.ones((T, T), np.float32),
            "split": np.array([T, -1]),
            "apart": np.array([T, -1]),
            **UNFOLD,
        },
        {
            **trains_of(crossed(CURRENTS.mean(axis=0))),
            "potential": np.tile(CURRENTS.mean(axis=0), (T, 1, 1)),
        },
    ),
    "StaircaseSpikesStatic": (
        {"x": STATIC, **FREE, "apart": np.array([1, -1]), **UNFOLD},
        {**trains_of(crossed(STATIC)), "potential": STATIC},
    ),
    "SerialIF": (
        {"x": STATIC, "v": V, **COMMON},
        {"y": FIRED * AMPLITUDE * T, "v_next": CHARGED - FIRED * THETA, "spikes": FIRED},
    ),
    "RepeatInTime": (
        {"x": STATIC, "repeats": np.array([T, 1, 1])},
        {"y": np.tile(STATIC, (T, 1, 1))},
    ),
    "MeanOverTime": (
        {
            **FOLDED,
            "average": np.full((1, T), 1 / T, np.float32),
            "split": np.array([T, -1]),
            **UNFOLD,
        },
        {"y": CURRENTS.mean(axis=0)},
    ),
}
# Random currents lie on no tie: there, counts are the same, and u has no 1/2.
CASES |= {
    name + HALF_EVEN: (
        inputs,
        {key: value - 0.5 if key == "potential" else value for key, value in outputs.items()},
    )
    for name, (inputs, outputs) in list(CASES.items())
    if name + HALF_EVEN in dialect.FUNCTIONS
}
# Their tests are beside the passes that write them.
ELSEWHERE = {"RoundedCount", "RoundedCountHalfEven", "NearestCount"}


def call(name, opset, inputs):
    """A model of one call, with all of its outputs."""
    (function,) = dialect.functions([name], opset)
    assert set(function.input) == set(inputs)
    types = {
        np.dtype(np.float32): onnx.TensorProto.FLOAT,
        np.dtype(np.int64): onnx.TensorProto.INT64,
    }
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(name, function.input, function.output, domain=dialect.DOMAIN)],
        "g",
        [
            onnx.helper.make_tensor_value_info(
                n, types[inputs[n].dtype], ["N", *inputs[n].shape[1:]][: inputs[n].ndim]
            )
            for n in function.input
        ],
        [onnx.ValueInfoProto(name=output) for output in function.output],
    )
    model = onnx.helper.make_model(
        graph,
        ir_version=8,
        opset_imports=[
            onnx.helper.make_opsetid("", opset),
            onnx.helper.make_opsetid(dialect.DOMAIN, dialect.VERSION),
        ],
        functions=[function],
    )
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    for output in inferred.graph.output:  # some sizes are only known at run time
        if not output.type.tensor_type.HasField("shape"):
            for axis in range(3):
                output.type.tensor_type.shape.dim.add(dim_param=f"{output.name}_{axis}")
    onnx.checker.check_model(inferred, full_check=True)
    return inferred


def run(model, inputs):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


@pytest.mark.parametrize(("name", "opset"), [(n, o) for n in CASES for o in opsets(n)])
def test_function_against_numpy(name, opset):
    inputs, expected = CASES[name]
    found = run(call(name, opset, inputs), inputs)
    assert set(found) >= set(expected)
    for key, value in expected.items():
        assert found[key].shape == np.shape(value), key
        np.testing.assert_allclose(
            found[key].astype(np.float64), value, rtol=1e-5, atol=1e-5, err_msg=key
        )


def test_every_function_is_tested():
    assert set(CASES) | ELSEWHERE == dialect.FUNCTIONS


@pytest.mark.parametrize(
    ("name", "opset"), [(n, o) for n in sorted(dialect.FUNCTIONS) for o in opsets(n)]
)
def test_bodies_are_flat_and_of_the_models_opset(name, opset):
    (function,) = dialect.functions([name], opset)
    assert (function.domain, function.name) == ("graphpass", name)
    assert [(o.domain, o.version) for o in function.opset_import] == [("", opset)]
    for node in function.node:
        assert node.domain == ""
        assert node.op_type not in ("If", "Loop", "Scan")
        assert not any(attribute.HasField("g") for attribute in node.attribute)


@pytest.mark.parametrize("opset", [8, 11, 26])
@pytest.mark.parametrize("name", ["QCFS", "DAQCFS"])
def test_half_way_values_fire(name, opset):
    found, scale = half_way(name, opset)
    np.testing.assert_array_equal(found, np.clip(np.arange(-2, 7), 0, T) * scale)


@pytest.mark.parametrize("opset", [11, 26])
@pytest.mark.parametrize("name", ["QCFSHalfEven", "DAQCFSHalfEven"])
def test_half_way_values_give_even_counts(name, opset):
    found, scale = half_way(name, opset)
    np.testing.assert_array_equal(found, np.array([0, 0, 0, 0, 2, 2, 4, 4, 4]) * scale)


def half_way(name, opset):
    """Outputs for u = -2 .. 6 with the 1/2, theta = 2, and the output of a spike."""
    inputs = {
        "x": (np.arange(-2, 7, dtype=np.float32).reshape(1, 1, 9) - 0.5) / 2,
        "threshold": np.full((1, 1), 2, np.float32),
        "levels": LEVELS,
    }
    if "shift" in dialect.functions([name], opset)[0].input:
        inputs |= {"shift": np.zeros((1, 1), np.float32), "amplitude": np.ones((1, 1), np.float32)}
    found = run(call(name, opset, inputs), inputs)
    return found["y"].ravel(), 1.0 if "amplitude" in inputs else 0.5


def test_functions_come_in_alphabetical_order():
    names = ["SpikeCount", "ClipReLU", "QCFS"]
    assert [f.name for f in dialect.functions(names, 17)] == sorted(names)
    assert [f.name for f in dialect.functions(set(names), 17)] == sorted(names)
    assert dialect.functions([], 17) == []


def test_same_bytes_every_time():
    first, second = (
        [f.SerializeToString() for f in dialect.functions(dialect.FUNCTIONS, 17)] for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("name", ["QCFS", "DAQCFS", "MeanOverTime", "RepeatInTime"])
def test_half_precision(name):
    inputs, expected = CASES[name]
    small = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in inputs.items()}
    (function,) = dialect.functions([name], 17, half=True)
    types = {"e": onnx.TensorProto.FLOAT16, "l": onnx.TensorProto.INT64, "q": 7}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(name, function.input, function.output, domain="graphpass")],
        "g",
        [
            onnx.helper.make_tensor_value_info(n, types[small[n].dtype.char], small[n].shape)
            for n in function.input
        ],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT16, list("abc"))],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("graphpass", 1)]
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=opsets, functions=[function])
    onnx.checker.check_model(model, full_check=True)
    found = run(model, small)["y"]
    assert found.dtype == np.float16
    # A potential near a half may fall on the other side: one step of the amplitude.
    assert np.mean(np.abs(found - expected["y"]) > 1e-2) < 0.05


def test_no_name_can_be_taken_for_metadata():
    assert f"{dialect.DOMAIN}." == PREFIX

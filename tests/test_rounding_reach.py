"""What rounding moves: further behind what amplifies it, and no further than it does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphpass import convert, verify
from graphpass.instrument import Instrumented, neurons_record
from graphpass.model import load
from graphpass.rounding_reach import RoundingReach
from graphpass.verification import NEAR, _reference_model
from graphpass_models.digits import Digits, digits_model_path

CPU = {"provider": "cpu", "threads": 1}

# The channels of b differ little beside their size, and the division makes much of it.
NET = """g (float[N,4] x) => (float[N,8] y) {
    z = MatMul (x, w1)
    r = Relu (z)
    a = MatMul (r, w2)
    b = Add (a, far)
    m = ReduceMean <axes = [1]> (b)
    d = Sub (b, m)
    e = Abs (d)
    v = ReduceMean <axes = [1]> (e)
    c = Add (v, least)
    n = Div (d, c)
    s = Relu (n)
    y = MatMul (s, w3)
}"""


@pytest.fixture
def data() -> list[dict[str, np.ndarray]]:
    return [{"x": np.random.default_rng(1).normal(size=(200, 4)).astype(np.float32)}]


@pytest.fixture
def net(write_model: Callable[..., Path]) -> Callable[[float], Path]:
    """A network whose normalisation reads values around `far`."""

    def write(far: float) -> Path:
        rng = np.random.default_rng(0)
        shapes = {"w1": (4, 8), "w2": (8, 8), "w3": (8, 8)}
        weights = {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}
        return write_model(NET, weights | {"far": np.float32(far), "least": np.float32(0.1)})

    return write


def spiking(ann: Path, folder: Path, data: list[dict[str, np.ndarray]]) -> Path:
    convert(
        ann, folder / "snn.onnx", steps=64, data=data, islands="allow", first_activation="spiking"
    )
    return folder / "snn.onnx"


def nudged(snn: Path, factor: float) -> Path:
    """The file with the weights behind its first layer off by a factor, half of them."""
    proto = onnx.load(snn)
    products = [node for node in proto.graph.node if node.op_type == "MatMul"]
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    read = [weights[name] for node in products for name in node.input if name in weights]
    tensor = next(t for t in read if list(t.dims) == [8, 8])
    array = onnx.numpy_helper.to_array(tensor).copy()
    array[::2] *= np.float32(factor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, snn.with_name("nudged.onnx"))
    return snn.with_name("nudged.onnx")


def test_counts_that_rounding_moves_behind_an_island_are_explained(
    net: Callable[[float], Path], data: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    ann = net(3000.0)
    snn = spiking(ann, tmp_path, data)
    result = verify(ann, nudged(snn, 1 + 2.0**-23), data)
    assert result.equal
    assert result.origin_within_rounding > 0
    assert result.to_json()["origin_within_rounding"] == result.origin_within_rounding


def test_what_is_more_than_rounding_is_not_explained(
    net: Callable[[float], Path], data: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    ann = net(0.0)
    snn = spiking(ann, tmp_path, data)
    assert verify(ann, snn, data).equal
    assert not verify(ann, nudged(snn, 1 + 2.0**-10), data).equal


def reach(ann: Path, snn: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """In units of what makes a near tie."""
    record = neurons_record(load(snn))
    reference = partial(_reference_model, ann, record)
    expected = Instrumented(reference(), record, CPU).read(feeds)
    found = RoundingReach(reference, record, CPU).measure(feeds, expected)
    assert {name: array.shape for name, array in found.items()} == expected.shapes()
    ties = {n: NEAR * np.maximum(1, np.abs(u)) for n, u in expected.potentials.items()}
    return {name: array / ties[name] for name, array in found.items()}


def test_reach_grows_with_what_amplifies(
    net: Callable[[float], Path], data: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    found = {}
    for far in (0.0, 100.0, 10000.0):
        ann = net(far)
        found[far] = reach(ann, spiking(ann, tmp_path, data), data[0])
        assert np.median(found[far]["r"]) < 0.5
    medians = [np.median(found[far]["s"]) for far in found]
    assert medians[0] < 0.5
    assert medians[1] > 4
    assert 30 * medians[1] < medians[2]


@pytest.mark.parametrize("reference", ["ann", "matmul"])
@pytest.mark.parametrize("form", ["matmul", "counts"])
def test_ordinary_layers_are_moved_little(
    form: str, reference: str, digits: Digits, tmp_path: Path
) -> None:
    """Neurons behind a MaxPool in `counts` have the reach of the pooled potential."""
    ann, images = digits_model_path("digits_cnn"), {"image": digits.test_images[:20]}
    files = {"ann": ann, "matmul": tmp_path / "matmul.onnx", form: tmp_path / f"{form}.onnx"}
    for name in {"matmul", form}:
        convert(ann, files[name], steps=8, data=[images], form=name)
    for array in reach(files[reference], files[form], images).values():
        assert 0 < np.median(array) < 0.5
        assert array.max() < 8

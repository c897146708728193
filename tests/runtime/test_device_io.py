"""Bound batches: the same results as run(), from buffers that stay where they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from graphpass_runtime import device_io, loading
from graphpass_runtime.device_io import Bound, Device, Steps, device_of
from graphpass_runtime.errors import DataError, ModelError, OptionError
from graphpass_runtime.metadata import FileRecord, Stage, State
from graphpass_runtime.session import Session

Build = Callable[..., bytes]

NET = (
    "g (float[N,3] x, float[3,2] w) => (float[N,2] y, float[N,3] z) "
    "{ z = Relu(x) p = MatMul(z, w) s = Shape(x) n = Gather <axis = 0> (s, i) "
    "  t = Concat <axis = 0> (n, j) y = Reshape(p, t) }"
).replace("{ z", "<int64[1] i = {0}, int64[1] j = {2}> { z", 1)


def _feeds(seed: int, rows: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(rows, 3)).astype(np.float32),
        "w": rng.normal(size=(3, 2)).astype(np.float32),
    }


def _same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert list(left) == list(right)
    for name, array in left.items():
        np.testing.assert_array_equal(array, right[name])


def test_gives_what_run_gives_after_every_update(build: Build) -> None:
    session = Session(build(NET), provider="cpu")
    bound = session.bind(_feeds(0))
    _same(bound.outputs(), session.run(_feeds(0)))  # binding runs it once
    for seed in (1, 2):
        bound.update(_feeds(seed))
        bound.run()
        _same(bound.outputs(), session.run(_feeds(seed)))


def test_inputs_that_are_not_named_keep_their_data(build: Build) -> None:
    session = Session(build(NET), provider="cpu")
    bound = session.bind(_feeds(0))
    bound.update({"x": _feeds(1)["x"]})
    bound.run()
    _same(bound.outputs(), session.run({"x": _feeds(1)["x"], "w": _feeds(0)["w"]}))


def test_callers_arrays_are_neither_read_later_nor_written(build: Build) -> None:
    session = Session(build(NET), provider="cpu")
    feeds = _feeds(0)
    bound = session.bind(feeds)
    expected = session.run(feeds)
    given = {name: array.copy() for name, array in feeds.items()}
    feeds["x"][:] = 7
    bound.run()
    first = bound.outputs()
    _same(first, expected)
    bound.update(_feeds(1))
    bound.run()
    _same(first, expected)
    assert (feeds["x"] == 7).all()
    np.testing.assert_array_equal(feeds["w"], given["w"])


def test_buffers_stay_where_they_are(build: Build) -> None:
    bound = Session(build(NET), provider="cpu").bind(_feeds(0))
    values = {**bound._inputs, **bound._outputs}
    addresses = {name: value.data_ptr() for name, value in values.items()}
    for seed in range(3):
        bound.update(_feeds(seed))
        bound.run()
        found = [value.data_ptr() for value in bound._bindings[0].get_outputs()]
        assert found == [addresses[name] for name in bound._outputs]
    assert {name: value.data_ptr() for name, value in values.items()} == addresses


def test_strided_arrays_and_scalars_are_copied_right(build: Build) -> None:
    text = "g (float[N,3] x, float s) => (float[N,3] y) { y = Mul(x, s) }"
    session = Session(build(text), provider="cpu")
    x = np.arange(12, dtype=np.float32).reshape(3, 4).T
    bound = session.bind({"x": x, "s": np.array(2, np.float32)})
    np.testing.assert_array_equal(bound.outputs()["y"], 2 * x)
    bound.update({"x": x[::-1], "s": np.array(3, np.float32)})
    bound.run()
    np.testing.assert_array_equal(bound.outputs()["y"], 3 * x[::-1])


def test_two_batches_of_one_session_do_not_meet(build: Build) -> None:
    session = Session(build(NET), provider="cpu")
    small, large = session.bind(_feeds(0, 2)), session.bind(_feeds(1, 5))
    for bound in (small, large, small):
        bound.run()
    _same(small.outputs(), session.run(_feeds(0, 2)))
    _same(large.outputs(), session.run(_feeds(1, 5)))


def test_only_asked_outputs_are_bound(build: Build) -> None:
    session = Session(build(NET), provider="cpu")
    assert list(session.bind(_feeds(0), ["z"]).outputs()) == ["z"]
    with pytest.raises(OptionError, match="no output 'q'; the outputs are y, z"):
        session.bind(_feeds(0), ["q"])


def test_another_shape_must_be_bound_again(build: Build) -> None:
    bound = Session(build(NET), provider="cpu").bind(_feeds(0))
    with pytest.raises(DataError, match=r"'x' is bound as float32\[4,3\], got float32\[2,3\]"):
        bound.update(_feeds(0, 2))
    with pytest.raises(DataError, match=r"got float64\[4,3\]"):
        bound.update({"x": np.ones((4, 3))})
    with pytest.raises(DataError, match="no input 'q'; the inputs are x, w"):
        bound.update({"q": np.ones(1)})


def test_batch_that_the_file_fixes(build: Build) -> None:
    text = "g (float[4,3] x) => (float[4,3] y) { y = Relu(x) }"
    session = Session(build(text), provider="cpu")
    x = np.ones((4, 3), np.float32)
    np.testing.assert_array_equal(session.bind({"x": x}).outputs()["y"], x)
    for rows in (3, 8):
        with pytest.raises(DataError, match="batch size is fixed to 4; bind exactly 4"):
            session.bind({"x": np.ones((rows, 3), np.float32)})


def test_text_is_refused(build: Build) -> None:
    session = Session(build("g (string[N] x) => (string[N] y) { y = Identity(x) }"))
    with pytest.raises(DataError, match="holds text"):
        session.bind({"x": np.array(["a"], object)})


def test_failure_while_running_is_one_line(build: Build) -> None:
    session = Session(build("g (float[N,3] x, float[N,M] z) => (float[N,3] y) { y = Add(x, z) }"))
    with pytest.raises(ModelError, match="fails while running it"):
        session.bind({"x": np.ones((2, 3), np.float32), "z": np.ones((2, 2), np.float32)})


# v is the sum of all x so far, k counts the steps; y tells both, and the step before's v.
STEP = (
    "g (float[N,3] x, float[N,3] v, float[1] k) => (float[N,3] y, float[N,3] w, float[1] k2) "
    "<float[1] one = {1}> { w = Add(x, v) k2 = Add(k, one) s = Mul(w, k2) y = Add(s, v) }"
)
STATES = (State("v", "w", (1, 3), 0), State("k", "k2", (1,)))


def _stepping(build: Build, steps: int) -> Session:
    record = replace(FileRecord(Stage.SPIKING, steps=steps), states=STATES)
    return Session(build(STEP, record), provider="cpu")


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
def test_file_of_one_time_step_is_run_t_times(build: Build, steps: int) -> None:
    session = _stepping(build, steps)
    bound = session.bind({"x": _feeds(0)["x"]})
    for seed in (0, 0, 1):  # states start at zero every time
        x = _feeds(seed)["x"]
        bound.update({"x": x})
        bound.run()
        expected = (steps * steps + steps - 1) * x
        np.testing.assert_allclose(bound.outputs()["y"], expected, rtol=1e-5)
        _same(bound.outputs(), session.run({"x": x}))
    assert list(bound.outputs()) == ["y"]


def test_states_stay_on_the_device(build: Build) -> None:
    """A run hands nothing to ONNX Runtime but bindings made before, and T of them."""
    session = _stepping(build, 5)
    bound = session.bind({"x": _feeds(0)["x"]})
    inner, calls = bound._session, []

    def run(binding: Any, options: Any) -> None:
        calls.append(binding)
        inner.run_with_iobinding(binding, options)

    addresses = [[v.data_ptr() for v in b.get_outputs()] for b in bound._bindings]
    bound._session = SimpleNamespace(run_with_iobinding=run)
    bound.run()
    bound.run()
    first, odd, even = bound._bindings
    assert calls == 2 * [first, odd, even, odd, even]
    assert [[v.data_ptr() for v in b.get_outputs()] for b in bound._bindings] == addresses


def test_failing_step_is_one_line(build: Build) -> None:
    text = STEP.replace("y = Add(s, v)", "t = Reshape(s, five) y = Add(t, v)")
    text = text.replace("<float[1] one = {1}>", "<float[1] one = {1}, int64[2] five = {5, -1}>")
    record = replace(FileRecord(Stage.SPIKING, steps=2), states=STATES)
    session = Session(build(text, record), provider="cpu")
    with pytest.raises(ModelError, match="fails while running it") as caught:
        session.run({"x": _feeds(0)["x"]})
    assert str(caught.value).count("fails while running it") == 1


def test_placement_of_a_file_of_one_time_step(build: Build) -> None:
    placed = _stepping(build, 4).placement({"x": _feeds(0)["x"]}).operators()
    assert placed == {"CPUExecutionProvider": {"Add": 3, "Mul": 1}}


def test_every_turn_of_a_step_records_a_graph_of_its_own(build: Build) -> None:
    inner, ids = _stepping(build, 5).bind({"x": _feeds(0)["x"]})._session, []

    def run(binding: Any, options: Any) -> None:
        ids.append(options.get_run_config_entry("gpu_graph_id"))
        inner.run_with_iobinding(binding, options)

    session = SimpleNamespace(run_with_iobinding=run, io_binding=inner.io_binding)
    bound = Bound(
        *(session, {"x": _feeds(0)["x"]}, ["y"]),
        **{"device": Device("cpu"), "cuda_graph": True, "where": "m", "steps": Steps(STATES, 5, 4)},
    )
    assert ids == ["-1"] * 5  # what allocates is not recorded
    del ids[:]
    bound.run()
    first, odd, even, again, last = ids
    assert len({first, odd, even}) == 3
    assert (again, last) == (odd, even)


@pytest.mark.parametrize("provider", ["cpu", "auto"])
def test_cuda_graph_needs_a_gpu(
    build: Build, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    real = loading.import_onnxruntime()
    monkeypatch.setattr(real, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(OptionError, match="no CUDA graphs on the CPU"):
        Session(build(NET), provider=provider, cuda_graph=True)


def test_cuda_graph_needs_bound_batches(build: Build) -> None:
    session = Session(build(NET), provider="cpu")
    session._source = replace(session._source, cuda_graph=True)
    with pytest.raises(OptionError, match=r"run\(\) gives a CUDA graph other addresses.*use bind"):
        session.run(_feeds(0))


def test_each_bound_batch_records_a_graph_of_its_own(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The CPU knows no graphs and ignores the run options: so they are what is checked.
    inner = Session(build(NET), provider="cpu")._ort
    ids: list[str] = []

    def run(binding: Any, options: Any) -> None:
        ids.append(options.get_run_config_entry("gpu_graph_id"))
        inner.run_with_iobinding(binding, options)

    session = SimpleNamespace(run_with_iobinding=run, io_binding=inner.io_binding)
    bounds = [
        Bound(session, _feeds(0), ["y"], device=Device("cpu"), cuda_graph=True, where="m")
        for _ in range(2)
    ]
    assert ids == ["-1", "-1"]  # what allocates is not recorded
    for bound in bounds:
        bound.run()
        bound.run()
    first, again, second, _ = ids[2:]
    assert first == again != second
    assert all(int(number) > 0 for number in ids[2:])


@pytest.mark.parametrize(
    ("provider", "options", "expected"),
    [
        ("cpu", None, Device("cpu", 0)),
        ("cuda", None, Device("cuda", 0)),
        ("cuda", {"device_id": 1}, Device("cuda", 1)),
        ("tensorrt", {"device_id": "2"}, Device("cuda", 2)),
    ],
)
def test_device_of_a_provider(provider: str, options: Any, expected: Device) -> None:
    assert device_of(provider, options) == expected
    assert device_io.Device("cpu").index == 0

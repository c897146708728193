"""Files of one time-step, run T times by the session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from graphpass import convert
from graphpass_runtime.errors import DataError, ModelError, OptionError
from graphpass_runtime.metadata import FileRecord, Stage, State
from graphpass_runtime.neuron import Carrier, Neuron
from graphpass_runtime.session import Session

# v += x; y = v; spikes = v > 2. One state follows the batch, the other does not.
COUNTER = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,2] x, float[N,2] v, float[1] k) => (float[N,2] y, float[N,2] v2, float[1] k2) {
    v2 = Add(v, x)
    one = Constant <value = float[1] {1.0}> ()
    k2 = Add(k, one)
    y = Mul(v2, k2)
    two = Constant <value = float[1] {2.0}> ()
    fires = Greater(v2, two)
    spikes = Cast <to = 1> (fires)
}"""
STATES = (State("v", "v2", (1, 2), 0), State("k", "k2", (1,)))


def counter(steps: int | None = 3) -> bytes:
    proto = onnx.parser.parse_model(COUNTER.replace("spikes =", '"n/spikes" ='))
    one = np.ones(1, np.float32)
    neuron = Neuron("n", one, 0 * one, one, 3, None, carrier=Carrier.SERIAL)
    record = FileRecord(Stage.SPIKING, steps, "step", neurons=(neuron,), states=STATES)
    onnx.helper.set_model_props(proto, record.to_props())
    content: bytes = proto.SerializeToString()
    return content


def test_states_are_hidden_and_handed_on() -> None:
    session = Session(counter())
    assert [spec.name for spec in session.inputs] == ["x"]
    assert [spec.name for spec in session.outputs] == ["y"]
    for samples in (1, 3, 1):
        x = np.arange(2.0 * samples, dtype=np.float32).reshape(samples, 2)
        np.testing.assert_array_equal(session.run({"x": x})["y"], 9 * x)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_any_number_of_steps(steps: int) -> None:
    x = np.array([[1, 2]], np.float32)
    np.testing.assert_array_equal(Session(counter(steps)).run({"x": x})["y"], steps**2 * x)


def test_results_do_not_change_with_the_next_run() -> None:
    session = Session(counter())
    first = session.run({"x": np.array([[1, 2]], np.float32)})["y"]
    kept = first.copy()
    session.run({"x": np.array([[5, 6]], np.float32)})
    np.testing.assert_array_equal(first, kept)


def test_input_is_not_changed_and_need_not_be_contiguous() -> None:
    x = np.array([[1, 2], [3, 4]], np.float32).T
    before = x.copy()
    np.testing.assert_array_equal(Session(counter()).run({"x": x})["y"], 9 * before)
    np.testing.assert_array_equal(x, before)


def test_spikes_are_summed_over_the_steps() -> None:
    x = np.array([[1, 2], [3, 0]], np.float32)
    session = Session(counter())
    np.testing.assert_array_equal(session.spike_counts({"x": x})["n"], [[1, 2], [3, 0]])
    assert session.firing_rates({"x": x})["n"] == pytest.approx([6 / 12])


def test_unknown_output_and_missing_input() -> None:
    session = Session(counter())
    x = np.zeros((1, 2), np.float32)
    with pytest.raises(OptionError, match="the outputs are y"):
        session.run({"x": x}, ["v2"])
    with pytest.raises(DataError, match="no input 'v'"):
        session.run({"x": x, "v": x})


def test_no_number_of_steps() -> None:
    with pytest.raises(ModelError, match="no number of steps"):
        Session(counter(None))


Files = dict[str, Path]


@pytest.fixture(scope="module")
def files(
    digits_npz: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    from graphpass_models.digits import digits_model_path

    folder = tmp_path_factory.mktemp("serial")
    ann = digits_model_path("digits_cnn")
    for form in ("scan", "step"):
        convert(
            *(ann, folder / f"{form}.onnx"),
            **{"steps": 8, "data": digits_npz[0], "method": "qcfs", "serial": form},
        )
    return {form: folder / f"{form}.onnx" for form in ("scan", "step")}


def test_scan_and_step_are_the_same_network(files: Files, digits_npz: Any) -> None:
    x = {"image": np.load(digits_npz[1])["image"]}
    outputs = []
    for path in files.values():
        session = Session(path)
        whole = session.run(x)
        pieces = Session(path, memory_limit=1 << 18).run(x)
        for name, array in whole.items():
            np.testing.assert_allclose(pieces[name], array, rtol=1e-4, atol=1e-4)
        outputs.append(whole)
    for name, array in outputs[0].items():
        np.testing.assert_allclose(outputs[1][name], array, rtol=1e-4, atol=1e-4)


def test_spikes_of_a_scan_are_out_of_sight(files: Files, digits_npz: Any) -> None:
    x = {"image": np.load(digits_npz[1])["image"]}
    with pytest.raises(ModelError, match="--serial step"):
        Session(files["scan"]).spike_counts(x)
    counts = Session(files["step"]).spike_counts(x)
    assert max(int(array.max()) for array in counts.values()) == 8


def test_plain_onnxruntime_runs_a_scan(
    files: Files, digits_npz: Any, bare_run: Callable[..., dict[str, Any]]
) -> None:
    x = {"image": np.load(digits_npz[1])["image"]}
    for name, array in bare_run(files["scan"], x).items():
        np.testing.assert_allclose(Session(files["scan"]).run(x)[name], array, rtol=1e-5, atol=1e-5)

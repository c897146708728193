"""Conversion from end to end: options, what is written and when."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from graphpass import RefusedConversion, convert, verify
from graphpass_models.digits import Digits, digits_model_path
from graphpass_runtime.errors import (
    DataError,
    GraphpassError,
    ModelError,
    OptionError,
    OutputError,
)

FORMS = ("matmul", "sorted", "counts")
CNN = digits_model_path("digits_cnn")
Run = Callable[..., dict[str, Any]]


CLIPS = """g (float[N,4] x) => (float[N,2] y) {
    a = MatMul(x, w1)
    [first] r1 = Clip(a, zero, top)
    b = MatMul(r1, w2)
    [second] r2 = Clip(b, zero, top)
    c = MatMul(r2, w3)
    [third] r3 = Clip(c, zero, top)
    y = MatMul(r3, w4)
}"""


def clip_weights() -> dict[str, Any]:
    rng = np.random.default_rng(7)
    shapes = {"w1": (4, 5), "w2": (5, 5), "w3": (5, 3), "w4": (3, 2)}
    weights = {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}
    return weights | {"zero": np.float32(0), "top": np.float32(1.5)}


@pytest.fixture
def clips(write_model: Callable[..., Path]) -> Path:
    """A net whose thresholds are known: nothing has to be measured but by the paper's rule."""
    return write_model(CLIPS, clip_weights())


def test_data_is_asked_for_only_where_something_is_measured(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="calibration data is needed for --calibrate paper"):
        convert(clips, tmp_path / "snn.onnx", steps=4, calibrate="paper")
    result = convert(clips, tmp_path / "snn.onnx", steps=4, calibrate="none")
    assert {n.threshold.max() for n in result.record.neurons} == {np.float32(1.5)}
    with pytest.raises(DataError, match=r"the thresholds of 3 activations; give --data$"):
        convert(CNN, tmp_path / "other.onnx", steps=4, calibrate="none")
    assert not (tmp_path / "other.onnx").exists()


def statuses(path: Path, output: Path, **options: Any) -> dict[str, str]:
    result = convert(path, output, steps=4, calibrate="none", **options)
    return {a.name: a.status for a in result.activations}


def test_first_activation_and_keep(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "snn.onnx"
    assert statuses(clips, out) == {"r1": "kept", "r2": "converted", "r3": "converted"}
    assert set(statuses(clips, out, first_activation="spiking").values()) == {"converted"}
    wanted = {"r1": "kept", "r2": "kept", "r3": "converted"}
    assert statuses(clips, out, keep=["r2"]) == wanted
    assert statuses(clips, out, keep=["second"]) == wanted
    # The stem is kept only where something else still spikes.
    alone = {"r1": "converted", "r2": "kept", "r3": "kept"}
    assert statuses(clips, out, keep=["r2", "third"]) == alone
    with pytest.raises(OptionError, match=r"no activation 'nope' to keep; activations are: r1, r2"):
        convert(clips, out, steps=4, keep=["nope"])


def test_nothing_left_to_convert_is_an_error(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no activation to convert"):
        convert(clips, tmp_path / "snn.onnx", steps=4, keep=["r1", "r2", "r3"])


@pytest.mark.parametrize("form", FORMS)
def test_kept_activations_between_neurons(
    form: str, clips: Path, bare_run: Run, tmp_path: Path
) -> None:
    # Keeping the second of three: what it reads is static, so all is well, and the numbers say so.
    convert(clips, tmp_path / "snn.onnx", steps=64, calibrate="none", keep=["r2"], form=form)
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    w = clip_weights()
    r1 = np.clip(x @ w["w1"], 0, 1.5)
    r2 = np.clip(r1 @ w["w2"], 0, 1.5)
    counts = np.clip(np.floor((r2 @ w["w3"]) * 64 / 1.5 + 0.5), 0, 64)
    expected = (counts * 1.5 / 64) @ w["w4"]
    np.testing.assert_allclose(bare_run(tmp_path / "snn.onnx", {"x": x})["y"], expected, atol=1e-4)


def test_keeping_one_behind_a_neuron_is_refused(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedConversion, match=r"second.*is not linear") as caught:
        convert(
            clips, tmp_path / "snn.onnx", steps=4, calibrate="none", keep=["r2"],
            first_activation="spiking",
        )  # fmt: skip
    verdicts = {a.name: a.status for a in caught.value.plan.activations}
    assert verdicts == {"r1": "converted", "r2": "refused", "r3": "converted"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ann.onnx"]


@pytest.mark.parametrize("form", FORMS)
def test_literal_batch_becomes_symbolic(
    form: str, write_model: Callable[..., Path], bare_run: Run, tmp_path: Path
) -> None:
    text = CLIPS.replace("float[N,4] x", "float[1,4] x").replace("float[N,2] y", "float[1,2] y")
    ann = write_model(text, clip_weights())
    convert(ann, tmp_path / "snn.onnx", steps=16, calibrate="none", form=form)
    session = onnxruntime.InferenceSession(str(tmp_path / "snn.onnx"))
    assert isinstance(session.get_inputs()[0].shape[0], str)
    assert isinstance(session.get_outputs()[0].shape[0], str)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    together = session.run(None, {"x": x})[0]
    apart = [session.run(None, {"x": x[i : i + 1]})[0] for i in range(5)]
    np.testing.assert_allclose(together, np.concatenate(apart), atol=1e-6)
    exact = np.concatenate([bare_run(ann, {"x": x[i : i + 1]})["y"] for i in range(5)])
    assert np.abs(together - exact).max() < 1.0
    assert not np.array_equal(together, exact)


@pytest.mark.parametrize("form", FORMS)
def test_nodes_named_like_their_outputs(
    form: str, write_model: Callable[..., Path], bare_run: Run, tmp_path: Path
) -> None:
    # As tf2onnx and MATLAB write them; ONNX Runtime refuses two nodes of one name.
    text = CLIPS
    for tensor in ("a", "b", "c", "y"):
        text = text.replace(f"    {tensor} = MatMul", f"    [{tensor}] {tensor} = MatMul")
    ann = write_model(text, clip_weights())
    convert(ann, tmp_path / "snn.onnx", steps=4, calibrate="none", form=form)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    assert bare_run(tmp_path / "snn.onnx", {"x": x})["y"].shape == (3, 2)


class Interrupting:
    """Progress that stops the conversion in its middle."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, _title: str, _samples: int | None) -> Callable[[int], None]:
        def advance(_count: int) -> None:
            raise self.error

        return advance


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no luck")])
def test_what_fails_in_the_middle_leaves_nothing(
    error: BaseException, digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(type(error)):
        convert(
            CNN, tmp_path / "snn.onnx", steps=4, data=digits_npz[0], progress=Interrupting(error)
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_fails_while_writing_leaves_the_old_file(
    error: BaseException, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out" / "snn.onnx"
    output.parent.mkdir()
    output.write_bytes(b"old")

    def fail(_self: Path, _target: Any) -> None:
        raise error

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OutputError):
        convert(clips, output, steps=4, calibrate="none")
    assert [p.name for p in output.parent.iterdir()] == ["snn.onnx"]
    assert output.read_bytes() == b"old"


def test_output_has_the_permissions_of_any_new_file(clips: Path, tmp_path: Path) -> None:
    convert(clips, tmp_path / "snn.onnx", steps=4, calibrate="none")
    (tmp_path / "plain").write_bytes(b"")
    modes = [(tmp_path / name).stat().st_mode for name in ("snn.onnx", "plain")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "T = 0 time-steps; use 1 to 1024"),
        ({"steps": -3}, "T = -3 time-steps"),
        ({"steps": 1025}, "T = 1025 time-steps"),
        ({"steps": None}, "no number of time-steps; give --steps T"),
        ({"calib_batch": 0}, "calib-batch is 0"),
        ({"passes": 0}, "passes is 0"),
        ({"form": "waves"}, "form 'waves' is unknown; use matmul or"),
        ({"calibrate": "best"}, "calibrate 'best' is unknown"),
        ({"first_activation": "both"}, "first-activation 'both' is unknown"),
    ],
)
def test_options_that_make_no_sense(
    options: dict[str, Any], message: str, clips: Path, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=message):
        convert(clips, tmp_path / "snn.onnx", **{"steps": 4, "calibrate": "none"} | options)
    assert not (tmp_path / "snn.onnx").exists()


def test_unknown_option_is_a_type_error(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="step"):
        convert(clips, tmp_path / "snn.onnx", step=4)


def test_where_the_output_cannot_go(clips: Path, tmp_path: Path) -> None:
    for output in (tmp_path, tmp_path / "no" / "such" / "snn.onnx"):
        with pytest.raises(OutputError, match="cannot be written"):
            convert(clips, output, steps=4, calibrate="none")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(GraphpassError):
        convert(clips, tmp_path / "snn.onnx", steps=4, calibrate="none", stages=tmp_path / "file")
    assert not (tmp_path / "snn.onnx").exists()


def test_output_may_replace_the_input(clips: Path, tmp_path: Path) -> None:
    convert(clips, clips, steps=4, calibrate="none")
    with pytest.raises(ModelError, match="is an SNN already"):
        convert(clips, tmp_path / "snn.onnx", steps=4)


def test_the_models_own_texts_survive(write_model: Callable[..., Path], tmp_path: Path) -> None:
    ann = write_model(CLIPS, clip_weights())
    proto = onnx.load(ann)
    proto.doc_string, proto.model_version = "about this net", 7
    proto.metadata_props.add(key="author", value="someone")
    onnx.save(proto, ann)
    convert(ann, tmp_path / "snn.onnx", steps=4, calibrate="none")
    proto = onnx.load(tmp_path / "snn.onnx")
    assert (proto.doc_string, proto.model_version) == ("about this net", 7)
    assert {p.key: p.value for p in proto.metadata_props}["author"] == "someone"


def test_no_path_of_this_machine_in_the_file(clips: Path, tmp_path: Path) -> None:
    convert(clips, tmp_path / "snn.onnx", steps=4, calibrate="none", stages=tmp_path / "st")
    for path in [tmp_path / "snn.onnx", *(tmp_path / "st").iterdir()]:
        content = path.read_bytes()
        assert os.fsencode(tmp_path) not in content
        assert b"/work" not in content


def test_preprocessing_travels_into_the_snn(
    digits: Digits, digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    ann = tmp_path / "ann.onnx"
    ann.write_bytes(CNN.read_bytes())
    (tmp_path / "ann.preprocess.json").write_text(
        '{"do_rescale": true, "rescale_factor": 0.0625, "do_normalize": false}'
    )
    pixels = (digits.train_images[:40] * 16).astype(np.uint8).transpose(0, 2, 3, 1)
    np.savez(tmp_path / "images.npz", images=pixels)
    out = tmp_path / "out"
    out.mkdir()
    as_images = convert(ann, out / "a.onnx", steps=4, data=tmp_path / "images.npz").record
    np.savez(tmp_path / "floats.npz", image=digits.train_images[:40])
    as_floats = convert(ann, out / "b.onnx", steps=4, data=tmp_path / "floats.npz").record
    assert as_images.preprocess is not None
    assert as_images.preprocess == as_floats.preprocess
    assert (out / "a.onnx").read_bytes() == (out / "b.onnx").read_bytes()
    # The SNN knows by itself, with no file beside it.
    found = verify(out / "a.onnx", out / "b.onnx", tmp_path / "images.npz")
    assert found.samples == 40
    assert found.equal

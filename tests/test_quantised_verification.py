"""Form `int8` in `verify`: what is judged, what is only reported, and that it can fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest
from packaging.version import Version

from graphpass import Session, convert, verify
from graphpass.model import load
from graphpass.quantised_verification import QuantisedVerification
from graphpass_models.digits import digits_model_path
from graphpass_runtime.errors import ModelError, OptionError

CNN = digits_model_path("digits_cnn")
STAGES = ("ann", "3-calibrated")
FORMS = ("matmul", "sorted", "counts", "counts-cpu")
LAYERS = 3
Files = dict[str, Path]
Npz = tuple[Path, Path]


@pytest.fixture(scope="module")
def files(digits_npz: Npz, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """digits_cnn at T = 16 in every form, and its stages; name -> path."""
    folder = tmp_path_factory.mktemp("files")
    convert(CNN, folder / "int8.onnx", steps=16, data=digits_npz[0], form="int8", stages=folder)
    for form in FORMS:
        convert(folder / "3-calibrated.onnx", folder / f"{form}.onnx", form=form)
    return {path.stem: path for path in folder.iterdir()} | {"ann": CNN}


def run(reference: Path, snn: Path, data: Any, **options: Any) -> QuantisedVerification:
    result = verify(reference, snn, data, **options)
    assert isinstance(result, QuantisedVerification)
    return result


@pytest.mark.parametrize("reference", [*STAGES, *FORMS])
def test_computes_what_its_integers_say(reference: str, files: Files, digits_npz: Npz) -> None:
    result = run(files[reference], files["int8"], digits_npz[1])
    assert result.equal
    assert (result.samples, result.layers) == (60, LAYERS)
    assert result.integer_layers >= LAYERS
    assert result.levels_compared > 60_000
    assert result.level_wrong == 0
    assert result.level_near_tie < 1e-3 * result.levels_compared
    assert result.output_error < 1e-6
    assert result.changed == (() if reference in STAGES else None)


@pytest.mark.parametrize("reference", [*STAGES, *FORMS])
def test_agreement_is_that_of_the_bare_files(reference: str, files: Files, digits_npz: Npz) -> None:
    """Counts and outputs, compared here once more without any instrument."""
    result = run(files[reference], files["int8"], digits_npz[1])
    feeds = {"image": np.load(digits_npz[1])["image"]}
    close, same = Session(files["int8"]), Session(files["counts-cpu"])
    ours, theirs = close.spike_counts(feeds), same.spike_counts(feeds)
    pooled = reference.startswith("counts")
    for layer in result.agreement:
        expected, found = theirs[layer.name], ours[layer.name]
        if expected.shape == found.shape:  # else one stands in front of the pool
            apart = np.abs(expected - found)
            assert layer.counts == apart.size
            assert layer.differ == (apart > 0).sum() > 0
            assert layer.differ_by_more == (apart > 1).sum()
            assert layer.total == apart.sum()
            assert layer.largest == apart.max()
        else:
            assert layer.counts == (expected if pooled else found).size
    y, wanted = close.run(feeds)["logits"], same.run(feeds)["logits"]
    agree = (y.argmax(axis=1) == wanted.argmax(axis=1)).mean()
    assert result.argmax_agreement == pytest.approx(agree)
    error = np.linalg.norm(y - wanted) / np.linalg.norm(wanted)
    assert 0.001 < result.output_relative_error == pytest.approx(error, rel=0.05)


def test_watching_does_not_change_the_kernels(files: Files) -> None:
    """What is judged is what the bare file runs."""
    from graphpass.integer_reference import roundings_of

    held = [rounding.held for rounding in roundings_of(load(files["int8"]))]
    feeds = {"image": np.zeros((1, 1, 8, 8), np.float32)}
    bare, watched = (
        Counter(
            operator
            for operators in Session(files["int8"], extra_outputs=names).placement(feeds).nodes
            for operator in [operators.operator]
        )
        for names in ((), held)
    )
    assert watched == bare
    assert bare["QLinearConv"] >= 2
    assert bare["Conv"] == 0


def edited(path: Path, output: Path, kind: str, change: Callable[[Any], Any]) -> Path:
    """The file with the last weight whose name holds `kind` changed."""
    proto = onnx.load(path)
    tensor = [t for t in proto.graph.initializer if kind in t.name][-1]
    old = onnx.numpy_helper.to_array(tensor)
    new = change(old).astype(old.dtype)
    assert (new != old).any()
    tensor.CopyFrom(onnx.numpy_helper.from_array(new, tensor.name))
    onnx.save(proto, output)
    return output


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("int8_weight/scale", lambda scale: scale * 1.1),
        ("int32_bias", lambda bias: bias + 1),
        ("spikes/step", lambda scale: scale * 0.9),
        ("most", lambda levels: levels - 1),
    ],
)
@pytest.mark.parametrize("reference", STAGES)
def test_tampered_numbers_are_not_those_of_the_reference(
    reference: str,
    kind: str,
    change: Callable[[Any], Any],
    files: Files,
    digits_npz: Npz,
    tmp_path: Path,
) -> None:
    bad = edited(files["int8"], tmp_path / "bad.onnx", kind, change)
    result = run(files[reference], bad, digits_npz[1], samples=4)
    assert not result.equal
    assert result.changed is not None
    assert len(result.changed) == 1
    assert kind in result.changed[0]


def test_one_tampered_weight_is_enough(files: Files, digits_npz: Npz, tmp_path: Path) -> None:
    def flip(weight: Any) -> Any:
        other = weight.copy()
        other.flat[0] ^= 1
        return other

    bad = edited(files["int8"], tmp_path / "bad.onnx", "int8_weight", flip)
    assert not run(CNN, bad, digits_npz[1], samples=4).equal
    # Another form says nothing of integers, and what the file computes is what it says.
    other = run(files["counts"], bad, digits_npz[1], samples=4)
    assert other.changed is None
    assert other.equal


@pytest.mark.skipif(
    Version(onnxruntime.__version__) < Version("1.28"),
    reason="ONNX Runtime 1.26 computes on integers there, whatever the scale of the bias",
)
def test_layer_without_an_integer_kernel_is_judged_too(
    files: Files, digits_npz: Npz, tmp_path: Path
) -> None:
    """ONNX Runtime computes a bias of another scale in float32: that is what the file says."""
    bad = edited(
        files["int8"], tmp_path / "bad.onnx", "charge/int32_bias/scale", lambda scale: scale * 3
    )
    result = run(files["counts"], bad, digits_npz[1])
    assert result.equal
    assert result.argmax_agreement < 0.9


def test_saturating_kernel_is_caught(
    files: Files, digits_npz: Npz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session that is judged runs a file with smaller weights than the one that is read."""
    from graphpass import quantised_verification

    real = quantised_verification.open_session

    def saturated(proto: onnx.ModelProto, **options: Any) -> Any:
        for tensor in proto.graph.initializer:
            if tensor.name.endswith("int8_weight"):
                weight = np.clip(onnx.numpy_helper.to_array(tensor), -100, 100)
                tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
        return real(proto, **options)

    monkeypatch.setattr(quantised_verification, "open_session", saturated)
    result = run(CNN, files["int8"], digits_npz[1])
    assert result.changed == ()
    assert result.level_wrong > 100
    assert len(result.wrong) >= LAYERS
    assert "image/uint8" not in result.wrong
    assert not result.equal


def test_uncalibrated_stage_rounds_to_other_integers(files: Files, digits_npz: Npz) -> None:
    result = run(files["2-daqcfs"], files["int8"], digits_npz[1], samples=4)
    assert result.changed
    assert not result.equal


def test_refusals(files: Files, digits_npz: Npz) -> None:
    with pytest.raises(ModelError, match="close network, which is no reference; give it second"):
        verify(files["int8"], files["counts"], digits_npz[1])
    with pytest.raises(ModelError, match="no reference"):
        verify(files["int8"], files["int8"], digits_npz[1])
    with pytest.raises(OptionError, match=r"no strict mode.*leave --strict out"):
        verify(CNN, files["int8"], digits_npz[1], strict=True)


def test_foreign_rounding_is_refused(files: Files, digits_npz: Npz, tmp_path: Path) -> None:
    proto = onnx.load(files["int8"])
    node = next(n for n in proto.graph.node if n.op_type == "QuantizeLinear")
    del node.input[2]  # uint8 all the same, but graphpass names its zero
    onnx.save(proto, tmp_path / "bad.onnx")
    with pytest.raises(ModelError, match=r"does not round to integers by one scale; compare"):
        verify(CNN, tmp_path / "bad.onnx", digits_npz[1])

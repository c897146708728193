"""What `verify` makes of files that are not two forms of one network, or not quite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphpass import convert, verify
from graphpass_models.digits import digits_model_path
from graphpass_runtime.errors import ModelError


@pytest.fixture(scope="module")
def files(
    digits_npz: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """digits_cnn at T = 4 in two forms, and the ANN; name -> path."""
    ann, folder = digits_model_path("digits_cnn"), tmp_path_factory.mktemp("files")
    for form in ("matmul", "counts"):
        options = {"steps": 4, "data": digits_npz[0], "form": form, "population": 1}
        convert(ann, folder / f"{form}.onnx", **options)
    return {path.stem: path for path in folder.iterdir()} | {"ann": ann}


@pytest.mark.parametrize("change", ["shape", "number"])
def test_other_outputs_than_the_reference_are_refused(
    change: str, files: dict[str, Path], digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    proto = onnx.load(files["matmul"])
    if change == "shape":
        mean = next(node for node in proto.graph.node if node.op_type == "MeanOverTime")
        (flat,) = (node for node in proto.graph.node if node.op_type == "Flatten")
        mean.input[0] = flat.output[0]
        del proto.graph.output[0].type.tensor_type.shape.dim[:]
        proto.graph.output[0].type.tensor_type.shape.dim.add(dim_param="N")
        proto.graph.output[0].type.tensor_type.shape.dim.add(dim_value=128)
    else:
        extra = onnx.helper.make_tensor_value_info("extra", 1, ["N", 10])
        proto.graph.output.append(extra)
        proto.graph.node.append(onnx.helper.make_node("Neg", ["logits"], ["extra"]))
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="layers or outputs of other shapes"):
        verify(files["ann"], tmp_path / "other.onnx", digits_npz[1])


@pytest.mark.filterwarnings("error")
def test_output_that_is_not_finite_on_one_side(
    files: dict[str, Path], digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    proto = onnx.load(files["counts"])
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(3e38), "huge"))
    last = next(node for node in proto.graph.node if "logits" in node.output)
    last.output[0] = "before"
    proto.graph.node.append(onnx.helper.make_node("Mul", ["before", "huge"], ["logits"]))
    onnx.save(proto, tmp_path / "infinite.onnx")
    result = verify(files["matmul"], tmp_path / "infinite.onnx", digits_npz[1])
    assert result.max_abs_diff == np.inf
    assert result.to_json()["max_abs_diff"] is None
    same = verify(tmp_path / "infinite.onnx", tmp_path / "infinite.onnx", digits_npz[1])
    assert same.max_abs_diff == 0


def test_potentials_and_spikes_that_differ_in_number(
    files: dict[str, Path], digits_npz: tuple[Path, Path], tmp_path: Path
) -> None:
    proto = onnx.load(files["counts"])
    where, node = next((i, n) for i, n in enumerate(proto.graph.node) if n.op_type == "SpikeCount")
    twice = onnx.helper.make_node("Concat", [node.input[0]] * 2, ["twice"], axis=0)
    node.input[0] = "twice"
    proto.graph.node.insert(where, twice)
    del proto.graph.value_info[:]
    onnx.save(proto, tmp_path / "twice.onnx")
    with pytest.raises(ModelError):
        verify(files["ann"], tmp_path / "twice.onnx", digits_npz[1])

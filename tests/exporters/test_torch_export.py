"""Both torch exporters: what the file holds, that it runs, and that its bytes repeat."""

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch", reason="exporting torch modules needs torch")

from graphpass_exporters.qcfs import replace_activations  # noqa: E402
from graphpass_exporters.torch_export import export_torch  # noqa: E402


def _has_onnxscript():
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        return False
    return True


EXPORTERS = [
    pytest.param(False, id="legacy"),
    pytest.param(
        True,
        id="dynamo",
        marks=pytest.mark.skipif(not _has_onnxscript(), reason="dynamo=True needs onnxscript"),
    ),
]
both = pytest.mark.parametrize("dynamo", EXPORTERS)

QCFS_OPERATORS = ["Div", "Mul", "Add", "Floor", "Clip", "Div", "Mul"]


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(4)
        self.act = torch.nn.ReLU()
        self.classify = torch.nn.Linear(4 * 6 * 6, 5)

    def forward(self, image):
        return self.classify(torch.flatten(self.act(self.norm(self.conv(image))), 1))


def make_network(levels=None):
    torch.manual_seed(1)
    network = Network()
    with torch.no_grad():
        network.norm.running_mean.normal_()
        network.norm.running_var.uniform_(0.5, 2.0)
        network.norm.weight.uniform_(0.5, 2.0)
    return replace_activations(network, levels, 2.0) if levels else network


def sample(batch=2):
    return torch.rand(batch, 1, 6, 6, generator=torch.Generator().manual_seed(2))


def operators(model):
    return [node.op_type for node in model.graph.node if node.op_type != "Constant"]


@both
@pytest.mark.parametrize("levels", [None, 8])
def test_runs_in_onnxruntime_at_any_batch_size(tmp_path, dynamo, levels):
    network = make_network(levels)
    path = export_torch(
        network,
        sample(batch=1),
        tmp_path / "net.onnx",
        dynamo=dynamo,
        input_names=("image",),
        output_names=("logits",),
    )
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    assert network.training  # as it was
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["N", 1, 6, 6]
    assert session.get_outputs()[0].shape == ["N", 5]
    network.eval()
    for batch in (1, 3, 2):
        images = sample(batch)
        (got,) = session.run(["logits"], {"image": images.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(got, network(images), atol=1e-5)


@both
def test_qcfs_becomes_plain_operators(tmp_path, dynamo):
    path = export_torch(make_network(4), sample(), tmp_path / "net.onnx", dynamo=dynamo)
    model = onnx.load(path)
    assert {entry.domain for entry in model.opset_import} == {""}
    found = operators(model)
    start = found.index("Conv") + 1
    assert found[start : start + len(QCFS_OPERATORS)] == QCFS_OPERATORS


@both
@pytest.mark.parametrize("opset", [17, 18])
def test_batch_norm_is_kept_when_asked(tmp_path, dynamo, opset):
    network = make_network(4)
    path = export_torch(
        network,
        sample(),
        tmp_path / "net.onnx",
        dynamo=dynamo,
        opset=opset,
        keep_batch_norm=True,
    )
    model = onnx.load(path)
    assert [entry.version for entry in model.opset_import] == [opset]
    (norm,) = (node for node in model.graph.node if node.op_type == "BatchNormalization")
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name, want in zip(
        norm.input[1:],
        (
            network.norm.weight,
            network.norm.bias,
            network.norm.running_mean,
            network.norm.running_var,
        ),
        strict=True,
    ):
        np.testing.assert_array_equal(stored[name], want.detach())
    # Nothing of the exporter's unoptimised graph is left.
    flatten = "Reshape" if dynamo else "Flatten"
    expected = ["Conv", "BatchNormalization", *QCFS_OPERATORS, flatten, "Gemm"]
    assert Counter(operators(model)) == Counter(expected)


@both
def test_batch_norm_is_folded_otherwise(tmp_path, dynamo):
    path = export_torch(make_network(), sample(), tmp_path / "net.onnx", dynamo=dynamo)
    assert "BatchNormalization" not in operators(onnx.load(path))


class TwoInputs(torch.nn.Module):
    def forward(self, left, right):
        return left + right, left * right


@both
def test_several_inputs_and_outputs(tmp_path, dynamo):
    path = export_torch(
        TwoInputs(),
        (torch.ones(2, 3), torch.arange(6.0).reshape(2, 3)),
        tmp_path / "net.onnx",
        dynamo=dynamo,
        input_names=("left", "right"),
        output_names=("sum", "product"),
    )
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    left, right = np.full((5, 3), 2, np.float32), np.full((5, 3), 3, np.float32)
    total, product = session.run(["sum", "product"], {"left": left, "right": right})
    assert (total == 5).all()
    assert (product == 6).all()


@both
def test_same_bytes_every_time(tmp_path, dynamo):
    first = export_torch(make_network(4), sample(), tmp_path / "a.onnx", dynamo=dynamo)
    second = export_torch(make_network(4), sample(), tmp_path / "b.onnx", dynamo=dynamo)
    assert first.read_bytes() == second.read_bytes()


SCRIPT = """
import torch
from graphpass_exporters.torch_export import export_torch
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU())
for keep in (False, True):
    for dynamo in (False, True):
        path = f"{keep}-{dynamo}.onnx"
        export_torch(net, torch.ones(2, 1, 5, 5), path, dynamo=dynamo, keep_batch_norm=keep)
"""


@pytest.mark.skipif(not _has_onnxscript(), reason="dynamo=True needs onnxscript")
def test_same_bytes_in_another_process_and_folder(tmp_path):
    found = []
    for seed in ("1", "2"):
        folder = tmp_path / f"somewhere-{seed}"
        folder.mkdir()
        (folder / "script.py").write_text(SCRIPT)
        subprocess.run(
            [sys.executable, "script.py"],
            cwd=folder,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        )
        found.append({file.name: file.read_bytes() for file in folder.glob("*.onnx")})
    assert len(found[0]) == 4
    assert found[0] == found[1]
    for content in found[0].values():
        assert b"somewhere" not in content
        assert b"stack_trace" not in content

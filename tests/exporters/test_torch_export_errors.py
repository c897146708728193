"""What `export_torch` refuses, and that a refusal leaves no file behind."""

import sys

import pytest

torch = pytest.importorskip("torch", reason="exporting torch modules needs torch")

from graphpass_exporters.torch_export import export_torch  # noqa: E402
from graphpass_runtime.errors import ModelError, OptionError, OutputError  # noqa: E402


class LiteralBatch(torch.nn.Module):
    """Adds a constant with as many rows as the example had."""

    def forward(self, x):
        return x + torch.ones(int(x.shape[0]), 1)


def test_literal_batch_is_refused_and_nothing_written(tmp_path):
    with (
        pytest.raises(ModelError, match=r"shape \(3, 3\) in ONNX Runtime, \(1, 3\) in torch"),
        pytest.warns(torch.jit.TracerWarning),
    ):
        export_torch(LiteralBatch(), torch.ones(2, 3), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


class Branch(torch.nn.Module):
    """A branch that the tracer freezes on what the example took."""

    def forward(self, x):
        return x * 2 if x.shape[0] > 2 else x * 3


def test_a_file_that_differs_from_torch_is_refused(tmp_path):
    with (
        pytest.raises(ModelError, match="differs from torch"),
        pytest.warns(torch.jit.TracerWarning),
    ):
        export_torch(Branch(), torch.ones(2, 3), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dynamo", [False, True])
def test_a_module_that_cannot_be_exported_is_refused(tmp_path, dynamo):
    class Raises(torch.nn.Module):
        def forward(self, x):
            raise ValueError("not today")

    if dynamo:
        pytest.importorskip("onnxscript", reason="dynamo=True needs onnxscript")
    with pytest.raises(ModelError, match=rf"cannot export .*not today.*dynamo={not dynamo}"):
        export_torch(Raises(), torch.ones(2, 3), tmp_path / "net.onnx", dynamo=dynamo)


def test_sums_over_the_batch_are_refused(tmp_path):
    class Sum(torch.nn.Module):
        def forward(self, x):
            return x.sum(0)

    with pytest.raises(ModelError, match="one row for every sample"):
        export_torch(Sum(), torch.ones(2, 3), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_names_must_fit_the_inputs(tmp_path):
    with pytest.raises(OptionError, match="1 sample inputs but 2 input names"):
        export_torch(
            torch.nn.ReLU(), torch.ones(2, 3), tmp_path / "net.onnx", input_names=("a", "b")
        )


def test_samples_must_share_a_batch_axis(tmp_path):
    samples = (torch.ones(2, 3), torch.ones(1, 3))
    with pytest.raises(OptionError, match="batch axis"):
        export_torch(
            torch.nn.Bilinear(3, 3, 1), samples, tmp_path / "net.onnx", input_names=("a", "b")
        )


def test_missing_folder_is_an_error_that_says_so(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        export_torch(torch.nn.ReLU(), torch.ones(2, 3), tmp_path / "nowhere" / "net.onnx")


def test_an_existing_file_survives_a_failed_export(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"precious")
    with pytest.raises(ModelError), pytest.warns(torch.jit.TracerWarning):
        export_torch(Branch(), torch.ones(2, 3), path)
    assert path.read_bytes() == b"precious"


def test_onnxscript_missing_is_an_error_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(OptionError, match=r"pip install graphpass\[export\]"):
        export_torch(torch.nn.ReLU(), torch.ones(2, 3), tmp_path / "net.onnx", dynamo=True)

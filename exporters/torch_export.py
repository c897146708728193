"""Write a torch module to one ONNX file, by either of torch's exporters, and check it.

What both leave to be done is done here: the batch axis is symbolic, the file is
single, has no absolute paths in it and the same bytes every time, and ONNX Runtime
gives what torch gives.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import onnx
import torch
from torch import nn

from graphpass_exporters.compare import BATCH_SIZES, batch_of, compare
from graphpass_exporters.onnx_file import clean, write_model
from graphpass_runtime.errors import GraphpassError, ModelError, OptionError

BATCH = "N"  # name of the batch dimension
LEGACY_OPSET = 17  # what older runtimes and TensorRT take
DYNAMO_OPSET = 18  # the lowest that needs no version converter


def export_torch(
    module: nn.Module,
    sample: torch.Tensor | Sequence[torch.Tensor],
    path: str | Path,
    *,
    dynamo: bool = False,
    opset: int | None = None,
    input_names: Sequence[str] = ("input",),
    output_names: Sequence[str] = ("output",),
    keep_batch_norm: bool = False,
    tolerance: float | None = None,
) -> Path:
    """Export `module`, in eval mode, with a symbolic batch axis ``N``.

    Args:
        module: the network, on the CPU; its training flags are left as they were.
        sample: one tensor for each input of ``forward``, batch first, any batch size.
        path: the ONNX file to write; an existing one is replaced in one step.
        dynamo: use ``torch.export`` (needs onnxscript), not the older tracer.
        opset: ONNX opset; None for 17 (tracer) or 18 (dynamo).
        input_names: a name for each input.
        output_names: a name for each output.
        keep_batch_norm: leave BatchNormalization nodes in the file, where both
            exporters fold them into convolutions; conversion reads their statistics.
        tolerance: largest ``|ort - torch| / |torch|`` (2-norms of an output) that is
            accepted; None for 1e-4, or 0.05 when the module has a `QCFS`, since a
            rounding difference at a step of the staircase becomes a whole step.

    Returns:
        The path of the file.

    Raises:
        ModelError: torch cannot export the module, or the file is not valid, or
            ONNX Runtime computes something else than torch.
        OptionError: names and tensors differ in number, or onnxscript is missing.
        OutputError: the path cannot be written.
    """
    path = Path(path)
    samples = (sample,) if isinstance(sample, torch.Tensor) else tuple(sample)
    _check_samples(samples, input_names)
    # torch.export makes a constant of an axis of size 1, so trace a larger batch.
    inputs = tuple(batch_of(tensor, max(BATCH_SIZES)) for tensor in samples)
    export = _export_dynamo if dynamo else _export_traced
    with _evaluating(module):
        try:
            model = export(module, inputs, input_names, output_names, opset, keep_batch_norm)
        except GraphpassError:
            raise
        except Exception as error:  # torch's exporters raise whatever the module provokes
            cause = error.__cause__ or error  # dynamo wraps it in a page of advice
            reason = str(cause).strip().split("\n")[0] or type(cause).__name__
            raise ModelError(
                f"torch cannot export it ({reason})",
                where=type(module).__name__,
                remedy=f"try the other exporter (dynamo={not dynamo})",
            ) from error
        clean(model)
        _check_valid(model, path)
        compare(model, module, samples, input_names, tolerance=tolerance, where=str(path))
    write_model(model, path)
    return path


def _check_samples(samples: Sequence[torch.Tensor], names: Sequence[str]) -> None:
    if len(samples) != len(names):
        raise OptionError(f"{len(samples)} sample inputs but {len(names)} input names")
    sizes = {tensor.shape[0] if tensor.ndim else 0 for tensor in samples}
    if len(sizes) != 1 or 0 in sizes:
        raise OptionError("sample inputs need a common, non-empty batch axis in front")


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, flag in training.items():
            part.training = flag


def _export_traced(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    opset: int | None,
    keep_batch_norm: bool,
) -> onnx.ModelProto:
    mode = torch.onnx.TrainingMode
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # That this exporter is deprecated is known, and folding constants harms only a
        # module in training mode; tracer warnings are for the user.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "It is recommended that constant folding")
        file = Path(folder) / "model.onnx"
        torch.onnx.export(
            module,
            inputs,
            file,
            dynamo=False,
            opset_version=opset or LEGACY_OPSET,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_axes={name: {0: BATCH} for name in (*input_names, *output_names)},
            # In EVAL the exporter folds BatchNormalization; the module itself is in
            # eval mode, so PRESERVE leaves the nodes and their inference meaning.
            training=mode.PRESERVE if keep_batch_norm else mode.EVAL,
        )
        return onnx.load(file)


def _export_dynamo(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    opset: int | None,
    keep_batch_norm: bool,
) -> onnx.ModelProto:
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise OptionError(
            "dynamo=True needs the onnxscript package",
            remedy="pip install graphpass[export], or use dynamo=False",
        ) from error
    from graphpass_exporters.keep_batch_norm import simplify

    batch = torch.export.Dim(BATCH)
    exported = torch.onnx.export(
        module,
        inputs,
        dynamo=True,
        opset_version=opset or DYNAMO_OPSET,
        input_names=list(input_names),
        output_names=list(output_names),
        dynamic_shapes=tuple({0: batch} for _ in inputs),
        optimize=not keep_batch_norm,
        verbose=False,
    )
    program = cast("torch.onnx.ONNXProgram", exported)  # None comes from the other exporter only
    if keep_batch_norm:
        simplify(program.model)
    return program.model_proto


def _check_valid(model: onnx.ModelProto, path: Path) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"the exported model is not valid ONNX ({reason})", where=str(path)) from (
            error
        )
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if not dims or dims[0].dim_param != BATCH:
            raise ModelError(
                f"tensor '{value.name}' has no symbolic batch axis in front",
                where=str(path),
                remedy="inputs and outputs must be batch first, of no fixed batch size",
            )

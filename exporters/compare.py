"""Does an exported file compute what the torch module computes?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from graphpass_exporters.qcfs import QCFS
from graphpass_runtime.errors import ModelError, OptionError

BATCH_SIZES = (1, 3)
TOLERANCE = 1e-4
# At a step of the staircase the last bit of a current decides over a whole level.
QCFS_TOLERANCE = 0.05


def batch_of(sample: torch.Tensor, size: int) -> torch.Tensor:
    """`size` rows from a sample of any batch size.

    When the sample runs out its rows come again with their values moved along, so
    that rows differ and integers, such as token ids, stay in range.
    """
    rows = sample.shape[0]
    return torch.stack([sample[i % rows].roll(i // rows) for i in range(size)])


def compare(
    model: onnx.ModelProto,
    module: nn.Module,
    samples: Sequence[torch.Tensor],
    input_names: Sequence[str],
    *,
    tolerance: float | None = None,
    where: str | None = None,
) -> None:
    """Run both on 1 and on 3 samples; `module` must be in eval mode.

    Args:
        model: the exported model.
        module: what it was exported from.
        samples: one tensor an input, batch first.
        input_names: their names in the model, in the same order.
        tolerance: largest ``|ort - torch| / |torch|``, 2-norms of one output; None
            for 1e-4, or 0.05 when the module has a `QCFS`.
        where: what to call the model in an error.

    Raises:
        ModelError: they differ, or ONNX Runtime cannot run the model.
        OptionError: ONNX Runtime is not installed.
    """
    if tolerance is None:
        has_qcfs = any(isinstance(part, QCFS) for part in module.modules())
        tolerance = QCFS_TOLERANCE if has_qcfs else TOLERANCE
    for size in BATCH_SIZES:
        inputs = [batch_of(sample, size) for sample in samples]
        expected = _run_torch(module, inputs)
        feeds = {name: x.numpy() for name, x in zip(input_names, inputs, strict=True)}
        actual = _run_onnxruntime(model, feeds, size, where)
        if len(actual) != len(expected):
            raise ModelError(
                f"{len(actual)} outputs in the file, {len(expected)} in torch", where=where
            )
        for output, got, want in zip(model.graph.output, actual, expected, strict=True):
            _compare_output(output.name, got, want, size, tolerance, where)


def _compare_output(
    name: str,
    got: NDArray[np.generic],
    want: NDArray[np.generic],
    size: int,
    tolerance: float,
    where: str | None,
) -> None:
    if got.shape != want.shape:
        problem = f"has shape {got.shape} in ONNX Runtime, {want.shape} in torch"
    else:
        norm = float(np.linalg.norm(want.astype(np.float64)))
        error = float(np.linalg.norm(got.astype(np.float64) - want.astype(np.float64)))
        if error <= tolerance * norm:  # false for NaN
            return
        problem = f"differs from torch by {error:.3g}, norm {norm:.3g}, tolerance {tolerance:.1g}"
    raise ModelError(
        f"output '{name}' {problem}, at batch size {size}",
        where=where,
        remedy="look for Python numbers taken from shapes or values in forward()",
    )


def _run_torch(module: nn.Module, inputs: Sequence[torch.Tensor]) -> list[NDArray[np.generic]]:
    with torch.no_grad():
        outputs = module(*inputs)
    if isinstance(outputs, torch.Tensor):
        outputs = (outputs,)
    if not (
        isinstance(outputs, (tuple, list)) and all(isinstance(y, torch.Tensor) for y in outputs)
    ):
        raise ModelError(
            "forward() must return a tensor, or a tuple of tensors", where=type(module).__name__
        )
    if any(y.ndim == 0 or y.shape[0] != inputs[0].shape[0] for y in outputs):
        raise ModelError(
            "forward() must return one row for every sample", where=type(module).__name__
        )
    return [y.numpy() for y in outputs]


def _run_onnxruntime(
    model: onnx.ModelProto,
    feeds: dict[str, NDArray[np.generic]],
    size: int,
    where: str | None,
) -> list[NDArray[np.generic]]:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise OptionError(
            "checking an export needs ONNX Runtime", remedy="pip install graphpass[cpu]"
        ) from error
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        # An input that no node reads may be missing from the file.
        present = {value.name for value in session.get_inputs()}
        outputs: list[NDArray[np.generic]] = session.run(
            None, {name: x for name, x in feeds.items() if name in present}
        )
    except Exception as error:  # its exceptions have no common base of their own
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"ONNX Runtime cannot run it at batch size {size} ({reason})",
            where=where,
            remedy="look for Python numbers taken from shapes in forward()",
        ) from error
    return outputs

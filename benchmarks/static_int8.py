"""What a user would pick instead of an SNN: ONNX Runtime's own static int8, as its guide says."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

_GUIDE = {
    "quant_format": QuantFormat.QDQ,
    "per_channel": True,
    "activation_type": QuantType.QUInt8,
    "weight_type": QuantType.QInt8,
}


def write_static_int8(
    ann: Path,
    batches: Iterable[dict[str, Any]],
    path: Path,
    *,
    prepare: bool = True,
    **options: Any,
) -> Path:
    """Quantise weights per channel and activations to 8 bits, calibrated on these batches.

    Options of `quantize_static` replace those of the guide. Without `prepare`, the network is
    not optimised before.
    """
    source = path.with_suffix(".prepared.onnx") if prepare else ann
    if prepare:
        quant_pre_process(ann, source, skip_symbolic_shape=True)
    quantize_static(source, path, _Reader(batches), **_GUIDE | options)
    return path


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration batches as ONNX Runtime's quantiser wants them."""

    def __init__(self, batches: Iterable[dict[str, Any]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)

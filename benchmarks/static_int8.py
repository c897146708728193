"""What a user would pick instead of an SNN: ONNX Runtime's own static int8, as its guide says."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


def write_static_int8(ann: Path, batches: Iterable[dict[str, Any]], path: Path) -> Path:
    """Quantise weights per channel and activations to 8 bits, calibrated on these batches."""
    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(ann, prepared, skip_symbolic_shape=True)
    quantize_static(
        *(prepared, path, _Reader(batches)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return path


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration batches as ONNX Runtime's quantiser wants them."""

    def __init__(self, batches: Iterable[dict[str, Any]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)

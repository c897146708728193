"""QONNX's quantisers, which ONNX Runtime does not know, in standard operators.

Quant, by its newer name IntQuant: y = (round(clip(x / scale + zero, low, high)) - zero) * scale,
with the ends of an integer of `bits` bits (QONNX, docs/qonnx-custom-ops; Pappalardo et al.,
arXiv:2206.07527). Trunc drops the lowest bits of such integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import editing
from graphpass.model import Model
from graphpass.passes.base import Pass
from graphpass.passes.spell_integer_weights import read_instead, spelt
from graphpass_runtime.errors import ModelError

_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
_ROUND = {"ROUND": np.rint, "FLOOR": np.floor, "CEIL": np.ceil}
_MOST_BITS = 24  # whole numbers that float32 holds
_SCALE_AND_ZERO = ((1, "scale"), (2, "zero point"))
_TRUNC_1 = 5  # inputs of Trunc of version 1
_OLDEST_ROUND, _OLDEST_INTEGER_CLIP = 11, 12


class LowerQuant(Pass):
    """Quant, BipolarQuant and Trunc become what they say, so that ONNX Runtime can run them.

    Weights are rounded here and now, and keep their integers. Quant of a tensor of the network
    becomes QuantizeLinear, Clip and DequantizeLinear where it has one scale and at most 8 bits,
    else Div, Clip, Round and Mul: both are recognised as neurons later. What else stands in the
    domains of QONNX and Brevitas is refused.
    """

    def apply(self, model: Model) -> int:
        """Whatever stands in the domains of QONNX and Brevitas."""
        nodes = [node for node in model.graph.nodes if node.domain in _DOMAINS]
        for node in nodes:
            if node.op in ("Quant", "IntQuant", "BipolarQuant"):
                _lower(model, node)
            elif node.op == "Trunc":
                _write_truncation(model, node)
            else:
                raise ModelError(
                    f"{editing.describe(node)} is an operator that ONNX Runtime does not know",
                    where=model.name,
                    remedy="export quantisers as Quant, or as QuantizeLinear and DequantizeLinear",
                )
        return len(nodes)


def _lower(model: Model, node: gs.Node) -> None:
    scale, real = _constant(model, node, 1, "scale"), editing.values(node.inputs[0])
    zero, bits = np.zeros((), np.float32), 1
    if node.op != "BipolarQuant":
        zero = _constant(model, node, 2, "zero point")
        bits = _bits(model, node, 3)
    bipolar = bits == 1 and _flag(model, node, "signed", 1)
    ends = _ends(model, node, bits)
    rounding = _rounding(model, node, "ROUND", constant=real is not None)
    if real is not None:
        levels = _levels(model, node, real, scale, zero)
        signs = np.where(levels >= 0, 1, -1)
        whole = signs if bipolar else _ROUND[rounding](np.clip(levels, *ends))
        read_instead(model, node, spelt(model, node.outputs[0], _float(whole), zero, scale))
    elif bipolar:
        _write_signs(model, node, scale, zero)
    elif scale.size == zero.size == 1 and rounding == "ROUND" and _fits(model, ends, zero):
        _write_quantiser(model, node, scale, zero, ends)
    else:
        _write_rounding(model, node, scale, zero, ends, rounding)


def _rounding(model: Model, node: gs.Node, default: str, *, constant: bool = False) -> str:
    rounding = str(node.attrs.get("rounding_mode", default)).upper()
    if rounding not in _ROUND or (model.opset < _OLDEST_ROUND and not constant):
        raise ModelError(
            f"{editing.describe(node)} rounds by {rounding} in opset {model.opset}",
            where=model.name,
            remedy=f"use {' or '.join(_ROUND)}, and opset {_OLDEST_ROUND} or newer",
        )
    return rounding


def _float(array: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(array, np.float32)


def _constant(model: Model, node: gs.Node, index: int, what: str) -> NDArray[np.float32]:
    found = editing.values(editing.present(node.inputs, index))
    if found is None:
        raise ModelError(
            f"the {what} of {editing.describe(node)} is not a constant",
            where=model.name,
            remedy="export the network with fixed quantisers",
        )
    return _float(found)


def _bits(model: Model, node: gs.Node, index: int) -> int:
    found = _constant(model, node, index, "number of bits")
    bits = float(found.reshape(())) if found.size == 1 else 0.0
    if bits not in range(1, _MOST_BITS + 1):
        raise ModelError(
            f"the number of bits of {editing.describe(node)} is not one of 1 to {_MOST_BITS}",
            where=model.name,
            remedy="export the network again",
        )
    return int(bits)


def _levels(
    model: Model,
    node: gs.Node,
    real: NDArray[Any],
    scale: NDArray[np.float32],
    zero: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Constants in units of their grid."""
    try:
        if np.broadcast_shapes(real.shape, scale.shape, zero.shape) != real.shape:
            raise ValueError
    except ValueError:
        raise ModelError(
            f"the shapes of {editing.describe(node)} do not fit",
            where=model.name,
            remedy="check the file with onnx.checker",
        ) from None
    with np.errstate(all="ignore"):
        return _float(np.nan_to_num(_float(real) / scale) + zero)


def _flag(model: Model, node: gs.Node, name: str, default: int) -> bool:
    value = node.attrs.get(name, default)
    if value not in (0, 1):
        raise ModelError(
            f"{editing.describe(node)} has an attribute '{name}' that is neither 0 nor 1",
            where=model.name,
            remedy="export the model again",
        )
    return bool(value)


def _ends(model: Model, node: gs.Node, bits: int) -> tuple[int, int]:
    """The smallest and the largest integer."""
    narrow = _flag(model, node, "narrow", 0)
    if _flag(model, node, "signed", 1):
        return -(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1
    return 0, 2**bits - 1 - narrow


def _fits(model: Model, ends: tuple[int, int], zero: NDArray[np.float32]) -> bool:
    """Can QuantizeLinear say it? It adds the zero point behind the rounding."""
    middle = float(zero.reshape(()))
    inside = ends in ((0, 255), (-128, 127)) or model.opset >= _OLDEST_INTEGER_CLIP
    return inside and -128 <= ends[0] <= middle <= ends[1] <= 255 and middle % 2 == 0


def _write_quantiser(
    model: Model,
    node: gs.Node,
    scale: NDArray[np.float32],
    zero: NDArray[np.float32],
    ends: tuple[int, int],
) -> None:
    kind = np.dtype(np.int8 if ends[0] < 0 else np.uint8)
    name = node.outputs[0].name
    grid = [
        editing.constant(model, f"{name}/scale", scale.reshape(())),
        editing.constant(model, f"{name}/zero", zero.reshape(()).astype(kind)),
    ]
    steps: editing.Steps = [("QuantizeLinear", grid)]
    if ends != (np.iinfo(kind).min, np.iinfo(kind).max):
        limits = [editing.constant(model, f"{name}/{e}", np.array(e, kind)) for e in ends]
        steps.append(("Clip", limits))
    editing.replace_by_chain(model, node, [*steps, ("DequantizeLinear", grid)])


def _write_rounding(
    model: Model,
    node: gs.Node,
    scale: NDArray[np.float32],
    zero: NDArray[np.float32],
    ends: tuple[int, int],
    rounding: str,
) -> None:
    name = node.outputs[0].name
    factor, middle = (
        editing.constant(model, f"{name}/{key}", array)
        for key, array in (("scale", scale), ("zero", zero))
    )
    limits = [editing.constant(model, f"{name}/{e}", np.array(e, np.float32)) for e in ends]
    whole: editing.Steps = [("Clip", limits), (rounding.title(), [])]
    if np.any(zero):
        whole = [("Add", [middle]), *whole, ("Sub", [middle])]
    editing.replace_by_chain(model, node, [("Div", [factor]), *whole, ("Mul", [factor])])


def _write_truncation(model: Model, node: gs.Node) -> None:
    """Version 1 says how many bits go; version 2 scales its output, and clips it to its bits."""
    name, rounding = node.outputs[0].name, _rounding(model, node, "FLOOR")
    scale, zero = (_constant(model, node, i, what) for i, what in _SCALE_AND_ZERO)
    limits: editing.Steps = []
    if len(node.inputs) > _TRUNC_1:
        larger, bits = _constant(model, node, 4, "scale of the output"), _bits(model, node, 5)
        with np.errstate(all="ignore"):
            places = np.rint(np.log2(larger.ravel()[:1] / scale.ravel()[:1])).reshape(())
        if larger.size != 1 or scale.size != 1 or not abs(places) <= _MOST_BITS:
            raise ModelError(
                f"the scales of {editing.describe(node)} are not one number each, by a power of"
                f" two of at most {_MOST_BITS} apart",
                where=model.name,
                remedy="export the network again",
            )
        ends = [np.array(end, np.float32) for end in _ends(model, node, bits)]
        keys = (f"{name}/lowest", f"{name}/highest")
        limits = [("Clip", [editing.constant(model, *end) for end in zip(keys, ends, strict=True)])]
        middle = _float(zero / 2.0**places)
    else:
        places = np.asarray(_bits(model, node, 3) - _bits(model, node, 4), np.float32)
        larger, middle = scale, zero

    def step(op: str, key: str, array: NDArray[Any]) -> tuple[str, list[gs.Tensor]]:
        return op, [editing.constant(model, f"{name}/{key}", _float(array))]

    whole = [step("Div", "scale", scale), step("Add", "zero", zero), ("Round", [])]
    shifted = [step("Div", "places", 2.0**places), *limits, (rounding.title(), [])]
    real = [step("Sub", "middle", middle), step("Mul", "factor", larger)]
    editing.replace_by_chain(model, node, [*whole, *shifted, *real])


def _write_signs(
    model: Model, node: gs.Node, scale: NDArray[np.float32], zero: NDArray[np.float32]
) -> None:
    """+-1 by the sign of x / scale + zero; BipolarQuant scales it, Quant with one bit as well."""
    name, source, output = node.outputs[0].name, node.inputs[0], node.outputs[0]
    below = gs.Variable(f"{name}/below", np.dtype(bool))
    bound, low, high = (
        editing.constant(model, f"{name}/{key}", _float(array))
        for key, array in (
            ("bound", -zero * scale),
            ("low", (-1 - zero) * scale),
            ("high", (1 - zero) * scale),
        )
    )
    editing.detach(node)
    model.graph.nodes += [
        gs.Node("Less", f"{name}/compare", inputs=[source, bound], outputs=[below]),
        gs.Node("Where", f"{name}/choose", inputs=[below, low, high], outputs=[output]),
    ]

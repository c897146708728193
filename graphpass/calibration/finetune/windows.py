"""Convolutions and pools as torch functions.

ONNX pads each side as it likes, torch both sides alike: padding is always done apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from graphpass.calibration.finetune.operators import Call, operator

_CONV: dict[int, Callable[..., Tensor]] = {
    1: functional.conv1d,
    2: functional.conv2d,
    3: functional.conv3d,
}
_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
_MAX_POOL: dict[int, Callable[..., Tensor]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
_AVERAGE_POOL: dict[int, Callable[..., Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


@dataclass(frozen=True)
class Windows:
    """How a window slides over the spatial axes.

    Attributes:
        kernel: size of the window.
        strides: how far it moves.
        dilations: distance of its elements.
        begin: padding before the first element.
        end: padding behind the last one.
        beyond: more behind that, which only ceil_mode asks for.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begin: list[int]
    end: list[int]
    beyond: list[int]

    def pad(self, x: Tensor, value: float = 0.0) -> Tensor:
        """The input with everything that is padded."""
        return _padded(x, self.begin, _plus(self.end, self.beyond), value)


def _windows(call: Call, kernel: Sequence[int]) -> Windows:
    """The windows of a node.

    Args:
        call: Conv, MaxPool or AveragePool.
        kernel: size of the window.
    """
    axes = len(kernel)
    strides = list(call.attr("strides", [1] * axes))
    dilations = list(call.attr("dilations", [1] * axes))
    sizes = list(call.x.shape[2:])
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    begin, end = _pads(call, sizes, reach, strides)
    beyond = [0] * axes
    if call.attr("ceil_mode", 0):
        rows = zip(sizes, begin, end, reach, strides, strict=True)
        beyond = [_beyond(*row) for row in rows]
    return Windows(list(kernel), strides, dilations, begin, end, beyond)


def _pads(
    call: Call, sizes: list[int], reach: list[int], strides: list[int]
) -> tuple[list[int], list[int]]:
    mode = call.attr("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = list(call.attr("pads", [0] * 2 * len(reach)))
        return pads[: len(reach)], pads[len(reach) :]
    if mode == "VALID":
        return [0] * len(reach), [0] * len(reach)
    totals = [
        max(0, (math.ceil(size / step) - 1) * step + window - size)
        for size, step, window in zip(sizes, strides, reach, strict=True)
    ]
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (less, more) if mode == "SAME_UPPER" else (more, less)


def _beyond(size: int, begin: int, end: int, reach: int, stride: int) -> int:
    """What a last window that is not full lacks; it must start before the padding."""
    room = size + begin + end - reach
    last = math.ceil(room / stride) * stride
    if last >= size + begin:
        last -= stride
    return max(0, last - room)


def _plus(a: Sequence[int], b: Sequence[int]) -> list[int]:
    return [x + y for x, y in zip(a, b, strict=True)]


def _padded(x: Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> Tensor:
    if not any([*begin, *end]):
        return x
    # Torch counts axes from the last one.
    pads = [pad for pair in zip(reversed(begin), reversed(end), strict=True) for pad in pair]
    return functional.pad(x, pads, value=value)


def _for_axes(call: Call, known: dict[int, Callable[..., Tensor]]) -> Callable[..., Tensor]:
    axes = call.x.ndim - 2
    if axes not in known:
        raise call.refusal(f"has {axes} spatial axes; finetuning knows 1 to 3")
    return known[axes]


@operator("Conv")
def _conv(call: Call) -> Tensor:
    function, weight = _for_axes(call, _CONV), call.tensor(1)
    windows = _windows(call, weight.shape[2:])
    alike = windows.begin == windows.end
    x = call.x if alike else windows.pad(call.x)
    return function(
        x,
        weight,
        call.optional(2),
        windows.strides,
        windows.begin if alike else 0,
        windows.dilations,
        call.attr("group", 1),
    )


@operator("ConvTranspose")
def _conv_transpose(call: Call) -> Tensor:
    if call.attr("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in call.node.attrs:
        raise call.refusal("gives its output size instead of its padding")
    function, weight, bias = _for_axes(call, _CONV_TRANSPOSE), call.tensor(1), call.optional(2)
    axes = weight.ndim - 2
    pads = list(call.attr("pads", [0] * 2 * axes))
    strides, dilations = call.attr("strides", [1] * axes), call.attr("dilations", [1] * axes)
    full = function(call.x, weight, None, strides, 0, 0, call.attr("group", 1), dilations)
    begin, end = [-pad for pad in pads[:axes]], [-pad for pad in pads[axes:]]
    result = _padded(full, begin, _plus(end, call.attr("output_padding", [0] * axes)))
    return result if bias is None else result + bias.reshape(-1, *[1] * axes)


@operator("MaxPool")
def _max_pool(call: Call) -> Tensor:
    function = _for_axes(call, _MAX_POOL)
    windows = _windows(call, call.attr("kernel_shape"))
    x = windows.pad(call.x, -torch.inf)
    return function(x, windows.kernel, windows.strides, dilation=windows.dilations)


@operator("AveragePool")
def _average_pool(call: Call) -> Tensor:
    function = _for_axes(call, _AVERAGE_POOL)
    windows = _windows(call, call.attr("kernel_shape"))
    if any(step != 1 for step in windows.dilations):
        raise call.refusal("is dilated")
    mean = function(windows.pad(call.x), windows.kernel, windows.strides)
    if not any([*windows.begin, *windows.end, *windows.beyond]):
        return mean
    # The share of each window that counts.
    ones = torch.ones_like(call.x[:1, :1])
    counted = float(call.attr("count_include_pad", 0))
    ones = _padded(ones, windows.begin, windows.end, counted)
    ones = _padded(ones, [0] * len(windows.beyond), windows.beyond)
    return mean / function(ones, windows.kernel, windows.strides)


@operator("GlobalAveragePool")
def _global_average_pool(call: Call) -> Tensor:
    return call.x.mean(list(range(2, call.x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def _global_max_pool(call: Call) -> Tensor:
    return call.x.amax(list(range(2, call.x.ndim)), keepdim=True)

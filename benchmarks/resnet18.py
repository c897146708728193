"""ResNet-18 at 224x224 with random weights: the network without a download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels, stride of the first block
_BLOCKS = 2
_CLASSES = 1000


class _Builder:
    """Nodes and weights of a graph under construction."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def weight(self, name: str, array: NDArray[np.float32]) -> str:
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def conv(
        self, x: str, name: str, channels: tuple[int, int], kernel: int, stride: int, scale: float
    ) -> str:
        """A convolution as BatchNorm folding leaves it: He-normal weights and a bias."""
        inward, outward = channels
        deviation = scale * np.sqrt(2 / (inward * kernel**2))
        shape = (outward, inward, kernel, kernel)
        pad = kernel // 2
        inputs = [
            x,
            self.weight(f"{name}.weight", deviation * self._rng.standard_normal(shape)),
            self.weight(f"{name}.bias", 0.1 * self._rng.standard_normal(outward)),
        ]
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        return self.node("Conv", inputs, name, **sizes)

    def block(self, x: str, name: str, inward: int, outward: int, stride: int) -> str:
        """Two convolutions and a shortcut, which is a projection where the shape changes."""
        # Branches of half the variance, so that their sum neither grows nor vanishes.
        half = float(np.sqrt(0.5))
        a = self.conv(x, f"{name}.conv1", (inward, outward), 3, stride, 1.0)
        b = self.node("Relu", [a], f"{name}.relu1")
        c = self.conv(b, f"{name}.conv2", (outward, outward), 3, 1, half)
        if stride != 1 or inward != outward:
            x = self.conv(x, f"{name}.shortcut", (inward, outward), 1, stride, half)
        d = self.node("Add", [c, x], f"{name}.add")
        return self.node("Relu", [d], f"{name}.relu2")


def build_resnet18(seed: int = 0) -> onnx.ModelProto:
    """The network, input ``[N, 3, 224, 224]``, output 1,000 logits; the same for a seed."""
    net = _Builder(seed)
    x = net.conv("input", "stem", (3, 64), 7, 2, 1.0)
    x = net.node("Relu", [x], "stem.relu")
    pooling = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    x = net.node("MaxPool", [x], "stem.pool", **pooling)
    inward = 64
    for stage, (channels, stride) in enumerate(_STAGES, start=1):
        for block in range(_BLOCKS):
            name = f"layer{stage}.{block}"
            x = net.block(x, name, inward, channels, stride if block == 0 else 1)
            inward = channels
    x = net.node("GlobalAveragePool", [x], "pool")
    x = net.node("Flatten", [x], "flat")
    rng = np.random.default_rng(seed + 1)
    weights = [
        net.weight("fc.weight", rng.standard_normal((_CLASSES, inward)) / np.sqrt(inward)),
        net.weight("fc.bias", np.zeros(_CLASSES)),
    ]
    net.node("Gemm", [x, *weights], "logits", transB=1)
    graph = helper.make_graph(
        net.nodes,
        "resnet18",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", _CLASSES])],
        net.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def write_resnet18(path: Path) -> Path:
    """Write the network to a file."""
    path.write_bytes(build_resnet18().SerializeToString())
    return path

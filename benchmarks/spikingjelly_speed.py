"""SpikingJelly's IF network beside our counts and int8: ResNet-18 at 224x224, CPU.

    pip install torch==2.13.0 spikingjelly==2.0.0
    python benchmarks/spikingjelly_speed.py > benchmarks/results/DATE-spikingjelly.md

The same architecture with random weights on both sides; what the weights are does not
change the work. SpikingJelly runs T steps of IF neurons with soft reset in its
multi-step mode, inference only. Rounds are interleaved; a cell is a ratio of medians.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import onnxruntime
import torch
from resnet18 import write_resnet18
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from graphpass import Session, convert

_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))


class _Block(nn.Module):
    """Two convolutions and a shortcut, IF neurons as in the converted network."""

    def __init__(self, inward: int, outward: int, stride: int) -> None:
        super().__init__()
        self.first = layer.Conv2d(inward, outward, 3, stride, 1)
        self.spike = neuron.IFNode(v_reset=None)
        self.second = layer.Conv2d(outward, outward, 3, 1, 1)
        same = stride == 1 and inward == outward
        self.shortcut = nn.Identity() if same else layer.Conv2d(inward, outward, 1, stride)
        self.out = neuron.IFNode(v_reset=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Train in, train out: ``[T, N, C, H, W]``."""
        result: torch.Tensor = self.out(self.second(self.spike(self.first(x))) + self.shortcut(x))
        return result


def _network() -> nn.Module:
    stem = [layer.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), layer.MaxPool2d(3, 2, 1)]
    blocks, inward = [], 64
    for outward, stride in _STAGES:
        blocks += [_Block(inward, outward, stride), _Block(outward, outward, 1)]
        inward = outward
    tail = [layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(512, 1000)]
    network = nn.Sequential(*stem, *blocks, *tail).eval()
    functional.set_step_mode(network, "m")
    return network


@click.command()
@click.option("--steps", default=32, show_default=True, help="T.")
@click.option("--threads", default=2, show_default=True, help="Threads of every side.")
@click.option("--repeat", default=9, show_default=True, help="Rounds.")
def main(steps: int, threads: int, repeat: int) -> None:
    """Print the table."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    image = np.random.default_rng(0).normal(0, 1, (1, 3, 224, 224)).astype(np.float32)
    network, train = _network(), torch.from_numpy(image).expand(steps, 1, 3, 224, 224)
    sides: dict[str, Any] = {"SpikingJelly IF": lambda: _step_through(network, train)}
    with tempfile.TemporaryDirectory() as scratch:
        ann = Path(scratch) / "ann.onnx"
        write_resnet18(ann)
        name = Session(ann).inputs[0].name
        for form in ("counts", "counts-cpu", "int8"):
            snn = Path(scratch) / f"{form}.onnx"
            data = [{name: image}]
            convert(ann, snn, steps=steps, data=data, calibrate="none", form=form)
            sides[form] = _runner(Session(snn, threads=threads, spinning=False), {name: image})
        times = _timed(sides, repeat)
    print(f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__},", end=" ")
    print(f"{threads} threads, T = {steps}, batch 1\n")
    print("| side | ms | SpikingJelly / this |\n|---|---|---|")
    slowest = median(times["SpikingJelly IF"])
    for side, values in times.items():
        print(f"| {side} | {1e3 * median(values):.1f} | {slowest / median(values):.1f} |")


def _step_through(network: nn.Module, train: torch.Tensor) -> None:
    with torch.inference_mode():
        functional.reset_net(network)
        network(train).mean(0)


def _runner(session: Session, feeds: dict[str, Any]) -> Any:
    return lambda: session.run(feeds)


def _timed(sides: dict[str, Any], repeat: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {side: [] for side in sides}
    for side in sides.values():
        side()
    for _ in range(repeat):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            times[name].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()

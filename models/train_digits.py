"""Train the digits networks and write them as ONNX files.

``python -m graphpass_models.train_digits --out DIR`` makes what this package holds,
from scratch, in under a minute on one CPU core. The seed and the single thread
make it repeatable on one machine; another CPU sums in another order.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from graphpass_exporters.qcfs import replace_activations
from graphpass_exporters.torch_export import export_torch
from graphpass_models.digits import (
    INPUT_NAME,
    OUTPUT_NAME,
    Digits,
    held_out_accuracy,
    load_digits,
)
from graphpass_models.digits_network import DigitsNetwork

QCFS_LEVELS = 8
QCFS_THRESHOLD = 2.0  # BatchNorm keeps currents near unit variance, so 8 would waste levels


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum and a cosine schedule.

    Attributes:
        epochs: passes over the training images.
        batch: images in a step.
        learning_rate: at the first step; it falls to 0.
        weight_decay: on everything, thresholds included.
        seed: of the initial weights, the order of images and their shifts.
    """

    epochs: int = 60
    batch: int = 64
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    seed: int = 0


def train_network(digits: Digits, recipe: Recipe, levels: int | None = None) -> DigitsNetwork:
    """A trained network, in eval mode.

    Args:
        digits: the data; only the training part is looked at.
        recipe: how to train.
        levels: QCFS levels of every activation; None for ReLU.
    """
    torch.manual_seed(recipe.seed)
    network = DigitsNetwork()
    if levels is not None:
        replace_activations(network, levels, QCFS_THRESHOLD)
    images = torch.from_numpy(digits.train_images)
    labels = torch.from_numpy(digits.train_labels)
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=recipe.learning_rate,
        momentum=0.9,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs)
    network.train()
    for _ in range(recipe.epochs):
        for chosen in torch.randperm(len(images)).split(recipe.batch):
            optimiser.zero_grad()
            logits = network(_shift(images[chosen]))
            functional.cross_entropy(logits, labels[chosen], label_smoothing=0.1).backward()
            optimiser.step()
        schedule.step()
    return network.eval()


def _shift(images: torch.Tensor) -> torch.Tensor:
    """The batch moved by at most one pixel in each direction, zeros moving in."""
    left, top = torch.randint(0, 3, (2,)).tolist()
    padded = functional.pad(images, (1, 1, 1, 1))
    return padded[:, :, top : top + 8, left : left + 8]


def write_networks(out: Path, digits: Digits, recipe: Recipe) -> list[Path]:
    """Train the ReLU and the QCFS network and write the three files into `out`.

    Raises:
        OutputError: `out` cannot be written.
    """
    relu = train_network(digits, recipe)
    qcfs = train_network(digits, recipe, QCFS_LEVELS)
    files: tuple[tuple[str, nn.Module, bool], ...] = (
        ("digits_cnn", relu, False),
        (f"digits_qcfs_l{QCFS_LEVELS}", qcfs, False),
        (f"digits_qcfs_l{QCFS_LEVELS}_dynamo", qcfs, True),
    )
    return [
        export_torch(
            network,
            torch.from_numpy(digits.test_images[:3]),
            out / f"{name}.onnx",
            dynamo=dynamo,
            input_names=(INPUT_NAME,),
            output_names=(OUTPUT_NAME,),
            # Conversion reads the statistics of BatchNorm. The other exporter's file
            # is left as it comes, folded, since that is what users bring.
            keep_batch_norm=not dynamo,
        )
        for name, network, dynamo in files
    ]


def main(arguments: list[str] | None = None) -> None:
    """Command line; prints the held-out accuracy of every file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the ONNX files")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    digits = load_digits()
    for path in write_networks(options.out, digits, Recipe(epochs=options.epochs)):
        accuracy = held_out_accuracy(path, digits)
        sys.stdout.write(f"{path}: {accuracy:.2%} of {len(digits.test_labels)} held-out digits\n")


if __name__ == "__main__":
    main()

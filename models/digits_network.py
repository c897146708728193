"""The digits network: every structure that a conversion meets first, in 11,000 weights."""

from __future__ import annotations

import torch
from torch import nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions whose result is added to the input.

    Args:
        channels: channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.act2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, channels, H, W]`` to the same shape."""
        residual = self.act1(self.norm1(self.conv1(x)))
        residual = self.norm2(self.conv2(residual))
        return self.act2(residual + x)  # type: ignore[no-any-return]


class DigitsNetwork(nn.Module):
    """A small residual network with BatchNorm and MaxPool; four activations.

    Every activation is an ``nn.ReLU`` of its own, so that `replace_activations`
    gives every layer its own threshold.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.act1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.block = ResidualBlock(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(32)
        self.act2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.classify = nn.Linear(32 * 2 * 2, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images ``[N, 1, 8, 8]`` in 0..1 to logits ``[N, 10]``."""
        x = self.pool1(self.act1(self.norm1(self.conv1(image))))
        x = self.block(x)
        x = self.pool2(self.act2(self.norm2(self.conv2(x))))
        return self.classify(torch.flatten(x, 1))  # type: ignore[no-any-return]

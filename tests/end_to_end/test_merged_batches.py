"""Networks that merge the batch with other axes, as PyTorch exports them.

Windows and heads behind the batch, frames and pixels in front of it, batch sizes written into
the file: in two forms, in batches of other sizes than the file was exported with.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphpass import convert, verify
from graphpass_runtime.session import Session

torch = pytest.importorskip("torch", reason="the networks are exported with torch")
nn, functional = torch.nn, torch.nn.functional


class Windows(nn.Module):
    """Shifted windows as in Swin, a ReLU MLP in each, and over the positions of each."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Conv2d(3, 16, 2, 2), nn.Linear(16, 10)
        self.mix, self.up, self.down = nn.Linear(16, 16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Any) -> Any:
        h = functional.relu(self.embed(x)).permute(0, 2, 3, 1)
        n, height, width, c = h.shape
        h = torch.roll(h, (-2, -2), (1, 2))
        h = h.view(n, height // 4, 4, width // 4, 4, c).permute(0, 1, 3, 2, 4, 5)
        h = h.reshape(-1, 16, c)
        h = functional.relu(self.mix(h.transpose(1, 2))).transpose(1, 2)
        h = self.down(functional.relu(self.up(h)))
        h = h.view(-1, height // 4, width // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5)
        h = torch.roll(h.reshape(n, height, width, c), (2, 2), (1, 2))
        return self.out(functional.relu(h).mean((1, 2)))


class Attention(nn.Module):
    """nn.MultiheadAttention between neurons, the sequence in front of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(12, 16), nn.Linear(16, 10)
        self.attention, self.last = nn.MultiheadAttention(16, 4), nn.Linear(16, 16)

    def forward(self, x: Any) -> Any:
        h = functional.relu(self.embed(x)).transpose(0, 1)
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return self.out(functional.relu(self.last(h)).mean(0))


class Frames(nn.Module):
    """Frames in front of the batch, all of them convolved together."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.line, self.out = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x: Any) -> Any:
        x = x.transpose(0, 1)
        frames, n = x.shape[:2]
        h = functional.relu(self.conv(x.flatten(0, 1))).mean((2, 3))
        h = functional.relu(self.line(h)).view(frames, n, -1)
        return self.out(functional.relu(self.line(h)).mean(0))


class Pixels(nn.Module):
    """The pixels of all samples as rows of one matrix, in front of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.line, self.out = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x: Any) -> Any:
        h = functional.relu(self.conv(x))
        n, c, height, width = h.shape
        h = functional.relu(self.line(h.permute(2, 3, 0, 1).reshape(-1, c)))
        return self.out(functional.relu(h.view(height * width, n, 8)).mean(0))


class ClassToken(nn.Module):
    """A token that is joined to every sample, and a state of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.token = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, 1, 16))
        self.up, self.down, self.out = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(20, 10)

    def forward(self, x: Any) -> Any:
        h = functional.relu(self.embed(x)).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(h.shape[0], -1, -1), h], 1)
        h = functional.relu(h + self.down(functional.relu(self.up(h))))[:, 0]
        return self.out(torch.cat([h, torch.zeros(x.shape[0], 4)], 1))


class Pyramid(nn.Module):
    """Features that are resized to those of an earlier layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.out = nn.Conv2d(8, 4, 3, 1, 1)

    def forward(self, x: Any) -> Any:
        fine = functional.relu(self.fine(x))
        coarse = functional.relu(self.coarse(fine))
        near = functional.interpolate(coarse, size=fine.shape[2:])
        smooth = functional.interpolate(coarse, size=fine.shape[2:], mode="bilinear")
        return self.out(functional.relu(near + smooth + fine))


IMAGES, SEQUENCES, FILMS = (3, 16, 16), (5, 12), (4, 3, 16, 16)
NETWORKS = [
    (Windows, IMAGES, {}),
    (Attention, SEQUENCES, {"first_activation": "spiking", "islands": "allow"}),
    (Frames, FILMS, {}),
    (Pixels, IMAGES, {}),
    (ClassToken, IMAGES, {}),
    (Pyramid, IMAGES, {}),
]


def export(network: Any, shape: tuple[int, ...], path: Path, how: str) -> None:
    """Symbolic by either exporter, or with a literal batch of so many samples."""
    rows = int(how) if how.isdigit() else 2
    options: dict[str, Any] = {"dynamo": False, "opset_version": 17}
    if how == "traced":
        options["dynamic_axes"] = {"x": {0: "N"}, "y": {0: "N"}}
    if how == "dynamo":
        options = {"dynamo": True, "external_data": False, "verbose": False}
        options["dynamic_shapes"] = ({0: torch.export.Dim("N", min=1, max=64)},)
    names = {"input_names": ["x"], "output_names": ["y"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network.eval(), (torch.randn(rows, *shape),), path, **names, **options)


@pytest.mark.parametrize("how", ["traced", "2", pytest.param("dynamo", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("kind", "shape", "options"), NETWORKS)
def test_samples_stay_apart(
    kind: Any, shape: tuple[int, ...], options: dict[str, Any], how: str, tmp_path: Path
) -> None:
    if how == "dynamo":
        pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    ann = tmp_path / "ann.onnx"
    export(kind(), shape, ann, how)
    x = np.random.default_rng(0).normal(size=(12, *shape)).astype(np.float32)
    data = [{"x": x[i : i + 2]} for i in range(0, 12, 2)]
    for form in ("matmul", "counts"):
        convert(ann, tmp_path / f"{form}.onnx", steps=32, data=data, form=form, **options)
    result = verify(tmp_path / "matmul.onnx", tmp_path / "counts.onnx", data)
    assert (result.equal, result.samples) == (True, 12)
    wanted = np.concatenate([Session(ann).run(feeds)["y"] for feeds in data])
    for form in ("matmul", "counts"):
        session = Session(tmp_path / f"{form}.onnx")
        assert session.batch is None
        whole = session.run({"x": x})["y"]
        assert np.square(whole - wanted).sum() < 0.01 * np.square(wanted).sum()
        for rows in (1, 3):
            parts = [session.run({"x": x[i : i + rows]})["y"] for i in range(0, 12, rows)]
            np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-4, atol=1e-4)

"""The shared models that the benchmarks run on, and the data that goes with each.

The shared data is not part of the repository: `--shared DIR` (or the environment
variable GRAPHPASS_SHARED) says where it lies.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SharedModel:
    """A model with its calibration data and its test data, and how the paper's rule is run.

    With momentum 0.99 the rule needs some hundred batches: `calib_batch` and `passes`
    are chosen to give about 400.
    """

    name: str
    calibration: str
    test: str
    calib_batch: int = 10
    passes: int = 1

    def paths(self, shared: Path) -> tuple[Path, Path, Path]:
        """The ANN, its calibration data and its test data."""
        model = shared / "models" / f"{self.name}.onnx"
        return model, shared / self.calibration, shared / self.test


_CIFAR10 = ("cifar10/train.npz", "cifar10/test.npz")
_CIFAR100 = ("cifar100/train.npz", "cifar100/test.npz")
_IMAGENET = ("imagenet/calib", "imagenet/test")

MODELS = (
    SharedModel("resnet20_cifar10", *_CIFAR10),
    SharedModel("resnet56_cifar10", *_CIFAR10),
    SharedModel("kd_resnet20_cifar10", *_CIFAR10),
    SharedModel("kd_resnet20_cifar100", *_CIFAR100, calib_batch=10, passes=4),
    SharedModel("wrn16_1_cifar10", *_CIFAR10),
    SharedModel("nascifarnet_clip_cifar10", *_CIFAR10),
    SharedModel("mobilenet_v2_1.0_224_imagenet", *_IMAGENET, calib_batch=4, passes=6),
    SharedModel("squeezenet1.1_imagenet", *_IMAGENET, calib_batch=4, passes=6),
)

#: Networks that still have the BatchNormalization nodes of a model above.
WITH_STATISTICS = (SharedModel("resnet20_cifar10_bn", *_CIFAR10),)


def shared_folder(given: str | None) -> Path:
    """The folder of the shared data.

    Raises:
        SystemExit: it was not given, or is not there.
    """
    found = given or os.environ.get("GRAPHPASS_SHARED")
    if not found or not Path(found).is_dir():
        raise SystemExit("give --shared DIR or set GRAPHPASS_SHARED to the shared data")
    return Path(found)

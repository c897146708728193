"""The training recipe, run for a few steps."""

import onnx
import pytest

torch = pytest.importorskip("torch", reason="the training recipe needs torch")
pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
pytest.importorskip("onnxscript", reason="the recipe uses the dynamo exporter")

from graphpass_exporters.qcfs import QCFS  # noqa: E402
from graphpass_models.digits import MODELS, held_out_accuracy, load_digits  # noqa: E402
from graphpass_models.train_digits import (  # noqa: E402
    QCFS_LEVELS,
    QCFS_THRESHOLD,
    Recipe,
    main,
    train_network,
)


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def test_same_seed_same_network(digits):
    first, second = (
        train_network(digits, Recipe(epochs=1, batch=256)).state_dict() for _ in range(2)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_thresholds_are_learned_one_for_each_activation(digits):
    network = train_network(digits, Recipe(epochs=1, batch=256), levels=QCFS_LEVELS)
    layers = [part for part in network.modules() if isinstance(part, QCFS)]
    assert len(layers) == 4
    assert not any(isinstance(part, torch.nn.ReLU) for part in network.modules())
    assert all(layer.threshold.item() not in (0.0, QCFS_THRESHOLD) for layer in layers)


def test_command_writes_the_three_files(tmp_path, digits, capsys):
    out = tmp_path / "new" / "folder"
    main(["--out", str(out), "--epochs", "5"])
    assert sorted(file.name for file in out.iterdir()) == sorted(f"{m}.onnx" for m in MODELS)
    assert capsys.readouterr().out.count("of 500 held-out digits") == 3
    for name in MODELS:
        path = out / f"{name}.onnx"
        onnx.checker.check_model(onnx.load(path), full_check=True)
        assert held_out_accuracy(path, digits) > 0.5  # five epochs of sixty; chance is 0.1

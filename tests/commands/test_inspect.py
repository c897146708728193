"""graphpass inspect: what is in a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

from graphpass_models.digits import digits_model_path

Cli = Callable[..., Result]
CNN = digits_model_path("digits_cnn")
ACTIVATION_KEYS = [
    *("name", "operator", "status", "reason"),
    *("channels", "threshold_min", "threshold_max", "work"),
]


def test_inspect(cli: Cli, snn: Path) -> None:
    shown = json.loads(cli("inspect", CNN, "--json").stdout)
    assert {"model", "stage", "steps", "opset", "inputs", "outputs", "activations"} <= set(shown)
    assert (shown["model"], shown["stage"], shown["steps"]) == ("digits_cnn.onnx", None, None)
    assert [list(a) for a in shown["activations"]] == [ACTIVATION_KEYS] * 4
    assert shown["convertible"] is True
    spiking = json.loads(cli("inspect", snn, "--json").stdout)
    assert (spiking["stage"], spiking["form"], spiking["steps"]) == ("4-spiking", "matmul", 4)
    text = cli("inspect", CNN).stdout
    assert "digits_cnn.onnx: ANN, opset 17" in text
    assert "/act2/Relu_output_0" in text

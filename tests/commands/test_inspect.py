"""graphpass inspect: what is in a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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


def test_rounded_currents_as_in_convert(cli: Cli, write_model: Callable[..., Path]) -> None:
    """A signed quantiser in front of a sum is a neuron, or none, on request."""
    text = """g (float[N,2] x) => (float[N,2] y) <float s = {0.5}, uint8 z = {0}, uint8 m = {128}> {
        a = MatMul (x, w) aq = QuantizeLinear (a, s, z) r = DequantizeLinear (aq, s, z)
        b = MatMul (r, w) bq = QuantizeLinear (b, s, m) c = DequantizeLinear (bq, s, m)
        d = Add (c, r) dq = QuantizeLinear (d, s, z) e = DequantizeLinear (dq, s, z)
        y = MatMul (e, w) }"""
    ann = write_model(text, {"w": np.eye(2, dtype=np.float32)})
    status = {}
    for choice in ("auto", "spike", "drop"):
        shown = json.loads(cli("inspect", ann, "--rounded-currents", choice, "--json").stdout)
        assert shown["convertible"], shown
        status[choice] = [a["status"] for a in shown["activations"]]
    assert status == {
        "auto": ["dropped", "converted", "converted"],
        "spike": ["converted", "converted", "converted"],
        "drop": ["dropped", "converted", "converted"],
    }


def test_onnx_runtime_writes_nothing_of_its_own(
    subprocess_cli: Callable[..., Any], write_model: Callable[..., Path]
) -> None:
    """It would warn that it cannot remove the Unsqueeze of a constant."""
    text = """g (float[N,2] x) => (float[N,2] y) <float s = {2.0}, int64[1] axis = {0}> {
        a = MatMul (x, w) r = Relu (a) u = Unsqueeze (s, axis) b = Mul (r, u) y = MatMul (b, w) }"""
    done = subprocess_cli("inspect", write_model(text, {"w": np.eye(2, dtype=np.float32)}))
    assert (done.returncode, done.stderr) == (0, "")

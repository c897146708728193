"""Ways to charge a neuron and to find its first firing step, one layer on the CPU.

    python benchmarks/charging.py > benchmarks/results/DATE-charging.md

`T x T` is the conversion matrix of the paper's eq. 8. The others use that its rows are
constant (section 4.3): one sum over time, by ReduceSum or by a MatMul with a row of
ones, and then the first firing step in closed form or by binary search, with
ceil(log2(T + 1)) comparisons. Rounds are interleaved; a cell is a median.
"""

from __future__ import annotations

import math
import time
from statistics import median

import click
import numpy as np
import onnx
import onnx.parser
import onnxruntime

_CHANNELS, _SIZE = 64, 56
_SUMS = {
    "ReduceSum": "total = ReduceSum <keepdims = 1> (trains, axis)",
    "MatMul row": "total = MatMul (ones, trains)",
}


def _closed() -> str:
    return (
        "whole = Floor (u) count = Clip (whole, zero, T) first = Sub (beyond, count)"
        " fired = GreaterOrEqual (steps, first)"
    )


def _search(steps: int) -> str:
    """Section 4.3: lo and hi close in on the first step whose threshold u reaches."""
    lines, lo, hi = [], "one", "T"
    for k in range(math.ceil(math.log2(steps + 1))):
        lines.append(
            f"s{k} = Add ({lo}, {hi}) h{k} = Mul (s{k}, half) m{k} = Floor (h{k})"
            f" n{k} = Sub (beyond, m{k}) f{k} = GreaterOrEqual (u, n{k})"
            f" d{k} = Sub (m{k}, one) i{k} = Add (m{k}, one)"
            f" hi{k} = Where (f{k}, d{k}, {hi}) lo{k} = Where (f{k}, {lo}, i{k})"
        )
        lo, hi = f"lo{k}", f"hi{k}"
    return " ".join(lines) + f" fired = GreaterOrEqual (steps, {lo})"


def _bodies(steps: int) -> dict[str, str]:
    every = "total = MatMul (matrix, trains) u = Mul (total, gain) fired = GreaterOrEqual (u, down)"
    bodies = {"T x T, compare every step": every}
    for name, total in _SUMS.items():
        bodies[f"{name}, closed form"] = f"{total} u = Mul (total, gain) {_closed()}"
    row = _SUMS["MatMul row"]
    bodies["MatMul row, binary search"] = f"{row} u = Mul (total, gain) {_search(steps)}"
    return bodies


def _session(body: str, steps: int) -> onnxruntime.InferenceSession:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[M, 64, 56, 56] x) => (float[K, L] y)'
        f"{{ trains = Reshape (x, split) {body} y = Cast <to = 1> (fired) }}"
    )
    up = np.arange(1, steps + 1, dtype=np.float32).reshape(steps, 1)
    constants = {
        "matrix": np.ones((steps, steps), np.float32),
        "ones": np.ones((1, steps), np.float32),
        "steps": up,
        "down": up[::-1].copy(),
        "split": np.array([steps, -1]),
        "axis": np.array([0]),
        **{
            key: np.array(value, np.float32)
            for key, value in (
                ("gain", 0.7),
                ("zero", 0),
                ("half", 0.5),
                ("one", 1),
                ("T", steps),
                ("beyond", steps + 1),
            )
        },
    }
    for name, array in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@click.command()
@click.option("--steps", default=32, show_default=True, help="T.")
@click.option("--repeat", default=15, show_default=True, help="Rounds.")
def main(steps: int, repeat: int) -> None:
    """Print the table; all ways must fire the same spikes."""
    sessions = {name: _session(body, steps) for name, body in _bodies(steps).items()}
    print(f"onnxruntime {onnxruntime.__version__}, 2 threads, T = {steps}, ", end="")
    print(f"[T*N, {_CHANNELS}, {_SIZE}, {_SIZE}], ms\n")
    print("| batch | " + " | ".join(sessions) + " |\n|---" + "|---" * len(sessions) + "|")
    for batch in (1, 4):
        shape = (steps * batch, _CHANNELS, _SIZE, _SIZE)
        feeds = {"x": np.random.default_rng(0).normal(0.3, 1, shape).astype(np.float32)}
        spikes = [session.run(None, feeds)[0] for session in sessions.values()]
        # A sum that lands on a threshold may round either way.
        assert all(np.mean(train != spikes[0]) < 1e-6 for train in spikes)
        times: dict[str, list[float]] = {name: [] for name in sessions}
        for _ in range(repeat):
            for name, session in sessions.items():
                start = time.perf_counter()
                session.run(None, feeds)
                times[name].append(time.perf_counter() - start)
        print(f"| {batch} | " + " | ".join(f"{1e3 * median(t):.1f}" for t in times.values()) + " |")


if __name__ == "__main__":
    main()

"""Peak memory of converting a network whose weights do not fit into one ONNX file.

    python benchmarks/large_model.py > benchmarks/results/DATE-large.md

Random weights, 2.4 GB of them, one batch of random inputs. Every step runs in a process of its
own (Linux); its peak memory is that of the whole process, mapped files included.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import onnx
from onnx import TensorProto, helper

from graphpass import Session, convert

SIDE = 12_288  # rows and columns of a layer
LAYERS = 4  # 2.4 GB
BATCH = 16
STEPS = 8
STEPS_MEASURED = (
    ("ANN", "", ""),
    ("convert", "none", "matmul"),
    ("convert", "paper", "matmul"),
    ("convert", "optimal", "matmul"),
    ("SNN", "", "matmul"),
    ("convert", "optimal", "counts"),
    ("SNN", "", "counts"),
)


def write_network(path: Path, side: int, layers: int) -> int:
    """A chain of Gemm and Relu with random weights as external data; their bytes."""
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            node
            for i in range(layers)
            for node in (
                helper.make_node("Gemm", [f"x{i}", f"w{i}", f"b{i}"], [f"z{i}"], transB=1),
                helper.make_node("Relu", [f"z{i}"], [f"x{i + 1}"]),
            )
        ]
        + [helper.make_node("ReduceMean", [f"x{layers}"], ["y"], axes=[1])],
        "large",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["N", side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
    )
    with path.with_suffix(".data").open("wb") as file:
        for i in range(layers):
            bias = rng.normal(0, 0.1, side).astype(np.float32)
            graph.initializer.append(onnx.numpy_helper.from_array(bias, f"b{i}"))
            weight = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[side, side])
            weight.data_location = TensorProto.EXTERNAL
            place = {"location": path.with_suffix(".data").name, "offset": file.tell()}
            for _ in range(side):
                row = rng.standard_normal(side, np.float32) * np.float32((2 / side) ** 0.5)
                file.write(row.tobytes())
            for key, value in {**place, "length": 4 * side * side}.items():
                weight.external_data.add(key=key, value=str(value))
            graph.initializer.append(weight)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(proto.SerializeToString())
    return 4 * side * side * layers


def measure(what: str, rule: str, form: str, files: tuple[Path, Path], side: int) -> list[float]:
    """One step: its peak memory in bytes, and its seconds."""
    from graphpass_runtime.peak_memory import resident

    inputs = {"x0": np.random.default_rng(1).random((BATCH, side), np.float32)}
    start = time.perf_counter()
    if what == "convert":
        options = {"steps": STEPS, "data": [inputs], "calibrate": rule, "form": form}
        convert(*files, **options, threads=2)
    else:
        Session(files[what == "SNN"], provider="cpu", threads=2).run(inputs)
    return [resident("VmHWM") or 0, time.perf_counter() - start]


@click.command()
@click.option("--side", default=SIDE, show_default=True, help="Rows and columns of a layer.")
@click.option("--layers", default=LAYERS, show_default=True)
@click.option("--scratch", type=click.Path(), help="Folder with room for two networks.")
def main(side: int, layers: int, scratch: str | None) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        files = (Path(folder) / "ann.onnx", Path(folder) / "snn.onnx")
        size = write_network(files[0], side, layers)
        print(f"{layers} layers of {side} x {side}: {size / 1e9:.2f} GB of weights\n")
        print("| step | calibration | form | peak GB | times the weights | seconds |")
        print("|---|---|---|---|---|---|", flush=True)
        for what, rule, form in STEPS_MEASURED:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                peak, seconds = pool.apply(measure, (what, rule, form, files, side))
            print(
                f"| {what} | {rule} | {form} | {peak / 1e9:.2f} | {peak / size:.2f}"
                f" | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

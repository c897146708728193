"""What hostile model files do to the command line: seeded mutations, counted by outcome.

    python benchmarks/fuzz.py --shared ../shared/data > benchmarks/results/DATE-fuzz.md

Input number I of seed S is always the same file and command: `--first I --count 1` repeats it.
Commands run in a process of their own with a time limit, so that a hang or a crash of native
code is counted like anything else. What is found wrong is kept under `--keep`, and the exit
code is then 1.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import click
import fuzz_target
import numpy as np
import onnx
from fuzz_target import Finding
from mutations import mutate

_LARGE = 1 << 12  # elements of a sample
_SHARED = """mnist_cntk winml_image_classifier acasxu_1_1 cartpole keras_mlp cct_16 rten_mnist
    esp_stream qonnx_espcn_float qonnx_espcn_quant""".split()


@click.command()
@click.option("--count", default=20_000, show_default=True, help="Mutated inputs.")
@click.option("--first", default=0, show_default=True, help="Number of the first input.")
@click.option("--seed", default=1, show_default=True, help="Another seed, other inputs.")
@click.option("--jobs", default=1, show_default=True, help="Worker processes.")
@click.option("--limit", default=60.0, show_default=True, help="Seconds per input: then it hangs.")
@click.option("--shared", type=click.Path(), help="Folder of the shared data, for its models.")
@click.option("--keep", default="build/fuzz", show_default=True, help="Where findings go.")
def main(
    count: int, first: int, seed: int, jobs: int, limit: float, shared: str | None, keep: str
) -> None:
    """Print a table of outcomes."""
    outcomes: Counter[str] = Counter()
    findings: list[tuple[int, Finding]] = []
    with tempfile.TemporaryDirectory() as scratch:
        bases = _bases(Path(scratch), Path(shared) if shared else None)
        workers = [_Worker(Path(scratch) / f"worker{i}", bases, seed) for i in range(jobs)]
        numbers = iter(range(first, first + count))
        try:
            running = True
            while running:
                running = sum(worker.step(numbers, limit) for worker in workers) > 0
                for worker in workers:
                    for number, found in worker.collect():
                        outcomes[found.outcome] += 1
                        if outcomes.total() % 1000 == 0:
                            print(f"{outcomes.total():,} inputs", file=sys.stderr, flush=True)
                        if found.wrong:
                            findings.append((number, found))
                            _keep(Path(keep), number, found, worker.folder)
        except KeyboardInterrupt:
            print("interrupted: the table is of what was done", file=sys.stderr)
        finally:
            for worker in workers:
                worker.stop()
    _report(outcomes, seed, limit, findings)
    raise SystemExit(bool(findings))


class _Worker:
    """A process that runs inputs one by one, and is replaced when it hangs or dies."""

    def __init__(self, folder: Path, bases: list[Path], seed: int) -> None:
        self.folder = folder
        self._bases, self._seed = bases, seed
        self._running: tuple[int, float] | None = None
        self._done: list[tuple[int, Finding]] = []
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            [
                "fuzz_target",
                "graphpass.diagnosis.pair",
                "graphpass.step_allocation",
                "graphpass.step_search",
                "mutations",
                "graphpass.pipeline",
                "graphpass.inspection",
                "graphpass.reports.tables",
            ]
        )
        self._pipe: Connection
        self._pipe, other = context.Pipe()
        arguments = (other, self.folder, self._bases, self._seed)
        self._process: BaseProcess = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        other.close()

    def step(self, numbers: Any, limit: float) -> bool:
        """Hand out the next input, or look after the one that runs; False at the end."""
        if self._running is None:
            number = next(numbers, None)
            if number is None:
                return False
            self._pipe.send(number)
            self._running = (number, time.monotonic() + limit)
        number, deadline = self._running
        try:
            if self._pipe.poll(0.02):
                self._done.append((number, self._pipe.recv()))
                self._running = None
            elif time.monotonic() > deadline:
                self._replace(number, Finding("hang", f"more than {limit:.0f} s", wrong=True))
        except (EOFError, ConnectionError):
            self._process.join()
            detail = f"exit code {self._process.exitcode}"
            self._replace(number, Finding("crash", detail, wrong=True))
        return True

    def _replace(self, number: int, finding: Finding) -> None:
        self.stop()
        self._done.append((number, finding))
        self._running = None
        self._start()

    def collect(self) -> list[tuple[int, Finding]]:
        """What is done since the last call."""
        done, self._done = self._done, []
        return done

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection, folder: Path, bases: list[Path], seed: int) -> None:
    fuzz_target.guard(folder)
    while True:
        number = pipe.recv()
        rng = np.random.default_rng([seed, number])
        base = bases[int(rng.integers(len(bases)))]
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "in").mkdir(parents=True)
        (folder / "in" / "link.bin").symlink_to("/etc/passwd")
        mutant = folder / "in" / "model.onnx"
        mutant.write_bytes(mutate(base.read_bytes(), rng))
        pipe.send(fuzz_target.run(base, mutant, rng))


def _bases(folder: Path, shared: Path | None) -> list[Path]:
    """The models to mutate, each beside an .npz of data for it and the ANN that it came from."""
    from graphpass import convert
    from graphpass_models.digits import digits_model_path

    names = ("digits_cnn", "digits_qcfs_l8", "digits_qcfs_l8_dynamo")
    anns = [digits_model_path(name) for name in names]
    if shared is not None:
        anns += [shared / "onnx_corpus" / f"{name}.onnx" for name in _SHARED]
    bases = []
    for ann in anns:
        bases.append(Path(shutil.copy(ann, folder)))
        np.savez(bases[-1].with_suffix(".npz"), **_data(bases[-1]))
    digits, data = bases[0], bases[0].with_suffix(".npz")
    for form in ("matmul", "sorted", "counts", "int8"):
        snn = folder / f"snn_{form}.onnx"
        convert(digits, snn, steps=4, data=data, form=form, stages=folder / "stages")
        bases.append(snn)
    for serial in ("scan", "step"):
        snn = folder / f"snn_{serial}.onnx"
        convert(digits, snn, steps=4, data=data, method="qcfs", serial=serial)
        bases.append(snn)
    bases += sorted((folder / "stages").glob("[0-3]*.onnx"))
    for path in bases:
        if not path.with_suffix(".npz").exists():
            shutil.copy(data, path.with_suffix(".npz"))
            shutil.copy(digits, path.with_suffix(".ann"))
    return bases


def _data(model: Path) -> dict[str, Any]:
    """Some samples of noise for every input."""
    graph, rng = onnx.load(model).graph, np.random.default_rng(0)
    weights = {tensor.name for tensor in graph.initializer}
    arrays = {}
    for value in graph.input:
        if value.name not in weights:
            sizes = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
            count = 4 if np.prod(sizes[1:]) < _LARGE else 2
            arrays[value.name] = rng.random((count, *sizes[1:]), np.float32)
    return arrays


def _keep(folder: Path, number: int, finding: Finding, worker: Path) -> None:
    """The input, and how it went."""
    folder.mkdir(parents=True, exist_ok=True)
    mutant = worker / "in" / "model.onnx"
    if mutant.exists():
        shutil.copy(mutant, folder / f"{number}.onnx")
    noted = worker / "command.json"
    command = json.loads(noted.read_text(encoding="utf-8")) if noted.exists() else None
    text = json.dumps({"outcome": finding.outcome, "command": command}, indent=1)
    (folder / f"{number}.txt").write_text(f"{text}\n{finding.detail}\n", encoding="utf-8")


def _report(
    outcomes: Counter[str], seed: int, limit: float, findings: list[tuple[int, Finding]]
) -> None:
    print(f"{outcomes.total():,} mutated inputs, seed {seed}, at most {limit:.0f} s each.\n")
    print("| outcome | inputs |\n|---|---|")
    for always in ("traceback", "hang", "crash"):
        outcomes.setdefault(always, 0)
    for outcome, number in sorted(outcomes.items()):
        print(f"| {outcome} | {number:,} |")
    for number, finding in findings:
        last = finding.detail.strip().splitlines()[-1][:150] if finding.detail else ""
        print(f"input {number}: {finding.outcome}: {last}", file=sys.stderr)


if __name__ == "__main__":
    main()

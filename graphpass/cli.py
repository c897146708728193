"""The command line: parses, calls the public API, prints."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from graphpass_runtime.errors import GraphpassError, OptionError
from graphpass_runtime.preprocess import Preprocess

_WIDE = 160  # columns of a table that is not printed to a terminal


def _console(*, error: bool = False) -> Console:
    stream = sys.stderr if error else sys.stdout
    return Console(stderr=error, width=None if stream.isatty() else _WIDE)


class _Group(click.Group):
    """Commands whose foreseen errors are one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GraphpassError as error:
            _show_plan(error)
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("interrupted: nothing was written", err=True)
            ctx.exit(130)


def _show_plan(error: GraphpassError) -> None:
    """The whole verdict table of a refused conversion."""
    plan = getattr(error, "plan", None)
    if plan is not None:
        from graphpass.reports.tables import activation_table

        _console(error=True).print(activation_table(plan.activations))


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="graphpass")
def main() -> None:
    """Turn a pretrained ANN into a spiking network: ONNX in, ONNX out.

    Start with `graphpass demo`, or with `graphpass inspect MODEL.onnx`.
    """


_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else.")
_SAMPLES = click.option("--samples", type=int, help="Use N samples, spread evenly over the data.")
_THREADS = click.option("--threads", type=int, help="Threads; by default one per core.")
_PROVIDER = click.option(
    "--provider",
    type=click.Choice(["auto", "cpu", "cuda", "tensorrt"]),
    default="auto",
    show_default=True,
    help="What ONNX Runtime runs on.",
)


def _data(help_text: str, *, required: bool) -> Callable[[Any], Any]:
    return click.option("--data", type=click.Path(), required=required, help=help_text)


def _preprocessing(command: Any) -> Any:
    for option in (
        click.option("--std", help="Divide channels by A,B,C after --mean (0..1 scale)."),
        click.option("--mean", help="Subtract A,B,C from the channels (0..1 scale)."),
        click.option(
            "--preprocess",
            "preprocess_file",
            type=click.Path(),
            help="JSON file in the keys of preprocessor_config.json.",
        ),
    ):
        command = option(command)
    return command


_EVALUATION_DATA = (
    "An .npz file (one array per model input, or `images` and `labels`), or a folder of"
    " class folders of images."
)


@main.command()
@click.argument("ann", type=click.Path())
@click.option("-o", "--output", type=click.Path(), required=True, help="Where the SNN goes.")
@click.option("--steps", type=int, help="Number of time-steps T. Stage files may have one.")
@_data("Calibration data: an .npz file or a folder of class folders of images.", required=False)
@_SAMPLES
@click.option("--calib-batch", type=int, default=10, show_default=True, help="Samples per batch.")
@click.option("--passes", type=int, default=1, show_default=True, help="Passes over the data.")
@_preprocessing
@click.option(
    "--method",
    type=click.Choice(["parallel", "qcfs"]),
    default="parallel",
    show_default=True,
    help="Parallel neurons, or classical ones that run step by step.",
)
@click.option(
    "--form",
    type=click.Choice(["matmul", "sorted", "counts", "counts-cpu", "int8"]),
    help="Of parallel: explicit spike trains as in the paper (matmul, the default; sorted),"
    " or one spike count per neuron.",
)
@click.option(
    "--serial",
    type=click.Choice(["scan", "step"]),
    help="Of qcfs: all steps in one Scan (the default), or a file of one step.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="fp16, for GPUs, is a close network, not the same; --form counts only.",
)
@click.option(
    "--calibrate",
    type=click.Choice(["paper", "none"]),
    default="paper",
    show_default=True,
    help="Running means as in the paper, or maximum thresholds alone.",
)
@click.option(
    "--first-activation",
    type=click.Choice(["analog", "spiking"]),
    default="analog",
    show_default=True,
    help="What becomes of an activation that no other one precedes.",
)
@click.option("--keep", multiple=True, metavar="NAME", help="Keep this activation analog.")
@click.option("--stages", type=click.Path(), help="Folder for the stage files 0 to 4.")
@_PROVIDER
@_THREADS
@_JSON
def convert(
    ann: str,
    output: str,
    preprocess_file: str | None,
    mean: str | None,
    std: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Convert ANN.onnx, or carry on from a stage file, and write the SNN.

    Example: graphpass convert resnet.onnx -o snn.onnx --steps 16 --data images.npz
    """
    from graphpass.pipeline import convert as run
    from graphpass.reports.tables import activation_table

    options["preprocess"] = _read_preprocess(preprocess_file, mean, std)
    with _progress() as progress:
        result = run(ann, output, progress=progress, **options)
    if as_json:
        return _print_json(result.to_json())
    console = _console()
    console.print(activation_table(result.activations))
    done = sum(a.status == "converted" for a in result.activations)
    console.print(
        f"{output}: T = {result.record.steps}, form {result.record.form},"
        f" {done} of {len(result.activations)} activations converted",
        highlight=False,
        markup=False,
    )
    if note := result.advice():
        console.print(note, highlight=False, markup=False)
    return None


@main.command()
@click.argument("model", type=click.Path())
@_data(_EVALUATION_DATA, required=True)
@_SAMPLES
@click.option("--batch", type=int, default=100, show_default=True, help="Samples per run.")
@click.option("--reference", type=click.Path(), help="Compare outputs with this model's.")
@click.option("--placement", is_flag=True, help="Show which provider runs which operators.")
@_preprocessing
@_PROVIDER
@_THREADS
@_JSON
def evaluate(
    model: str,
    data: str,
    samples: int | None,
    batch: int,
    reference: str | None,
    as_json: bool,
    *,
    placement: bool,
    preprocess_file: str | None,
    mean: str | None,
    std: str | None,
    provider: str,
    threads: int | None,
) -> None:
    """Measure the accuracy of an ANN, a stage file or an SNN."""
    from graphpass.reports.tables import evaluation_table, placement_table
    from graphpass_runtime.evaluation import evaluate as run
    from graphpass_runtime.model_data import open_model_data
    from graphpass_runtime.session import Session

    preprocess = _read_preprocess(preprocess_file, mean, std)
    session = Session(model, provider=provider, threads=threads)
    other = Session(reference, provider=provider, threads=threads) if reference else None
    files = [(model, session.record)]
    if other is not None and reference is not None:
        files.append((reference, other.record))
    source = open_model_data(data, session.inputs, files, preprocess, samples)
    with _progress() as progress:
        advance = progress("evaluating", source.samples)
        result = run(session, source, batch=batch, reference=other, progress=advance)
    placed = session.placement(next(iter(source.batches(1))).feeds) if placement else None
    if as_json:
        where = {} if placed is None else {"placement": placed.to_json()}
        return _print_json({"model": os.fspath(model), **result.to_json(), **where})
    _console().print(evaluation_table(Path(model).name, result))
    if placed is not None:
        _console().print(placement_table(placed))
    return None


@main.command()
@click.argument("model", type=click.Path())
@click.option("--keep", multiple=True, metavar="NAME", help="As for convert.")
@click.option(
    "--first-activation",
    type=click.Choice(["analog", "spiking"]),
    default="analog",
    show_default=True,
    help="As for convert.",
)
@_JSON
def inspect(model: str, keep: tuple[str, ...], first_activation: str, as_json: bool) -> None:
    """Show what is in MODEL, and what a conversion would make of it."""
    from graphpass.inspection import inspect as run
    from graphpass.reports.tables import activation_table, plain_table, printable, tensor_table

    result = run(model, keep=keep, first_activation=first_activation)
    if as_json:
        return _print_json(result.to_json())
    console = _console()
    ends = [("input", *item) for item in result.inputs.items()]
    ends += [("output", *item) for item in result.outputs.items()]
    console.print(plain_table(["", "name", "type"], ends))
    console.print(tensor_table(result))
    console.print(activation_table(result.activations))
    what = f"{result.stage} of a conversion" if result.stage else "ANN"
    console.print(f"{result.model}: {what}, opset {result.opset}", highlight=False, markup=False)
    for line in result.refused:
        refused = f"refused: {printable(line)}"
        console.print(refused, style="red", highlight=False, markup=False)
    return None


@main.command()
@click.argument("reference", type=click.Path())
@click.argument("snn", type=click.Path())
@_data("Samples to compare on; as for evaluate, labels unused.", required=True)
@_SAMPLES
@click.option("--strict", is_flag=True, help="Judge every layer on the reference's counts.")
@_preprocessing
@_PROVIDER
@_THREADS
@_JSON
def verify(
    reference: str,
    snn: str,
    preprocess_file: str | None,
    mean: str | None,
    std: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare the spike counts of SNN with those of REFERENCE, layer by layer.

    REFERENCE is the ANN, a stage file from 2-daqcfs on, or another form of the SNN. Exit
    code 1 when a count differs first in its sample without being a near tie.
    """
    from graphpass.reports.tables import verification_table
    from graphpass.verification import verify as run

    options["preprocess"] = _read_preprocess(preprocess_file, mean, std)
    with _progress() as progress:
        result = run(reference, snn, progress=progress, **options)
    if as_json:
        _print_json(result.to_json())
    else:
        _console().print(verification_table(result))
    sys.exit(0 if result.equal else 1)


@main.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(), metavar="MODEL...")
@click.option("--batch", type=int, multiple=True, default=(1,), help="Batch size; repeatable.")
@click.option("--repeat", type=int, default=20, show_default=True, help="Rounds.")
@_data("Where inputs come from, as for evaluate; random by default.", required=False)
@_PROVIDER
@_THREADS
@_JSON
def bench(models: tuple[str, ...], batch: tuple[int, ...], as_json: bool, **options: Any) -> None:
    """Time models that take the same inputs, against the first of them.

    Spread: the distance between the quartiles. Memory: what a model takes at its highest.
    """
    from graphpass.reports.tables import benchmark_table
    from graphpass_runtime.benchmark import bench as run

    with _progress() as progress:
        result = run(models, batches=batch, progress=progress, **options)
    if as_json:
        return _print_json(result.to_json())
    _console().print(benchmark_table(result))
    return None


@main.command()
@click.option(
    "--stages",
    type=click.Path(),
    default="demo-stages",
    show_default=True,
    help="Folder for the stage files.",
)
@_JSON
def demo(stages: str, as_json: bool) -> None:
    """Convert a small pretrained CNN on handwritten digits at T = 2, 4, 8 and 16."""
    from graphpass.reports.tables import plain_table
    from graphpass_models.demo import run

    with _progress() as progress:
        rows = run(stages, progress)
    if as_json:
        return _print_json([row.to_json() for row in rows])
    cells = [(row.model, row.form, f"{100 * row.accuracy:.2f} %", row.agreed) for row in rows]
    console = _console()
    console.print(plain_table(["network", "form", "accuracy", "agrees with the ANN"], cells))
    console.print(
        f"{rows[0].samples} held-out digits. Every stage of the last conversion lies in"
        f" {stages}/: open the files in Netron.",
        highlight=False,
        markup=False,
    )
    return None


def _read_preprocess(path: str | None, mean: str | None, std: str | None) -> Preprocess | None:
    if path is not None:
        if mean is not None or std is not None:
            raise OptionError("--preprocess and --mean/--std exclude each other", remedy="drop one")
        return Preprocess.from_file(path)
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise OptionError("--mean and --std belong together", remedy="give both")
    return Preprocess.from_mean_std(_numbers("--mean", mean), _numbers("--std", std))


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise OptionError(
            f"{option} '{text}' is no list of numbers", remedy="write A,B,C"
        ) from error


@contextmanager
def _progress() -> Iterator[Callable[[str, int | None], Callable[[int], None]]]:
    """Progress bars on the terminal, none when it is not one."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:

        def start(title: str, samples: int | None) -> Callable[[int], None]:
            task = bars.add_task(title, total=samples)
            return lambda done: bars.advance(task, done)

        yield start


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, allow_nan=False))

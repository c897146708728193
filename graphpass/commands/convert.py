"""The command `graphpass convert`."""

from __future__ import annotations

from typing import Any

import click

from graphpass.commands import options, output
from graphpass_runtime.errors import OptionError


@click.command()
@click.argument("ann", type=click.Path())
@click.option(
    "-o", "--output", "target", type=click.Path(), required=True, help="Where the SNN goes."
)
@click.option(
    "--steps",
    callback=options.read_steps,
    metavar="T|auto",
    help="Number of time-steps T. Stage files may have one. auto: as many for each layer as it"
    " needs, see --budget.",
)
@click.option(
    "--budget",
    type=float,
    metavar="MEAN",
    help="With --steps auto: the mean number of time-steps, weighted by synaptic operations.",
)
@click.option(
    "--max-drop",
    type=float,
    metavar="POINTS",
    help="Instead of --steps: the smallest T that loses at most so many points of accuracy, or of"
    " agreement with the ANN where there are no labels.",
)
@click.option(
    "--eval-data",
    type=click.Path(),
    help="With --max-drop: what to measure the loss on; else every fourth sample of --data.",
)
@options.data(
    "Calibration data: an .npz file or a folder of class folders of images.", required=False
)
@options.SAMPLES
@click.option("--calib-batch", type=int, help="Samples per batch: 10 with paper, else up to 32.")
@click.option("--passes", type=int, default=1, show_default=True, help="Passes, with paper.")
@click.option("--epochs", type=int, default=8, show_default=True, help="At most, with finetune.")
@click.option("--seed", type=int, default=0, show_default=True, help="With finetune.")
@options.preprocessing
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
    type=click.Choice(["optimal", "paper", "finetune", "none"]),
    default="optimal",
    show_default=True,
    help="Closed form with matched currents, running means as in the paper, distillation"
    " of the ANN into the SNN (minutes; needs PyTorch), or maximum thresholds alone.",
)
@click.option(
    "--threshold",
    type=click.Choice(["blend", "mse", "max", "percentile", "gaussian"]),
    help="Rule of thresholds, with --calibrate optimal: chosen by trial between mse and max"
    " (blend, the default); least squared error; largest current; 99.9 % of the positive"
    " currents; or least squared error for a normal current, which needs no --data where"
    " the model has BatchNormalization nodes.",
)
@click.option(
    "--population",
    type=int,
    metavar="N",
    help="Neurons for each value, where more of them help most for what they cost: over"
    " residual connections, and in layers whose rounding reaches the output. 3 by default, 1"
    " with paper and none.",
)
@options.FIRST_ACTIVATION
@options.KEEP
@options.ROUNDED_CURRENTS
@options.ISLANDS
@click.option("--stages", type=click.Path(), help="Folder for the stage files 0 to 4.")
@click.option(
    "--diagnose/--no-diagnose",
    default=True,
    help="Whether to find out, on a few samples, which layer lost what.",
)
@options.PROVIDER
@options.THREADS
@options.JSON
def convert(
    ann: str,
    target: str,
    budget: float | None,
    max_drop: float | None,
    eval_data: str | None,
    preprocess_file: str | None,
    mean: str | None,
    std: str | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Convert ANN.onnx, or carry on from a stage file, and write the SNN.

    Example: graphpass convert resnet.onnx -o snn.onnx --steps 16 --data images.npz
    """
    from graphpass.pipeline import convert as run
    from graphpass.reports.steps import allocation_table, search_table
    from graphpass.reports.tables import activation_table, diagnosis_line
    from graphpass.step_allocation import convert_allocated
    from graphpass.step_search import convert_within

    chosen["preprocess"] = options.read_preprocess(preprocess_file, mean, std)
    _check_steps(chosen["steps"], budget, max_drop, eval_data)
    search = allocation = None
    with output.progress() as progress:
        chosen["progress"] = progress
        if max_drop is not None:
            result, search = convert_within(ann, target, max_drop, eval_data=eval_data, **chosen)
        elif budget is not None:
            chosen["steps"] = None
            result, allocation = convert_allocated(ann, target, budget, **chosen)
        else:
            result = run(ann, target, **chosen)
    if as_json:
        found = {"search": search, "allocation": allocation}
        shown = {key: value.to_json() for key, value in found.items() if value is not None}
        return output.print_json(result.to_json() | shown)
    if search is not None:
        output.show(search_table(search))
    if allocation is not None:
        output.show(allocation_table(allocation))
    output.show(activation_table(result.activations, result.diagnosis))
    done = sum(a.status == "converted" for a in result.activations)
    output.say(
        f"{target}: T = {result.record.steps}, form {result.record.form},"
        f" {done} of {len(result.activations)} activations converted"
    )
    if result.diagnosis is not None:
        output.say(diagnosis_line(result.diagnosis))
    if note := result.advice():
        output.say(note)
    return None


def _check_steps(
    steps: int | str | None,
    budget: float | None,
    max_drop: float | None,
    eval_data: str | None,
) -> None:
    """Three ways to choose T exclude each other."""
    if eval_data is not None and max_drop is None:
        raise OptionError("--eval-data is for --max-drop", remedy="add --max-drop, or drop it")
    if max_drop is not None and steps is not None:
        raise OptionError("--max-drop finds the number of time-steps", remedy="drop --steps")
    if (steps == "auto") != (budget is not None):
        raise OptionError(
            "--steps auto and --budget belong together", remedy="give both, or --steps T"
        )

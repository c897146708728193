"""The command `graphpass convert`."""

from __future__ import annotations

from typing import Any

import click

from graphpass.commands import options, output


@click.command()
@click.argument("ann", type=click.Path())
@click.option(
    "-o", "--output", "target", type=click.Path(), required=True, help="Where the SNN goes."
)
@click.option("--steps", type=int, help="Number of time-steps T. Stage files may have one.")
@options.data(
    "Calibration data: an .npz file or a folder of class folders of images.", required=False
)
@options.SAMPLES
@click.option("--calib-batch", type=int, help="Samples per batch: 10 with paper, else up to 32.")
@click.option("--passes", type=int, default=1, show_default=True, help="Passes, with paper.")
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
    type=click.Choice(["optimal", "paper", "none"]),
    default="optimal",
    show_default=True,
    help="Closed form with matched currents, running means as in the paper, or maximum"
    " thresholds alone.",
)
@options.FIRST_ACTIVATION
@options.KEEP
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
    from graphpass.reports.tables import activation_table, diagnosis_line

    chosen["preprocess"] = options.read_preprocess(preprocess_file, mean, std)
    with output.progress() as progress:
        result = run(ann, target, progress=progress, **chosen)
    if as_json:
        return output.print_json(result.to_json())
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

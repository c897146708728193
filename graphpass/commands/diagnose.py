"""The command `graphpass diagnose`."""

from __future__ import annotations

from typing import Any

import click

from graphpass.commands import options, output


@click.command()
@click.argument("ann", type=click.Path())
@click.argument("snn", type=click.Path())
@options.data("Samples to compare on; as for evaluate, labels unused.", required=True)
@click.option(
    "--samples",
    type=int,
    default=32,
    show_default=True,
    help="Use N samples, spread evenly over the data.",
)
@options.preprocessing
@options.PROVIDER
@options.THREADS
@options.JSON
def diagnose(
    ann: str,
    snn: str,
    preprocess_file: str | None,
    mean: str | None,
    std: str | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Say which layer of SNN lost what of ANN's output, the worst first.

    One half-converted network is run for each layer of neurons.
    """
    from graphpass.diagnosis.pair import diagnose as run
    from graphpass.reports.tables import diagnosis_line, diagnosis_table

    chosen["preprocess"] = options.read_preprocess(preprocess_file, mean, std)
    with output.progress() as progress:
        result = run(ann, snn, progress=progress, **chosen)
    if as_json:
        return output.print_json(result.to_json())
    output.show(diagnosis_table(result))
    output.say(diagnosis_line(result))
    return None

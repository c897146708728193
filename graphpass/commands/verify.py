"""The command `graphpass verify`."""

from __future__ import annotations

import sys
from typing import Any

import click

from graphpass.commands import options, output


@click.command()
@click.argument("reference", type=click.Path())
@click.argument("snn", type=click.Path())
@options.data("Samples to compare on; as for evaluate, labels unused.", required=True)
@options.SAMPLES
@click.option("--strict", is_flag=True, help="Judge every layer on the reference's counts.")
@options.preprocessing
@options.PROVIDER
@options.THREADS
@options.JSON
def verify(
    reference: str,
    snn: str,
    preprocess_file: str | None,
    mean: str | None,
    std: str | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Compare the spike counts of SNN with those of REFERENCE, layer by layer.

    REFERENCE is the ANN, a stage file from 2-daqcfs on, or another form of the SNN. Exit
    code 1 when a count differs first in its sample and is neither a near tie nor one that
    rounding explains.

    An SNN of form int8 is a close network, not the same one. Exit code 1 when ONNX Runtime
    rounds to other levels than the file's integers say, near ties aside, or when the
    integers are not those that an ANN or a stage file rounds to (another form does not say).
    How far it is from REFERENCE, layer by layer, is shown and not judged.
    """
    from graphpass.quantised_verification import QuantisedVerification
    from graphpass.reports.tables import agreement_table, verification_table
    from graphpass.verification import verify as run

    chosen["preprocess"] = options.read_preprocess(preprocess_file, mean, std)
    with output.progress() as progress:
        result = run(reference, snn, progress=progress, **chosen)
    if as_json:
        output.print_json(result.to_json())
    else:
        output.show(verification_table(result))
        if isinstance(result, QuantisedVerification):
            output.show(agreement_table(result))
    sys.exit(0 if result.equal else 1)

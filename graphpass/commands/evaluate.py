"""The command `graphpass evaluate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from graphpass.commands import options, output


@click.command()
@click.argument("model", type=click.Path())
@options.data(options.EVALUATION_DATA, required=True)
@options.SAMPLES
@click.option("--batch", type=int, default=100, show_default=True, help="Samples per run.")
@click.option("--reference", type=click.Path(), help="Compare outputs with this model's.")
@click.option("--placement", is_flag=True, help="Show which provider runs which operators.")
@options.preprocessing
@options.PROVIDER
@options.THREADS
@options.JSON
def evaluate(
    model: str,
    data: str,
    samples: int | None,
    reference: str | None,
    as_json: bool,
    *,
    placement: bool,
    batch: int,
    **chosen: Any,
) -> None:
    """Measure the accuracy of an ANN, a stage file or an SNN."""
    from graphpass.model import check_before_running
    from graphpass.reports.tables import evaluation_table, placement_table
    from graphpass_runtime.evaluation import evaluate as run
    from graphpass_runtime.model_data import open_model_data
    from graphpass_runtime.session import Session

    described = (chosen.pop(key) for key in ("preprocess_file", "mean", "std"))
    preprocess = options.read_preprocess(*described)
    for path in filter(None, (model, reference)):
        check_before_running(path)
    session = Session(model, **chosen)
    other = Session(reference, **chosen) if reference else None
    files = [(model, session.record)]
    if other is not None and reference is not None:
        files.append((reference, other.record))
    source = open_model_data(data, session.inputs, files, preprocess, samples)
    with output.progress() as progress:
        advance = progress("evaluating", source.samples)
        result = run(session, source, batch=batch, reference=other, progress=advance)
    placed = session.placement(next(iter(source.batches(1))).feeds) if placement else None
    if as_json:
        where = {} if placed is None else {"placement": placed.to_json()}
        return output.print_json({"model": os.fspath(model), **result.to_json(), **where})
    output.show(evaluation_table(Path(model).name, result))
    if placed is not None:
        output.show(placement_table(placed))
    return None

"""The command `graphpass bench`."""

from __future__ import annotations

from typing import Any

import click

from graphpass.commands import options, output


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(), metavar="MODEL...")
@click.option("--batch", type=int, multiple=True, default=(1,), help="Batch size; repeatable.")
@click.option("--repeat", type=int, default=20, show_default=True, help="Rounds.")
@options.data("Where inputs come from, as for evaluate; random by default.", required=False)
@options.PROVIDER
@options.THREADS
@options.JSON
def bench(models: tuple[str, ...], batch: tuple[int, ...], as_json: bool, **chosen: Any) -> None:
    """Time models that take the same inputs, against the first of them.

    Spread: the distance between the quartiles. Memory: what a model takes at its highest.
    """
    from graphpass.model import check_before_running
    from graphpass.reports.tables import benchmark_table
    from graphpass_runtime.benchmark import bench as run

    for path in models:
        check_before_running(path)
    with output.progress() as progress:
        result = run(models, batches=batch, progress=progress, **chosen)
    if as_json:
        return output.print_json(result.to_json())
    output.show(benchmark_table(result))
    return None

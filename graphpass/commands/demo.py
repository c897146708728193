"""The command `graphpass demo`."""

from __future__ import annotations

import click

from graphpass.commands import options, output


@click.command()
@click.option(
    "--stages",
    type=click.Path(),
    default="demo-stages",
    show_default=True,
    help="Folder for the stage files.",
)
@options.JSON
def demo(stages: str, as_json: bool) -> None:
    """Convert a small pretrained CNN on handwritten digits at T = 2, 4, 8 and 16."""
    from graphpass.reports.tables import plain_table
    from graphpass_models.demo import run

    with output.progress() as progress:
        rows = run(stages, progress)
    if as_json:
        return output.print_json([row.to_json() for row in rows])
    cells = [(row.model, row.form, f"{100 * row.accuracy:.2f} %", row.agreed) for row in rows]
    output.show(plain_table(["network", "form", "accuracy", "agrees with the ANN"], cells))
    output.say(
        f"{rows[0].samples} held-out digits. Every stage of the last conversion lies in"
        f" {stages}/: open the files in Netron."
    )
    return None

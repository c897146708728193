"""The command `graphpass inspect`."""

from __future__ import annotations

import click

from graphpass.commands import options, output


@click.command()
@click.argument("model", type=click.Path())
@options.KEEP
@options.FIRST_ACTIVATION
@options.ROUNDED_CURRENTS
@options.ISLANDS
@options.JSON
def inspect(
    model: str,
    keep: tuple[str, ...],
    first_activation: str,
    rounded_currents: str,
    islands: str,
    as_json: bool,
) -> None:
    """Show what is in MODEL, and what a conversion would make of it."""
    from graphpass.inspection import inspect as run
    from graphpass.reports.tables import activation_table, plain_table, printable, tensor_table

    result = run(
        model,
        keep=keep,
        first_activation=first_activation,
        rounded_currents=rounded_currents,
        islands=islands,
    )
    if as_json:
        return output.print_json(result.to_json())
    ends = [("input", *item) for item in result.inputs.items()]
    ends += [("output", *item) for item in result.outputs.items()]
    output.show(plain_table(["", "name", "type"], ends))
    output.show(tensor_table(result))
    output.show(activation_table(result.activations))
    what = f"{result.stage} of a conversion" if result.stage else "ANN"
    output.say(f"{result.model}: {what}, opset {result.opset}")
    for line in result.refused:
        refused = f"refused: {printable(line)}"
        output.say(refused, style="red")
    for line in result.outlook:
        output.say(printable(line))
    return None

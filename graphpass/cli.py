"""The command line: the group of commands, and what becomes of errors."""

from __future__ import annotations

from typing import Any

import click

from graphpass.commands import bench, convert, demo, diagnose, evaluate, inspect, output, verify
from graphpass_runtime import execution
from graphpass_runtime.errors import GraphpassError


class _Group(click.Group):
    """Commands whose foreseen errors are one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GraphpassError as error:
            _show_plan(error)
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)
        except MemoryError:  # sizes come from files: a batch of billions is easily asked for
            click.echo("error: not enough memory; use smaller batches or inputs", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("interrupted: nothing was written", err=True)
            ctx.exit(130)


def _show_plan(error: GraphpassError) -> None:
    """The whole verdict table of a refused conversion."""
    plan = getattr(error, "plan", None)
    if plan is not None:
        from graphpass.reports.tables import activation_table

        output.show(activation_table(plan.activations), error=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="graphpass")
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Stop when ONNX Runtime takes longer for one batch; 0 lets it take as long as it likes.",
)
@click.pass_context
def main(context: click.Context, time_limit: float) -> None:
    """Turn a pretrained ANN into a spiking network: ONNX in, ONNX out.

    Start with `graphpass demo`, or with `graphpass inspect MODEL.onnx`.
    """
    context.with_resource(execution.time_limit(time_limit or None))


for module in (convert, evaluate, inspect, verify, diagnose, bench, demo):
    main.add_command(getattr(module, module.__name__.rpartition(".")[2]))

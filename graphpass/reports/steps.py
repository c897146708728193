"""How the number of time-steps was chosen, as tables."""

from __future__ import annotations

from rich.table import Table

from graphpass.reports.tables import plain_table
from graphpass.step_allocation import Allocation
from graphpass.step_search import StepSearch


def search_table(result: StepSearch) -> Table:
    """One row per T that was tried."""
    rows = []
    for trial in result.tried:
        verdict = "within" if trial.loss <= result.max_drop else "too much"
        chosen = ", chosen" if trial.steps == result.steps else ""
        rows.append((str(trial.steps), f"{trial.loss:.2f} points", verdict + chosen))
    return plain_table(("T", f"loss of {result.measure} on {result.samples} samples", ""), rows)


def allocation_table(result: Allocation) -> Table:
    """One row per layer: its steps, its work, and the error it adds at few and at its steps."""
    total = sum(result.work.values()) or 1
    rows = [
        (
            name,
            str(steps),
            f"{100 * result.work[name] / total:.1f} %",
            f"{result.errors[name][steps]:.2g}",
        )
        for name, steps in result.steps.items()
    ]
    mean = f"T, {result.mean:.2f} in the mean"
    return plain_table(("activation", mean, "synaptic work", "error alone"), rows)

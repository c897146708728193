"""Tables of how T was chosen."""

from __future__ import annotations

from typing import Any

from graphpass.reports.steps import allocation_table, search_table
from graphpass.step_allocation import Allocation
from graphpass.step_search import StepSearch, Trial


def columns(table: Any) -> list[list[str]]:
    return [list(column.cells) for column in table.columns]


def test_search_table() -> None:
    trials = (Trial(4, 3.5), Trial(8, 1.0), Trial(16, 0.25))
    assert columns(search_table(StepSearch(1.0, "accuracy", 50, trials, 8))) == [
        ["4", "8", "16"],
        ["3.50 points", "1.00 points", "0.25 points"],
        ["too much", "within, chosen", "within"],
    ]


def test_allocation_table() -> None:
    steps, work = {"a": 3, "b": 6}, {"a": 75, "b": 25}
    allocation = Allocation(4.0, 3.75, steps, work, {"a": {3: 0.125}, "b": {6: 0.5}})
    assert columns(allocation_table(allocation)) == [
        ["a", "b"],
        ["3", "6"],
        ["75.0 %", "25.0 %"],
        ["0.12", "0.5"],
    ]

"""Printing: tables and notes for people, JSON for programs, progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

_WIDE = 160  # columns of a table that is not printed to a terminal


def _console(*, error: bool = False) -> Console:
    stream = sys.stderr if error else sys.stdout
    return Console(stderr=error, width=None if stream.isatty() else _WIDE)


def show(*tables: Table, error: bool = False) -> None:
    """Print tables, to standard error if it is about one."""
    console = _console(error=error)
    for table in tables:
        console.print(table)


def say(line: str, style: str | None = None) -> None:
    """Print a line as it is: names in it are not markup."""
    _console().print(line, style=style, highlight=False, markup=False)


@contextmanager
def progress() -> Iterator[Callable[[str, int | None], Callable[[int], None]]]:
    """Progress bars on the terminal, none when it is not one."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:

        def start(title: str, samples: int | None) -> Callable[[int], None]:
            task = bars.add_task(title, total=samples)
            return lambda done: bars.advance(task, done)

        yield start


def print_json(value: Any) -> None:
    """Print JSON to standard output."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))

"""Errors that a user can act on.

Every error that bad input can cause is a `GraphpassError`: one line that says
what is wrong, where, and what to do. The command line prints that line and
leaves with exit code 2; anything else that escapes is a defect of ours.
"""

from __future__ import annotations


class GraphpassError(Exception):
    """What is wrong, where, and what to do, in one line.

    Args:
        problem: what is wrong, a clause without a full stop.
        where: the file, node or tensor at fault, if one can be named.
        remedy: what the user can do about it, if anything.
    """

    def __init__(self, problem: str, *, where: str | None = None, remedy: str | None = None):
        self.problem = problem
        self.where = where
        self.remedy = remedy
        super().__init__(self._one_line())

    def _one_line(self) -> str:
        text = f"{self.where}: {self.problem}" if self.where else self.problem
        if self.remedy:
            text = f"{text}; {self.remedy}"
        # Names in a model file are untrusted: a newline or a terminal escape in
        # one of them must not break the promise of one plain line.
        return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


class ModelError(GraphpassError):
    """A model file that cannot be read, or that is not what it is taken for."""


class DataError(GraphpassError):
    """Data that cannot be read, or that does not fit the model."""


class ProviderError(GraphpassError):
    """An execution provider that was asked for and is not there."""


class OptionError(GraphpassError):
    """An option, or a combination of options, that makes no sense."""


class OutputError(GraphpassError):
    """An output path that cannot be written."""

"""The choices that the command line offers are those that the compiler knows."""

from __future__ import annotations

import click
import pytest

from graphpass import options
from graphpass.commands.convert import convert
from graphpass.forms import FORMS, SERIAL_FORMS


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("form", tuple(FORMS)),
        ("serial", tuple(SERIAL_FORMS)),
        ("calibrate", options.CALIBRATIONS),
        ("threshold", options.THRESHOLDS),
        ("first_activation", options.FIRST_ACTIVATIONS),
        ("islands", options.ISLANDS),
        ("precision", options.PRECISIONS),
        ("rounded_currents", options.ROUNDED_CURRENTS),
        ("method", options.METHODS),
    ],
)
def test_choices_are_complete(name: str, known: tuple[str, ...]):
    parameter = next(p for p in convert.params if p.name == name)
    assert isinstance(parameter.type, click.Choice)
    assert sorted(parameter.type.choices) == sorted(known)


def test_defaults_are_those_of_python():
    offered = {p.name: p.default for p in convert.params}
    for name in (
        "calibrate",
        "first_activation",
        "islands",
        "precision",
        "method",
        "passes",
        "epochs",
        "seed",
        "rounded_currents",
    ):
        assert offered[name] == getattr(options.Options(), name)

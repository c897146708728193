"""Tables: what a reader sees, and what a file's names may not do to the terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from graphpass.diagnosis import Diagnosis, Layer
from graphpass.inspection import Inspection, TensorReport
from graphpass.reports import tables
from graphpass.verdicts import Activation
from graphpass.verification import Verification
from graphpass_runtime.evaluation import Evaluation

EVIL = "\x1b[31mred\x1b]0;title\x07\n[bold]name[/bold]"


def shown(table: Any, width: int = 160) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(table)
    return stream.getvalue()


def rows(table: Any) -> list[list[str]]:
    """Cells of the body, split where columns are."""
    lines = [line for line in shown(table).splitlines() if line.strip()]
    return [[cell for cell in line.split("  ") if cell.strip()] for line in lines[2:]]


ACTIVATIONS = [
    Activation("stem", "Relu", "kept", "first activation", None),
    Activation("mid", "Relu", "converted", "", 16, 0.25, 3.0),
    Activation("cap", "Clip", "converted", "", 8, 6.0, 6.0),
    Activation("gate", "Sigmoid", "refused", "is not linear"),
]


def test_activation_table() -> None:
    body = rows(tables.activation_table(ACTIVATIONS))
    cells = [[cell.strip() for cell in row] for row in body]
    assert cells == [
        ["stem", "Relu", "kept", "first activation"],
        ["mid", "Relu", "converted", "16", "0.25 .. 3"],
        ["cap", "Clip", "converted", "8", "6"],
        ["gate", "Sigmoid", "refused", "is not linear"],
    ]


@pytest.mark.parametrize("width", [160, 40])
def test_names_do_nothing_to_the_terminal(width: int) -> None:
    evil = Activation(EVIL, EVIL, "refused", EVIL)
    inspection = Inspection(
        *("m", None, None, None, 17, {}, {}, (evil,)),
        tensors=(TensorReport(EVIL, (EVIL, 3, None), "static", 0, 1),),
        refused=(),
    )
    for table in (
        tables.activation_table([evil]),
        tables.tensor_table(inspection),
        tables.plain_table([""], [[EVIL]]),
        tables.evaluation_table(EVIL, Evaluation(1, "cpu")),
    ):
        text = shown(table, width)
        assert "\x1b" not in text
        assert "\x07" not in text
        # Shown as it is written, not taken for markup; a narrow column may fold it.
        assert "[bold]name[/bold]" in "".join(text.split()) or width == 40


def test_long_names_are_folded_and_not_cut() -> None:
    name = "/".join(f"layer{i}" for i in range(40))
    text = shown(tables.activation_table([Activation(name, "Relu", "converted")]), 60)
    first_column = "".join(line.split("  ")[0].strip() for line in text.splitlines()[2:])
    assert name in first_column.replace("─", "").replace(" ", "")


def test_evaluation_table_leaves_out_what_is_not_known() -> None:
    labelled = Evaluation(200, "cpu", 0.915, 0.0197, 0.995)
    cells = {row[0].strip(): row[1].strip() for row in rows(_table(labelled))}
    assert cells == {
        "samples": "200",
        "accuracy": "91.50 % +- 1.97",
        "top-5": "99.50 %",
        "provider": "cpu",
    }
    compared = Evaluation(200, "cpu", agreement=0.98, output_relative_error=0.01234, compared=True)
    cells = {row[0].strip(): row[1].strip() for row in rows(_table(compared))}
    assert cells == {
        "samples": "200",
        "agreement with the reference": "98.00 %",
        "relative error of the output": "0.0123",
        "provider": "cpu",
    }


def _table(result: Evaluation) -> Any:
    return tables.evaluation_table("model", result)


def test_an_accuracy_of_zero_is_shown() -> None:
    text = shown(_table(Evaluation(200, "cpu", 0.0, 0.0, 0.0)))
    assert "accuracy" in text
    assert text.count("0.00 %") == 2


def test_verification_table() -> None:
    result = Verification(
        samples=1234, layers=3, counts_compared=17_000_000, origin_near_tie=6, downstream=12_000
    )
    cells = {row[0].strip(): row[1].strip() for row in rows(tables.verification_table(result))}
    assert cells["counts compared"] == "17,000,000"
    assert cells["origin near tie"] == "6"
    assert cells["equal"] == "True"
    assert len(cells) == len(result.to_json())


def test_tensor_table() -> None:
    inspection = Inspection(
        *("m", None, None, None, 17, {}, {}, ()),
        tensors=(TensorReport("t", ("N", 3, None), "spikes", 0, 1),),
        refused=(),
    )
    (row,) = rows(tables.tensor_table(inspection))
    assert [cell.strip() for cell in row] == ["t", "N, 3, ?", "spikes", "0", "1"]


LAYERS = (
    Layer("cap", 0.75, 20.0, 12.34, 12.0, 0.5, 0.25, 0.125, "rounding: more steps"),
    Layer("mid", None, None, None, None, None, None, None, ""),
)
DIAGNOSIS = Diagnosis(16, 0.5, 0.875, LAYERS, passes=5)


def test_diagnosis_table() -> None:
    cells = [[cell.strip() for cell in row] for row in rows(tables.diagnosis_table(DIAGNOSIS))]
    measures = ["75.0 %", "20.0", "12.3", "50.0 %", "25.0 %", "12.5 %"]
    assert cells == [["cap", *measures, "rounding: more steps"], ["mid"]]
    line = tables.diagnosis_line(DIAGNOSIS)
    assert line == (
        "16 samples: relative error of the output 0.5000, agreement 87.50 %, 5 networks run on each"
    )


def test_activation_table_with_a_diagnosis_is_sorted_by_damage() -> None:
    body = rows(tables.activation_table(ACTIVATIONS, DIAGNOSIS))
    assert [row[0].strip() for row in body] == ["cap", "mid", "stem", "gate"]
    assert "75.0 %" in [cell.strip() for cell in body[0]]

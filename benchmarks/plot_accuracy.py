"""A picture of what `accuracy.py` printed: one panel a model, one line a rule, over T.

    python benchmarks/plot_accuracy.py TABLE.md ... -o accuracy.svg

The same tables give the same bytes. Needs matplotlib: pip install ".[bench]"
"""

from __future__ import annotations

import math
from pathlib import Path

import click
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: By model, by rule: accuracy by T.
Curves = dict[str, dict[str, dict[int, float]]]

_COLUMNS = 3
_LEGEND = 6  # rules beside each other
_ORDER = ("optimal", "single", "finetune", "paper", "none", "low-bit", "ORT int8")
_TWINS = ("low-bit", "ORT int8")


@click.command()
@click.argument("tables", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("-o", "--output", required=True, type=click.Path(), help="The SVG file.")
def main(tables: tuple[str, ...], output: str) -> None:
    """Draw tables that accuracy.py printed."""
    curves: Curves = {}
    exact: dict[str, float] = {}
    for table in tables:
        read(Path(table), curves, exact)
    if not curves:
        raise click.ClickException(f"no table of accuracy.py in {', '.join(tables)}")
    draw(curves, exact, Path(output))


def read(table: Path, curves: Curves, exact: dict[str, float]) -> None:
    """Add the rows of a table: to `curves`, and the ANN's accuracy to `exact`."""
    times: list[int] = []
    for line in table.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[:3] == ["model", "rule", "ANN"]:
            times = [int(cell.removeprefix("T=")) for cell in cells[3:]]
        elif times and len(cells) == 3 + len(times) and not cells[0].startswith("-"):
            model, rule, own, *rest = cells
            exact[model] = float(own)
            values = map(float, rest)
            curves.setdefault(model, {})[rule] = dict(zip(times, values, strict=True))


def draw(curves: Curves, exact: dict[str, float], output: Path) -> None:
    """Write the figure."""
    # Names of things in an SVG are random without a salt, and it carries the date.
    with mpl.rc_context({"svg.hashsalt": "graphpass", "svg.fonttype": "none"}):
        rows = math.ceil(len(curves) / _COLUMNS)
        figure = Figure(figsize=(4 * _COLUMNS, 3 * rows), layout="constrained")
        axes = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
        colours = {rule: f"C{i}" for i, rule in enumerate(_rules(curves))}
        for panel, (model, rules) in zip(axes, curves.items(), strict=False):
            _panel(panel, rules, exact[model], colours)
            panel.set_title(model, fontsize=9)
        for panel in axes[len(curves) :]:
            panel.set_axis_off()
        lines = {line.get_label(): line for panel in axes for line in panel.get_lines()}
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=_LEGEND)
        figure.savefig(output, format="svg", metadata={"Date": None})


def _panel(
    panel: Axes, rules: dict[str, dict[int, float]], exact: float, colours: dict[str, str]
) -> None:
    for rule in (rule for rule in colours if rule in rules):
        times = list(rules[rule])
        panel.plot(
            *(times, list(rules[rule].values())),
            label=rule,
            color=colours[rule],
            marker=None if rule == "ORT int8" else ".",
            linestyle=":" if rule in _TWINS else "-",
        )
    panel.axhline(exact, color="black", linewidth=0.8, linestyle="--", label="ANN")
    times = sorted({time for values in rules.values() for time in values})
    panel.set_xscale("log", base=2)
    panel.set_xticks(times, [str(time) for time in times])
    panel.set_xlabel("T")
    panel.set_ylabel("accuracy, %")


def _rules(curves: Curves) -> list[str]:
    """Every rule once, the known ones first."""
    found = {rule: None for rules in curves.values() for rule in rules}
    return [*(r for r in _ORDER if r in found), *(r for r in found if r not in _ORDER)]


if __name__ == "__main__":
    main()

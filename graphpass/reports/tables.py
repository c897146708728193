"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from graphpass.diagnosis import Diagnosis, Layer
from graphpass.inspection import Inspection
from graphpass.quantised_verification import QuantisedVerification
from graphpass.verdicts import Activation
from graphpass.verification import Verification
from graphpass_runtime.benchmark import Benchmark
from graphpass_runtime.evaluation import Evaluation
from graphpass_runtime.placement import Placement

#: Share of the output's squared error, signal-to-error ratios, and firing.
_MEASURES = ("lost", "current dB", "activation dB", "rate", "saturated", "silent")
_STYLE = {
    **{"converted": "green", "kept": "yellow", "island": "yellow"},
    **{"refused": "red", "dropped": "yellow"},
}


def activation_table(
    activations: Iterable[Activation], diagnosis: Diagnosis | None = None
) -> Table:
    """One row per activation: its verdict, why, its thresholds, and what it lost.

    With a diagnosis the one that lost most comes first, and those that do not spike last.
    """
    table = _table("activation", "operator", "verdict", "channels", "threshold")
    for heading in _MEASURES if diagnosis else ():
        table.add_column(heading, overflow="fold")
    table.add_column("why", overflow="fold")
    damage = {layer.name: layer for layer in diagnosis.layers} if diagnosis else {}
    order = {name: place for place, name in enumerate(damage)}
    for item in sorted(activations, key=lambda item: order.get(item.name, len(order))):
        style, layer = _STYLE[item.status], damage.get(item.name)
        measures = [""] * len(_MEASURES) if layer is None else _measures(layer)
        table.add_row(
            _plain(item.name),
            _plain(item.operator),
            f"[{style}]{item.status}[/{style}]",
            "" if item.channels is None else str(item.channels),
            _range(item.threshold_min, item.threshold_max),
            *(measures if diagnosis else ()),
            _plain(_why(item, layer)),
        )
    return table


def diagnosis_table(result: Diagnosis) -> Table:
    """One row per layer of neurons, the one that lost most first."""
    table = _table("activation", *_MEASURES, "why")
    for layer in result.layers:
        table.add_row(_plain(layer.name), *_measures(layer), _plain(layer.advice))
    return table


def diagnosis_line(result: Diagnosis) -> str:
    """What the measures of a diagnosis are of, in one line."""
    error = "?" if result.output_error is None else f"{result.output_error:.4f}"
    parts = [f"{result.samples} samples: relative error of the output {error}"]
    if result.agreement is not None:
        parts.append(f"agreement {_percent(result.agreement)}")
    if result.passes:
        parts.append(f"{result.passes} networks run on each")
    return ", ".join(parts) + (f"; {result.note}" if result.note else "")


def evaluation_table(name: str, result: Evaluation) -> Table:
    """One column of measures."""
    table = _table("measure", _plain(name))
    rows = [
        ("samples", f"{result.samples}"),
        ("accuracy", _percent(result.accuracy, result.accuracy_stderr)),
        ("top-5", _percent(result.top5)),
        ("agreement with the reference", _percent(result.agreement)),
        (
            "relative error of the output",
            None if result.output_relative_error is None else f"{result.output_relative_error:.4f}",
        ),
        ("provider", result.provider),
    ]
    for measure, value in rows:
        if value:
            table.add_row(measure, value)
    return table


def placement_table(result: Placement) -> Table:
    """Which operators ran on which execution provider, and for how long."""
    table = _table("provider", "nodes", "host time", "operators")
    for provider, operators in result.operators().items():
        table.add_row(
            _plain(provider.removesuffix("ExecutionProvider")),
            str(sum(operators.values())),
            f"{result.microseconds()[provider] / 1000:.2f} ms",
            _plain(", ".join(f"{count} {name}" for name, count in operators.items())),
        )
    return table


def verification_table(result: Verification | QuantisedVerification) -> Table:
    """What was compared, and what differed."""
    table = _table("comparison", "")
    values = result.measures() if isinstance(result, QuantisedVerification) else result.to_json()
    for name, value in values.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        table.add_row(name.replace("_", " "), "not checked" if value is None else str(shown))
    return table


def agreement_table(result: QuantisedVerification) -> Table:
    """One row per spiking layer: how close its counts are to the reference's."""
    table = _table("layer", "counts", "differ", "by more than 1", "mean difference", "largest")
    for layer in result.agreement:
        values = layer.to_json()
        table.add_row(
            _plain(layer.name),
            f"{layer.counts:,}",
            f"{100 * values['differ']:.2f} %",
            f"{100 * values['differ_by_more_than_one']:.2f} %",
            f"{values['mean_abs_diff']:.4f}",
            f"{layer.largest}",
        )
    return table


def benchmark_table(result: Benchmark) -> Table:
    """One row per batch size and model; ratios are to the first model."""
    table = _table("model", "batch", "median", "spread", "ratio", "spread", "memory", "rounds")
    for item in result.measurements:
        table.add_row(
            _plain(item.model),
            f"{item.batch}",
            f"{item.median_ms:.3g} ms",
            f"{item.iqr_ms:.2g} ms",
            f"{item.ratio:.3f}",
            f"{item.ratio_iqr:.3f}",
            "" if item.peak_mb is None else f"{item.peak_mb:.1f} MiB",
            f"{item.rounds}",
        )
    return table


def tensor_table(result: Inspection) -> Table:
    """Time types in topological order."""
    table = _table("tensor", "shape", "in time", "batch axis", "channel axis")
    for tensor in result.tensors:
        shape = ", ".join("?" if size is None else str(size) for size in tensor.shape)
        table.add_row(
            _plain(tensor.name),
            _plain(shape),
            tensor.kind,
            "" if tensor.batch_axis is None else str(tensor.batch_axis),
            "" if tensor.channel_axis is None else str(tensor.channel_axis),
        )
    return table


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of plain text."""
    table = _table(*columns)
    for row in rows:
        table.add_row(*(_plain(cell) for cell in row))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def printable(text: str) -> str:
    """Names from a model file are untrusted: no terminal escapes."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _plain(text: str) -> str:
    """The same for a table: no markup either."""
    return escape(printable(text))


def _why(item: Activation, layer: Layer | None) -> str:
    """The reason of a verdict, with what share of the work an island does."""
    if item.work is not None:
        return f"{item.reason} ({_percent(item.work)} of MACs)"
    advice = layer.advice if layer else ""
    return "; ".join(part for part in (item.reason, advice) if part)


def _measures(layer: Layer) -> list[str]:
    """Cells for `_MEASURES`."""
    percent = (layer.share, layer.rate, layer.saturated, layer.silent)
    share, *firing = ["" if part is None else f"{100 * part:.1f} %" for part in percent]
    ratios = (layer.current_db, layer.activation_db)
    decibels = ["" if ratio is None else f"{ratio:.1f}" for ratio in ratios]
    return [share, *decibels, *firing]


def _range(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""
    return f"{low:.4g}" if low == high else f"{low:.4g} .. {high:.4g}"


def _percent(share: float | None, error: float | None = None) -> str | None:
    if share is None:
        return None
    return f"{100 * share:.2f} %" + ("" if error is None else f" +- {100 * error:.2f}")

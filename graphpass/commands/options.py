"""Options that several commands share, and what they are turned into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from graphpass_runtime.errors import OptionError
from graphpass_runtime.preprocess import Preprocess

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else.")
SAMPLES = click.option("--samples", type=int, help="Use N samples, spread evenly over the data.")
THREADS = click.option("--threads", type=int, help="Threads; by default one per core.")
PROVIDER = click.option(
    "--provider",
    type=click.Choice(["auto", "cpu", "cuda", "tensorrt"]),
    default="auto",
    show_default=True,
    help="What ONNX Runtime runs on.",
)
FIRST_ACTIVATION = click.option(
    "--first-activation",
    type=click.Choice(["analog", "spiking"]),
    default="analog",
    show_default=True,
    help="What becomes of an activation that no other one precedes.",
)
ISLANDS = click.option(
    "--islands",
    type=click.Choice(["forbid", "allow"]),
    default="forbid",
    show_default=True,
    help="Whether operators that spikes cannot pass may compute on rates between neurons.",
)
ROUNDED_CURRENTS = click.option(
    "--rounded-currents",
    type=click.Choice(["auto", "spike", "drop"]),
    default="auto",
    show_default=True,
    help="Of quantised networks: what becomes of currents that are rounded in front of a sum."
    " Not rounding them is better at small T; auto: they spike if T is enough for their levels.",
)
KEEP = click.option("--keep", multiple=True, metavar="NAME", help="Keep this activation analog.")


def data(help_text: str, *, required: bool) -> Callable[[Any], Any]:
    """The option that says where samples come from."""
    return click.option("--data", type=click.Path(), required=required, help=help_text)


def preprocessing(command: Any) -> Any:
    """The options that say how images become inputs."""
    for option in (
        click.option("--std", help="Divide channels by A,B,C after --mean (0..1 scale)."),
        click.option("--mean", help="Subtract A,B,C from the channels (0..1 scale)."),
        click.option(
            "--preprocess",
            "preprocess_file",
            type=click.Path(),
            help="JSON file in the keys of preprocessor_config.json.",
        ),
    ):
        command = option(command)
    return command


def read_steps(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> int | str | None:
    """A number of time-steps, or ``auto``."""
    if value is None or value == "auto":
        return value
    try:
        return int(value)
    except ValueError as error:
        raise click.BadParameter(f"'{value}' is neither a number nor auto") from error


EVALUATION_DATA = (
    "An .npz file (one array per model input, or `images` and `labels`), or a folder of"
    " class folders of images."
)


def read_preprocess(path: str | None, mean: str | None, std: str | None) -> Preprocess | None:
    """What the options of `preprocessing` say; None when they say nothing.

    Raises:
        OptionError, DataError: options that contradict each other, or a bad file.
    """
    if path is not None:
        if mean is not None or std is not None:
            raise OptionError("--preprocess and --mean/--std exclude each other", remedy="drop one")
        return Preprocess.from_file(path)
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise OptionError("--mean and --std belong together", remedy="give both")
    return Preprocess.from_mean_std(_numbers("--mean", mean), _numbers("--std", std))


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise OptionError(
            f"{option} '{text}' is no list of numbers", remedy="write A,B,C"
        ) from error

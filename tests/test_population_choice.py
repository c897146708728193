"""Where several neurons share each value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from graphpass import stages
from graphpass.model import Model, load
from graphpass.pipeline import plan_conversion
from graphpass.population_choice import choose_populations

CONV = "Conv <pads = [1,1,1,1]>"
#: The first layers work equally hard, `e` is read by a small classifier, and `r` skips two layers.
NET = f"""g (float[N,8,6,6] x) => (float[N,5] y) {{
    i = {CONV} (x, w)
    a = Relu (i)
    h = {CONV} (a, w)
    r = Relu (h)
    b = {CONV} (r, w)
    c = Relu (b)
    d = {CONV} (c, w)
    s = Add (d, r)
    e = Relu (s)
    f = GlobalAveragePool (e)
    g = Flatten (f)
    y = Gemm <transB = 1> (g, k)
}}"""


def qcfs(text: str) -> str:
    """The same with QCFS of eight levels."""
    for current, name in (("i", "a"), ("h", "r"), ("b", "c"), ("s", "e")):
        written = (
            f"{name}1 = Mul (eight, {current}) {name}2 = Add ({name}1, half)"
            f" {name}3 = Floor ({name}2) {name}4 = Clip ({name}3, zero, eight)"
            f" {name} = Div ({name}4, eight)"
        )
        text = text.replace(f"{name} = Relu ({current})", written)
    return text


@pytest.fixture
def stage1(write_model: Callable[..., Path]) -> Callable[..., Model]:
    rng = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {
        "w": rng.normal(0, 0.1, (8, 8, 3, 3)).astype(np.float32),
        "k": rng.normal(0, 0.3, (5, 8)).astype(np.float32),
    }

    def make(text: str = NET, **more: object) -> Model:
        extra = {name: np.array(value, np.float32) for name, value in more.items()}
        model = load(write_model(text, weights | extra))
        stages.normalise(model)
        plan = plan_conversion(model, first_activation="spiking")
        names = stages.unbounded(model, plan.rectifiers)
        maxima = {
            name: np.ones(plan.flow.shapes[name][plan.flow.types[name].channel_axis], np.float32)
            for name in names
        }
        stages.bound(model, plan, maxima)
        return model

    return make


def chosen(
    model: Model,
    most: int,
    steps: int = 4,
    sensitivities: Mapping[str, float] = MappingProxyType({}),
    **fewer: int,
) -> Mapping[str, int]:
    names = stages.converted(model)
    return choose_populations(
        *(model, names, lambda name: fewer.get(name, steps), most, lambda: sensitivities)
    )


def test_skips_and_what_sets_off_next_to_no_work(stage1: Callable[..., Model]) -> None:
    assert chosen(stage1(), 3) == {"r/skip": 3, "e": 3, "a": 2}
    assert chosen(stage1(), 2) == {"r/skip": 2, "e": 2}
    assert chosen(stage1(), 1) == {}


@pytest.mark.parametrize(
    ("size", "most", "expected"),
    [
        *((21, 3, {"e": 3}), (22, 3, {"e": 2}), (64, 3, {"e": 2}), (65, 3, {"r": 2})),
        *((22, 2, {}), (22, 4, {"e": 3})),
    ],
)
def test_a_quarter_more_work_for_each_neuron_beyond_the_first(
    stage1: Callable[..., Model], size: int, most: int, expected: Mapping[str, int]
) -> None:
    """Of 640 + 10 size operations; a neuron more costs 640 in r, and 10 size in e."""
    text = f"""g (float[N,8] x) => (float[N,{size}] y) {{
        a = Gemm (x, u) r = Relu (a) b = Gemm (r, v) e = Relu (b) y = Gemm (e, z) }}"""
    shapes = {"u": (8, 64), "v": (64, 10), "z": (10, size)}
    weights = {name: np.ones(shape) for name, shape in shapes.items()}
    assert chosen(stage1(text, **weights), most) == expected


TWO = """g (float[N,8] x) => (float[N,5] y) { a = Gemm (x, u) r = Relu (a) b = Gemm (r, v)
    e = Relu (b) c = Gemm (e, w) f = Relu (c) y = Gemm (f, z) }"""


def two(width: int) -> Mapping[str, np.ndarray]:
    """Weights of 640 + 15 width operations, 10 width for each neuron in e and 5 width in f."""
    sizes = {"u": (8, 64), "v": (64, 10), "w": (10, width), "z": (width, 5)}
    return {name: np.ones(shape) for name, shape in sizes.items()}


def test_second_neurons_go_before_third_ones(stage1: Callable[..., Model]) -> None:
    for width, expected in (
        *((14, {"e": 3, "f": 3}), (25, {"e": 2, "f": 3})),
        *((42, {"e": 2, "f": 2}), (43, {"f": 3})),
    ):
        assert chosen(stage1(TWO, **two(width)), 3) == expected


@pytest.mark.parametrize(
    ("sensitive", "expected"),
    [(1.9, {"f": 3}), (2.1, {"e": 2}), (1000.0, {"e": 2}), (0.0, {"f": 3})],
)
def test_where_rounding_matters_most_for_the_work(
    stage1: Callable[..., Model], sensitive: float, expected: Mapping[str, int]
) -> None:
    """A neuron in e costs twice what one in f does."""
    known = {"e": sensitive, "f": 1.0, "r": 0.0}
    assert chosen(stage1(TWO, **two(43)), 3, sensitivities=known) == expected


@pytest.mark.parametrize(
    ("steps", "expected"), [(43, 3), (44, 2), (64, 2), (65, None), (1024, None)]
)
def test_a_population_has_no_more_levels_than_fit(
    stage1: Callable[..., Model], steps: int, expected: int | None
) -> None:
    assert chosen(stage1(), 3, steps).get("e") == expected


def test_fewer_steps_of_a_layer_leave_room(stage1: Callable[..., Model]) -> None:
    assert chosen(stage1(), 3, 100, e=40) == {"e": 3}


@pytest.mark.parametrize("levels", [float("inf"), float("nan"), -1.0, 0.0])
def test_levels_that_make_no_sense_are_none(stage1: Callable[..., Model], levels: float) -> None:
    model = stage1(qcfs(NET), eight=8.0, half=0.5, zero=0.0)
    for node in model.graph.nodes:
        if node.op == "QCFS":
            node.inputs[2].values = np.array(levels, np.float32)
    assert chosen(model, 3) == {"r/skip": 3, "e": 3, "a": 2}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        *((8, {}), (9, {}), (4, {"r/skip": 2, "e": 2, "a": 2})),
        (3, {"r/skip": 3, "e": 3, "a": 2}),
    ],
)
def test_quantisers_get_no_more_levels_than_they_were_trained_with(
    stage1: Callable[..., Model], steps: int, expected: Mapping[str, int]
) -> None:
    model = stage1(qcfs(NET), eight=8.0, half=0.5, zero=0.0)
    assert chosen(model, 3, steps) == expected


@pytest.mark.parametrize(("most", "steps"), [(1, 4), (3, 65)])
def test_sensitivities_are_not_measured_where_nothing_is_to_be_chosen(
    stage1: Callable[..., Model], most: int, steps: int
) -> None:
    def measure() -> Mapping[str, float]:
        raise AssertionError("measured")

    model = stage1()
    names = stages.converted(model)
    assert choose_populations(model, names, lambda _name: steps, most, measure) == {}
    with pytest.raises(AssertionError, match="measured"):
        choose_populations(model, names, lambda _name: 4, 3, measure)


def test_sizes_that_are_open_cost_nobody_knows_what(stage1: Callable[..., Model]) -> None:
    model = stage1(NET.replace("float[N,8,6,6] x", "float[N,8,H,W] x"))
    assert chosen(model, 3) == {"r/skip": 3}


def test_names_that_are_taken_leave_single_neurons(stage1: Callable[..., Model]) -> None:
    for name, left in (
        *(("e/2", {"r/skip": 3, "a": 2}), ("r/skip/3", {"e": 3, "a": 2})),
        ("r/skip", {"e": 3, "a": 2}),
    ):
        model = stage1()
        model.graph.tensors()["f"].name = name
        assert chosen(model, 3) == left


def test_quantise_notes_them(stage1: Callable[..., Model]) -> None:
    model = stage1()
    stages.quantise(model, 4, population=3)
    assert model.record is not None
    assert [(n.name, n.levels, n.members) for n in model.record.neurons] == [
        *(("a", 8, 2), ("r", 4, 1), ("r/skip", 12, 3), ("c", 4, 1), ("e", 12, 3)),
    ]
    reasons = {v["name"]: v["reason"] for v in model.record.activations}
    assert reasons["r/skip"] == reasons["e"] == "3 neurons for each value"
    assert reasons["a"] == "2 neurons for each value"
    assert reasons["r"] == reasons["c"] == ""

"""Populations: K neurons count what one of K T levels does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphpass import populations
from graphpass.neurons import Neuron, Ties
from graphpass_runtime.metadata import FileRecord, Stage

CHANNELS = 3
STEPS = 4


def population(members: int, ties: Ties = Ties.HALF_UP) -> Neuron:
    rng = np.random.default_rng(members)
    threshold, shift, amplitude = rng.uniform(0.5, 2.0, (3, CHANNELS)).astype(np.float32)
    return Neuron(
        *("a/skip", threshold, shift, amplitude, members * STEPS),
        channel_axis=1,
        members=members,
        ties=ties,
    )


def potential(neuron: Neuron, current: np.ndarray) -> np.ndarray:
    gain = np.float64(neuron.levels) / neuron.threshold
    return (current + neuron.shift.astype(np.float64)) * gain + neuron.middle


def counts(neuron: Neuron, current: np.ndarray) -> np.ndarray:
    u = potential(neuron, current)
    whole = np.floor(u) if neuron.ties is Ties.HALF_UP else np.rint(u)
    return np.clip(whole, 0, neuron.levels).astype(np.int32)


@pytest.fixture
def current() -> np.ndarray:
    return np.random.default_rng(0).uniform(-4, 6, (2000, CHANNELS))


@pytest.mark.parametrize("ties", Ties)
@pytest.mark.parametrize("members", [2, 3, 4, 5, 16])
def test_neurons_apart_count_what_they_count_together(
    members: int, ties: Ties, current: np.ndarray
) -> None:
    whole = population(members, ties)
    parts = populations.apart(whole)
    assert [part.name for part in parts] == [f"a/skip/{k + 1}" for k in range(members)]
    assert {(part.levels, part.member > 0, part.together) for part in parts} == {(STEPS, True, 1)}
    found = {part.name: counts(part, current) for part in parts}
    # Shifts are float32, and at a tie that decides.
    near = np.abs((u := potential(whole, current)) - np.rint(u)) < 1e-4 * members
    near |= np.abs(u % 1 - 0.5) < 1e-4 * members
    (name, summed), *others = populations.joined_counts(parts, found).items()
    assert (name, others) == ("a/skip", [])
    np.testing.assert_array_equal(summed[~near], counts(whole, current)[~near])
    assert set(np.unique(summed)) == set(range(whole.levels + 1))
    # And of the counts together, those apart are known.
    back = populations.counts_apart(parts, {"a/skip": summed})
    for part in parts:
        np.testing.assert_array_equal(back[part.name], found[part.name])


@pytest.mark.parametrize("members", [2, 3, 4])
def test_potentials_are_those_of_all_levels(members: int, current: np.ndarray) -> None:
    whole = population(members)
    parts = populations.apart(whole)
    own = {part.name: potential(part, current).astype(np.float32) for part in parts}
    found = populations.joined_potentials(parts, own)["a/skip"]
    np.testing.assert_allclose(found, potential(whole, current), rtol=0, atol=1e-4)


@pytest.mark.parametrize("members", [2, 3, 4, 5])
def test_joined_is_what_was_taken_apart(members: int) -> None:
    whole = population(members)
    alone = replace(population(1), name="b")
    result = populations.joined([alone, *populations.apart(whole)])
    assert [neuron.name for neuron in result] == ["b", "a/skip"]
    assert result[0] is alone
    exact = np.testing.assert_array_equal if members % 2 else np.testing.assert_allclose
    exact(result[1].shift, whole.shift)
    for key in ("levels", "members", "member", "together", "firing_steps"):
        assert getattr(result[1], key) == getattr(whole, key)
    assert populations.joined([alone, whole]) == (alone, whole)


@pytest.mark.parametrize("name", ["a/0", "a/1", "a/3", "a/skip"])
def test_single_neurons_may_be_called_anything(name: str) -> None:
    neuron = replace(population(1), name=name)
    assert neuron.population == name
    assert populations.joined([neuron]) == (neuron,)
    counts = {name: np.arange(6, dtype=np.int32)}
    assert list(populations.joined_counts([neuron], counts)) == [name]
    assert list(populations.counts_apart([neuron], counts)) == [name]


def test_record_survives_a_file() -> None:
    neurons = (population(2), *populations.apart(replace(population(3), name="b")))
    record = FileRecord(Stage.SPIKING, steps=STEPS, form="matmul", neurons=neurons)
    again = FileRecord.from_props(record.to_props())
    assert again is not None
    assert [n.to_json() for n in again.neurons] == [n.to_json() for n in neurons]


def without_one(parts: list[Neuron]) -> list[Neuron]:
    return parts[1:]


def in_another_order(parts: list[Neuron]) -> list[Neuron]:
    return parts[::-1]


def with_other_levels(parts: list[Neuron]) -> list[Neuron]:
    return [*parts[:-1], replace(parts[-1], levels=STEPS - 1)]


def of_another_name(parts: list[Neuron]) -> list[Neuron]:
    return [*parts[:-1], replace(parts[-1], name="c/3")]


@pytest.mark.parametrize(
    "damage", [without_one, in_another_order, with_other_levels, of_another_name]
)
def test_populations_in_parts_are_damage(damage) -> None:
    neurons = tuple(damage(populations.apart(population(3))))
    record = FileRecord(Stage.SPIKING, steps=STEPS, form="matmul", neurons=neurons)
    with pytest.raises(Exception, match="is not whole") as caught:
        FileRecord.from_props(record.to_props())
    assert "convert the ANN again" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"levels": 7}, "different levels"),
        ({"members": 17}, "out of range"),
        ({"members": 0}, "out of range"),
        ({"member": 4}, "out of range"),
        ({"members": True}, "no whole number"),
    ],
)
def test_records_that_make_no_sense_are_damage(changes, what) -> None:
    with pytest.raises((ValueError, TypeError), match=what):
        Neuron.from_json(population(3).to_json() | changes)


def test_older_files_have_single_neurons() -> None:
    values = population(1).to_json()
    del values["members"], values["member"]
    assert Neuron.from_json(values).together == 1

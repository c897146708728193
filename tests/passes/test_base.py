"""The contract of a pass: check, change, tidy up, check, and say whether anything changed."""

import pytest

from graphpass import editing
from graphpass.passes.base import Pass, Settled, run_all

TEXT = "g (float[N,3] x) => (float[N,3] y) { a = Neg (x) b = Abs (x) y = Abs (a) }"


class Recorder(Pass):
    def __init__(self, changes=0, calls=None):
        self.changes = changes
        self.calls = [] if calls is None else calls

    def requires(self, model):
        self.calls.append("requires")

    def apply(self, model):
        self.calls.append("apply")
        return self.changes

    def ensures(self, model):
        self.calls.append("ensures")


@pytest.mark.parametrize("changes", [0, 1, 7])
def test_checks_before_and_after(bench, changes):
    step, model = Recorder(changes), bench.model(TEXT)
    result = step(model)
    assert step.calls == ["requires", "apply", "ensures"]
    assert result.model is model
    assert result.modified is bool(changes)


def test_tidies_up_only_after_a_change(bench):
    model = bench.model(TEXT)
    Recorder(0)(model)
    assert sorted(bench.ops(model)) == ["Abs", "Abs", "Neg"]
    Recorder(1)(model)
    assert bench.ops(model) == ["Neg", "Abs"]


def test_shapes_are_inferred_after_a_change(bench):
    class Insert(Pass):
        def apply(self, model):
            (node,) = [n for n in model.graph.nodes if n.op == "Neg"]
            node.op = "Transpose"
            node.attrs["perm"] = [1, 0]
            return 1

    model = bench.model("g (float[N,3] x) => (float[A,B] y) { a = Neg (x) y = Abs (a) }")
    Insert()(model)
    assert model.graph.tensors()["a"].shape == [3, "N"]


@pytest.mark.parametrize("method", ["requires", "apply", "ensures"])
def test_errors_pass_through(bench, method):
    def fail(self, model):
        raise ValueError(method)

    step = type("Failing", (Recorder,), {method: fail})()
    with pytest.raises(ValueError, match=method):
        step(bench.model(TEXT))


@pytest.mark.parametrize(("changes", "modified"), [((0, 0), False), ((0, 2), True), ((1, 0), True)])
def test_run_all_is_modified_when_one_is(bench, changes, modified):
    calls, model = [], bench.model(TEXT)
    result = run_all(model, [Recorder(count, calls) for count in changes])
    assert result.modified is modified
    assert result.model is model
    assert calls == ["requires", "apply", "ensures"] * 2


def test_run_all_runs_passes_in_order(bench):
    class Rename(Pass):
        def __init__(self, old, new):
            self.names = old, new

        def apply(self, model):
            found = [n for n in model.graph.nodes if editing.is_standard(n, self.names[0])]
            for node in found:
                node.op = self.names[1]
            return len(found)

    model = bench.model(TEXT)
    run_all(model, [Rename("Neg", "Exp"), Rename("Exp", "Sqrt")])
    assert bench.ops(model) == ["Sqrt", "Abs"]


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_settled_goes_on_while_something_changes(bench, rounds):
    class Shrinking(Recorder):
        def apply(self, model):
            super().apply(model)
            return int(self.calls.count("apply") <= rounds)

    shrinking = Shrinking()
    result = Settled([Recorder(), shrinking])(bench.model(TEXT))
    assert shrinking.calls.count("apply") == rounds + 1
    assert result.modified is bool(rounds)

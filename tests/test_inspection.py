"""What is in a file, and what a conversion would make of it."""

import json

import onnx.parser
import pytest

from graphpass.inspection import inspect
from graphpass.pipeline import convert
from graphpass_runtime.errors import ModelError, OptionError

K = (
    "float[3,3,1,1] k = {1,2,3,4,5,6,7,8,9}, float zero = {0.0}, float six = {6.0},"
    " int64[2] flat = {1, -1}"
)
CHAIN = (
    "a = Conv (x, k) r = Clip (a, zero, six) b = Conv (r, k) s = Clip (b, zero, six)"
    " y = GlobalAveragePool (s)"
)


@pytest.fixture
def write(tmp_path):
    def build(body, name="net.onnx", x="N,3,4,4", y="N,3,1,1"):
        model = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["": 17]>'
            f" g (float[{x}] x) => (float[{y}] y) <{K}> {{ {body} }}"
        )
        (tmp_path / name).write_bytes(model.SerializeToString())
        return tmp_path / name

    return build


def test_foreign_ann(write):
    found = inspect(write(CHAIN))
    assert (found.model, found.stage, found.form, found.steps) == ("net.onnx", None, None, None)
    assert found.opset == 17
    assert found.inputs == {"x": "float32[N,3,4,4]"}
    assert found.outputs == {"y": "float32[N,3,1,1]"}
    assert [(a.name, a.status) for a in found.activations] == [("r", "kept"), ("s", "converted")]
    assert found.convertible
    assert found.refused == ()
    types = {t.name: (t.shape, t.kind, t.batch_axis, t.channel_axis) for t in found.tensors}
    assert types["b"] == (("N", 3, 4, 4), "static", 0, 1)
    assert types["s"] == (("N", 3, 4, 4), "spikes", 0, 1)
    assert types["y"] == (("N", 3, 1, 1), "current", 0, 1)


def test_options_are_those_of_a_conversion(write):
    found = inspect(write(CHAIN), first_activation="spiking")
    assert [a.status for a in found.activations] == ["converted", "converted"]
    found = inspect(write(CHAIN), keep=["s"])
    assert [a.status for a in found.activations] == ["converted", "kept"]
    with pytest.raises(OptionError, match="nope"):
        inspect(write(CHAIN), keep=["nope"])


def test_interface_is_that_of_the_file_and_not_of_the_normalised_graph(write):
    found = inspect(write(CHAIN, x="1,3,4,4", y="1,3,1,1"))
    assert found.inputs == {"x": "float32[1,3,4,4]"}
    assert {t.name: t.shape for t in found.tensors}["x"] == ("N", 3, 4, 4)


def test_what_stands_in_the_way(write):
    body = "r = Relu (x) a = Sigmoid (r) s = Relu (a) y = GlobalAveragePool (s)"
    found = inspect(write(body), first_activation="spiking")
    assert not found.convertible
    (line,) = found.refused
    assert line.startswith("Sigmoid node 'a' is not linear")
    assert {a.name: a.status for a in found.activations}["a"] == "refused"


def test_model_without_activations_is_still_looked_at(write):
    found = inspect(write("y = GlobalAveragePool (x)"))
    assert not found.convertible
    assert "no activation to convert" in found.refused[0]
    assert found.activations == ()
    assert {t.name: t.kind for t in found.tensors} == {"x": "static", "y": "static"}


def test_every_stage_and_the_snn(write, tmp_path):
    path = write(CHAIN)
    convert(path, tmp_path / "snn.onnx", steps=4, calibrate="none", stages=tmp_path / "stages")
    files = sorted((tmp_path / "stages").iterdir())
    found = [inspect(file) for file in files]
    assert [f.stage for f in found] == [
        "0-normalised",
        "1-clip",
        "2-daqcfs",
        "3-calibrated",
        "4-spiking",
    ]
    assert [f.steps for f in found] == [None, None, 4, 4, 4]
    assert [f.form for f in found] == [None] * 4 + ["matmul"]
    for each in found:
        assert each.convertible
        assert [(a.name, a.status) for a in each.activations] == [("r", "kept"), ("s", "converted")]
        assert each.inputs == {"x": "float32[N,3,4,4]"}
    last = {t.name: t.kind for t in inspect(tmp_path / "snn.onnx").tensors}
    assert last["s"] == "spikes"
    assert last["y"] == "rate"


def test_json(write):
    values = inspect(write(CHAIN)).to_json()
    assert json.loads(json.dumps(values)) == json.loads(json.dumps(values))
    assert values["convertible"] is True
    assert values["activations"][1]["name"] == "s"
    assert set(values["tensors"][0]) == {"name", "shape", "kind", "batch_axis", "channel_axis"}


def test_looking_changes_nothing(write):
    path = write(CHAIN)
    before = path.read_bytes()
    assert inspect(path) == inspect(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["net.onnx"]


def test_errors_of_loading_pass_through(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        inspect(tmp_path / "no.onnx")


GATED = (
    "a = Conv (x, k) r = Relu (a) g = Conv (r, k) h = Sigmoid (g) m = Mul (r, h)"
    " s = Relu (m) y = GlobalAveragePool (s)"
)


def test_outlook_on_what_converts(write):
    assert inspect(write(CHAIN)).outlook == ("convert: converts, 1 of 2 activations spike",)


def test_outlook_says_what_islands_would_unlock(write):
    found = inspect(write(GATED), first_activation="spiking")
    assert not found.convertible
    # Of 3 * 3 * 16 products in each convolution, none is done on rates; the gate has none.
    assert found.outlook == (
        "with --islands allow: converts, 2 of 2 activations spike, 1 operator computes on rates"
        " (Sigmoid, 0.0 % of the work)",
    )


def test_islands_are_verdicts(write):
    found = inspect(write(GATED), first_activation="spiking", islands="allow")
    assert found.convertible
    (island,) = [a for a in found.activations if a.status == "island"]
    assert (island.name, island.operator, island.work) == ("h", "Sigmoid", 0.0)
    assert "computed on rates: is not linear" in island.reason
    assert json.loads(json.dumps(found.to_json()))["outlook"]


def test_activation_that_cannot_spike_computes_on_rates(write):
    body = "r = Relu (x) f = Shape (r) h = Cast <to = 1> (f) q = Relu (h) y = Add (r, q)"
    found = inspect(write(body, y="N,3,4,4"), first_activation="spiking")
    assert found.outlook == (
        "with --islands allow: converts, 1 of 1 activations spike, 2 operators compute on rates"
        " (Relu, Shape)",
    )


def test_nothing_that_can_spike(write):
    found = inspect(write("e = Abs (k) r = Relu (e) y = Conv (x, r)", y="N,3,4,4"))
    assert "does not carry the batch" in found.refused[0] or "no activation" in found.refused[0]

"""Networks of today whose blocks need islands: squeeze-and-excite gates, LayerNorm, attention.

Staircase neurons, islands and calibration together, in every form, on random weights. A gate's
own activation spikes, and what follows it is scaled at every step; attention and normalisations
compute on rates.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from graphpass import GraphpassError, convert, diagnose, verify
from graphpass.step_allocation import convert_allocated
from graphpass.step_search import convert_within
from graphpass_runtime.session import Session

Write = Callable[..., Path]
Network = tuple[str, dict[str, Any], int]  # ONNX text, weights, opset

SAME = ("counts", "counts-cpu", "matmul", "sorted")
CONSTANTS = {"two": 2.0, "eps": 1e-5, "root": 2.0**0.5, "one": 1.0, "half": 0.5, "scale": 8**-0.5}
ACTIVATIONS = {
    "HardSwish": "{y} = HardSwish ({x})",
    "SiLU": "{y}s = Sigmoid ({x}) {y} = Mul ({x}, {y}s)",
    "Relu": "{y} = Relu ({x})",
    "Erf": (
        "{y}a = Div ({x}, root) {y}b = Erf ({y}a) {y}c = Add ({y}b, one) {y}d = Mul ({x}, {y}c)"
        " {y} = Mul ({y}d, half)"
    ),
    "Gelu": "{y} = Gelu ({x})",
}
NORMS = {
    "LayerNormalization": "{y} = LayerNormalization <axis = -1> ({x}, {y}_s, {y}_b)",
    "pieces": (
        "{y}m = ReduceMean <axes = [-1]> ({x}) {y}d = Sub ({x}, {y}m) {y}q = Pow ({y}d, two)"
        " {y}v = ReduceMean <axes = [-1]> ({y}q) {y}e = Add ({y}v, eps) {y}r = Sqrt ({y}e)"
        " {y}n = Div ({y}d, {y}r) {y}w = Mul ({y}n, {y}_s) {y} = Add ({y}w, {y}_b)"
    ),
}


class Writer:
    """Lines of ONNX text, and the random weights that they read."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.lines: list[str] = []
        self.weights: dict[str, Any] = {}

    def add(self, line: str, **names: str) -> None:
        self.lines.append(line.format(**names) if names else line)

    def conv(
        self, x: str, y: str, inputs: int, outputs: int, kernel: int = 1, group: int = 1
    ) -> str:
        shape = (outputs, inputs // group, kernel, kernel)
        self.weights[f"{y}_w"] = self.rng.normal(0, 1.6 / np.sqrt(np.prod(shape[1:])), shape)
        self.weights[f"{y}_b"] = self.rng.normal(0, 0.2, outputs)
        pads = f"<group = {group}, pads = [{', '.join([str(kernel // 2)] * 4)}]>"
        self.add(f"{y} = Conv {pads} ({x}, {y}_w, {y}_b)")
        return y

    def linear(self, x: str, y: str, inputs: int, outputs: int) -> str:
        self.weights[f"{y}_w"] = self.rng.normal(0, 1 / np.sqrt(inputs), (inputs, outputs))
        self.weights[f"{y}_c"] = self.rng.normal(0, 0.1, outputs)
        self.add(f"{y}p = MatMul ({x}, {y}_w) {y} = Add ({y}p, {y}_c)")
        return y

    def network(self, opset: int) -> Network:
        text = " ".join(self.lines)
        used = {n: v for n, v in CONSTANTS.items() if f" {n})" in text or f"({n}," in text}
        weights = {n: np.asarray(v, np.float32) for n, v in (self.weights | used).items()}
        return f"g (float[N,3,12,12] x) => (float[N,10] y) {{ {text} }}", weights, opset


def gated(activation: str, inside: str, gate: str) -> Network:
    """Two inverted bottlenecks with squeeze-and-excite, the second with a residual sum."""
    net = Writer(8)

    def act(x: str, kind: str = activation) -> str:
        net.add(ACTIVATIONS[kind], x=x, y=f"{x}_f")
        return f"{x}_f"

    def block(x: str, tag: str) -> str:
        x = act(net.conv(act(net.conv(x, f"up{tag}", 8, 16)), f"dw{tag}", 16, 16, 3, 16))
        net.add(f"squeezed{tag} = GlobalAveragePool ({x})")
        less = act(net.conv(f"squeezed{tag}", f"less{tag}", 16, 4), inside)
        net.add(f"gate{tag} = {gate} ({net.conv(less, f'more{tag}', 4, 16)})")
        net.add(f"excited{tag} = Mul ({x}, gate{tag})")
        return net.conv(f"excited{tag}", f"down{tag}", 16, 8)

    first = block(act(net.conv("x", "stem", 3, 8, 3)), "1")
    net.add(f"sum = Add ({first}, {block(first, '2')})")
    net.add(f"pooled = GlobalAveragePool ({act(net.conv('sum', 'head', 8, 16))})")
    net.add("flat = Flatten (pooled)")
    net.linear("flat", "y", 16, 10)
    return net.network(17)


def transformer(norm: str, gelu: str, opset: int) -> Network:
    """Patches, two pre-norm blocks of two heads, and the mean over tokens."""
    net, width = Writer(5), 16
    net.weights["patch"] = net.rng.normal(0, 0.2, (width, 3, 4, 4))
    net.weights["place"] = net.rng.normal(0, 0.3, (1, 9, width))
    net.add("e = Conv <strides = [4, 4]> (x, patch)")
    net.add("tokens = Constant <value_ints = [0, 16, 9]> () heads = Constant <value_ints ="
            " [0, 9, 2, 8]> () joined = Constant <value_ints = [0, 9, 16]> ()")  # fmt: skip
    net.add("f = Reshape (e, tokens) t = Transpose <perm = [0, 2, 1]> (f) z0 = Add (t, place)")

    def normed(x: str, y: str) -> str:
        net.weights[f"{y}_s"] = net.rng.uniform(0.5, 1.5, width)
        net.weights[f"{y}_b"] = net.rng.normal(0, 0.1, width)
        net.add(NORMS[norm], x=x, y=y)
        return y

    for b in range(2):
        x = normed(f"z{b}", f"n{b}")
        for part, perm in (("q", "0, 2, 1, 3"), ("k", "0, 2, 3, 1"), ("v", "0, 2, 1, 3")):
            net.add(f"{part}{b}h = Reshape ({net.linear(x, f'{part}{b}', width, width)}, heads)")
            net.add(f"{part}{b}t = Transpose <perm = [{perm}]> ({part}{b}h)")
        net.add(f"s{b} = MatMul (q{b}t, k{b}t) a{b} = Mul (s{b}, scale)")
        net.add(f"p{b} = Softmax <axis = -1> (a{b}) o{b} = MatMul (p{b}, v{b}t)")
        net.add(f"o{b}t = Transpose <perm = [0, 2, 1, 3]> (o{b}) o{b}j = Reshape (o{b}t, joined)")
        net.add(f"m{b} = Add (z{b}, {net.linear(f'o{b}j', f'out{b}', width, width)})")
        net.linear(normed(f"m{b}", f"nn{b}"), f"h{b}", width, 32)
        net.add(ACTIVATIONS[gelu], x=f"h{b}", y=f"g{b}")
        net.add(f"z{b + 1} = Add (m{b}, {net.linear(f'g{b}', f'w{b}', 32, width)})")
    net.add(f"flat = Flatten ({normed('z2', 'last')})")
    net.linear("flat", "y", 9 * width, 10)
    return net.network(opset)


NETWORKS: dict[str, Network] = {
    "MobileNetV3": gated("HardSwish", "Relu", "HardSigmoid"),
    "EfficientNet": gated("SiLU", "SiLU", "Sigmoid"),
    "ViT": transformer("LayerNormalization", "Gelu", 20),
    "ViT in pieces": transformer("pieces", "Erf", 17),
}
#: Neurons when all activations spike, and one operator that computes on rates.
EXPECTED = {
    "MobileNetV3": (14, "HardSigmoid"),
    "EfficientNet": (16, "Sigmoid"),
    "ViT": (4, "LayerNormalization"),
    "ViT in pieces": (4, "Pow"),
}
OPTIONS: dict[str, Any] = {"islands": "allow", "first_activation": "spiking"}


def images(samples: int, seed: int) -> Any:
    return np.random.default_rng(seed).normal(0, 1, (samples, 3, 12, 12)).astype(np.float32)


DATA = [{"x": images(16, seed)} for seed in range(2)]


def outputs(path: Path, x: Any) -> Any:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


def errors(ann: Path, snn: Path, steps: tuple[int, ...], **options: Any) -> list[float]:
    """Relative errors of the outputs, on images that calibration does not see."""
    x = images(32, 100)
    expected, found = outputs(ann, x), []
    for count in steps:
        convert(ann, snn, steps=count, data=DATA, **options)
        error = Session(snn).run({"x": x})["y"] - expected
        found.append(float(np.linalg.norm(error) / np.linalg.norm(expected)))
    return found


@pytest.fixture
def ann(request: pytest.FixtureRequest, write_model: Write) -> Path:
    text, weights, opset = NETWORKS[request.param]
    return write_model(text, weights, opset=opset)


every = pytest.mark.parametrize("ann", NETWORKS, indirect=True)
one_of_each = pytest.mark.parametrize("ann", ["MobileNetV3", "ViT in pieces"], indirect=True)


@every
def test_error_falls_as_steps_grow(ann: Path, tmp_path: Path) -> None:
    found = errors(ann, tmp_path / "snn.onnx", (8, 32, 64), form="counts", **OPTIONS)
    assert found[2] < found[1] < found[0] < 0.1
    assert found[2] < found[0] / 2


@pytest.mark.parametrize("name", NETWORKS)
def test_what_spikes_and_what_computes_on_rates(
    name: str, write_model: Write, tmp_path: Path
) -> None:
    text, weights, opset = NETWORKS[name]
    path = write_model(text, weights, opset=opset)
    result = convert(path, tmp_path / "snn.onnx", steps=4, data=DATA, calibrate="none", **OPTIONS)
    islands = {a.operator for a in result.activations if a.status == "island"}
    assert (len(result.record.neurons), EXPECTED[name][1] in islands) == (EXPECTED[name][0], True)


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_a_transformer_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exported as torch writes it, with its own attention and its own GELU."""
    torch = pytest.importorskip("torch")
    from graphpass_exporters.torch_export import export_torch

    torch.manual_seed(0)
    # The tracer has no operator for a whole block at once.
    monkeypatch.setattr(torch.backends.mha, "get_fastpath_enabled", lambda: False)
    options: dict[str, Any] = {"activation": "gelu", "norm_first": True, "batch_first": True}
    blocks = [torch.nn.TransformerEncoderLayer(16, 2, 32, **options) for _ in range(2)]
    patches = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 4, 4), torch.nn.Flatten(2))
    swapped = torch.nn.Module()
    swapped.forward = lambda x: x.transpose(1, 2)
    head = [torch.nn.LayerNorm(16), torch.nn.Flatten(), torch.nn.Linear(144, 10)]
    vit = torch.nn.Sequential(patches, swapped, *blocks, *head)
    ann, snn = tmp_path / "vit.onnx", tmp_path / "snn.onnx"
    export_torch(vit, torch.randn(2, 3, 12, 12), ann, input_names=["x"], output_names=["y"])
    found = errors(ann, snn, (8, 32, 64), form="counts", **OPTIONS)
    assert found[2] < found[1] < found[0] < 0.1
    assert found[2] < found[0] / 2
    report = verify(ann, snn, [{"x": images(3, 7)}])
    assert (report.equal, report.layers) == (True, 4)


@one_of_each
def test_every_form_is_the_same_network(ann: Path, tmp_path: Path) -> None:
    stages, x = tmp_path / "stages", images(3, 9)
    files = {}
    for form in SAME:
        files[form] = tmp_path / f"{form}.onnx"
        convert(ann, files[form], steps=8, data=DATA, form=form, stages=stages, **OPTIONS)
    expected, again = outputs(files["counts"], x), tmp_path / "again.onnx"
    # A stage file knows what is an island, and a later one its T and its neurons.
    for stage, given in (
        ("1-clip", {"data": DATA, "steps": 8}),
        ("2-daqcfs", {"data": DATA}),
        ("3-calibrated", {}),
    ):
        convert(stages / f"{stage}.onnx", again, form="counts", **given)
        np.testing.assert_array_equal(outputs(again, x), expected)
    for path in files.values():
        session = Session(path)
        for batch in (3, 1, 2, 3):
            got = session.run({"x": x[:batch]})["y"]
            np.testing.assert_allclose(got, expected[:batch], rtol=1e-3, atol=1e-4)
        assert verify(stages / "3-calibrated.onnx", path, [{"x": x}], strict=True).equal
    assert verify(ann, files["matmul"], [{"x": x}]).equal


@one_of_each
def test_int8_is_what_its_integers_say(ann: Path, tmp_path: Path) -> None:
    stages, snn = tmp_path / "stages", tmp_path / "int8.onnx"
    found = errors(ann, snn, (16,), form="int8", stages=stages, **OPTIONS)
    assert found[0] < 0.1
    assert verify(ann, snn, [{"x": images(3, 9)}]).equal
    assert verify(stages / "3-calibrated.onnx", snn, [{"x": images(3, 9)}]).equal


def test_int8_where_no_layer_has_integers(write_model: Write, tmp_path: Path) -> None:
    """Counts of pairs meet in a sum, so that no layer reads integers; neurons hold some."""
    text, weights, opset = NETWORKS["ViT"]
    ann, stages, snn = (tmp_path / n for n in ("vit.onnx", "stages", "int8.onnx"))
    write_model(text, weights, opset=opset, name="vit.onnx")
    convert(ann, tmp_path / "snn.onnx", steps=8, data=DATA, stages=stages, **OPTIONS)
    convert(stages / "3-calibrated.onnx", snn, form="int8")
    assert all(len(node.output) for node in onnx.load(snn).graph.node)
    found = verify(ann, snn, [{"x": images(3, 9)}])
    assert (found.equal, found.integer_layers, found.layers) == (True, 0, 4)


@one_of_each
@pytest.mark.parametrize(
    "options",
    [
        {"calibrate": "paper"},
        {"calibrate": "none"},
        {"threshold": "gaussian"},
        {"threshold": "percentile"},
    ],
    ids=lambda options: "-".join(options.values()),
)
def test_every_calibration(options: dict[str, Any], ann: Path, tmp_path: Path) -> None:
    snn = tmp_path / "snn.onnx"
    found = errors(ann, snn, (16,), form="counts", **options, **OPTIONS)
    assert found[0] < 0.1
    assert verify(ann, snn, [{"x": images(3, 9)}]).equal


@one_of_each
def test_diagnosis_names_every_neuron(ann: Path, tmp_path: Path) -> None:
    snn = tmp_path / "snn.onnx"
    result = convert(ann, snn, steps=8, data=DATA, form="counts", diagnose=True, **OPTIONS)
    names = {neuron.name for neuron in result.record.neurons}
    assert result.diagnosis is not None
    for found in (result.diagnosis, diagnose(ann, snn, DATA)):
        assert {layer.name for layer in found.layers} == names
        assert sum(layer.share or 0 for layer in found.layers) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "ann", [pytest.param("MobileNetV3", marks=pytest.mark.slow), "ViT in pieces"], indirect=True
)
def test_steps_for_each_layer_and_steps_within_a_drop(ann: Path, tmp_path: Path) -> None:
    snn = tmp_path / "snn.onnx"
    result, allocation = convert_allocated(ann, snn, 4.0, data=DATA, form="sorted", **OPTIONS)
    assert set(allocation.steps) == {neuron.population for neuron in result.record.neurons}
    assert verify(ann, snn, [{"x": images(3, 9)}]).equal
    options = {"data": DATA, "calibrate": "none", "form": "counts", **OPTIONS}
    _, search = convert_within(ann, snn, 20.0, eval_data=[{"x": images(16, 5)}], **options)
    assert search.steps is not None
    assert verify(ann, snn, [{"x": images(3, 9)}]).equal


@one_of_each
@pytest.mark.parametrize("serial", ["scan", "step"])
def test_serial_neurons_stand_for_rectifiers_only(serial: str, ann: Path, tmp_path: Path) -> None:
    snn = tmp_path / "snn.onnx"
    options = {"calibrate": "none", "method": "qcfs", "serial": serial}
    with pytest.raises(GraphpassError, match="which is no rectifier") as caught:
        convert(ann, snn, steps=4, data=DATA, **options, **OPTIONS)
    assert str(caught.value).isprintable()
    assert not snn.exists()


def test_serial_islands_read_the_mean_so_far(write_model: Write, tmp_path: Path) -> None:
    """Another network than the parallel one, which comes closer to the ANN with T all the same."""
    text, weights, opset = gated("Relu", "Relu", "HardSigmoid")
    ann, snn = write_model(text, weights, opset=opset), tmp_path / "snn.onnx"
    scan, step = (
        errors(ann, snn, (8, 64), method="qcfs", serial=serial, islands="allow")
        for serial in ("scan", "step")
    )
    assert scan == pytest.approx(step, rel=1e-3)
    assert scan[1] < scan[0] / 2


SLANTED = """g (float[N,4,6] x) => (float[N,4,6] y) {
    a = MatMul (x, w) r = Relu (a) b = MatMul (r, w) f = PRelu (b, rows) c = MatMul (f, w)
    s = Relu (c) y = MatMul (s, w)
}"""


def test_a_function_that_fits_no_neuron_computes_on_rates(
    write_model: Write, tmp_path: Path
) -> None:
    """One slope for each row, where channels lie on the last axis."""
    rng = np.random.default_rng(1)
    weights = {"w": rng.normal(0, 0.5, (6, 6)), "rows": rng.uniform(0.1, 0.5, (4, 1))}
    ann = write_model(SLANTED, {n: v.astype(np.float32) for n, v in weights.items()})
    data = [{"x": rng.normal(0, 1, (16, 4, 6)).astype(np.float32)}]
    with pytest.raises(GraphpassError, match=r"thresholds along \[1\].*--islands allow"):
        convert(ann, tmp_path / "snn.onnx", steps=8, data=data, first_activation="spiking")
    for form in SAME:
        result = convert(ann, tmp_path / "snn.onnx", steps=8, data=data, form=form, **OPTIONS)
        assert [(a.name, a.status) for a in result.activations] == [
            ("r", "converted"), ("f", "island"), ("s", "converted"),
        ]  # fmt: skip
        assert verify(ann, tmp_path / "snn.onnx", data).equal

"""The graph as a torch module: the same network as in ONNX Runtime, and back again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")

from graphpass import convert  # noqa: E402 needs torch
from graphpass.calibration.finetune.network import Network  # noqa: E402
from graphpass.calibration.finetune.neurons import LearnedNeuron, Reference  # noqa: E402
from graphpass.calibration.reference import neurons_of, ranks_of, reference_net  # noqa: E402
from graphpass.calibration.statistics import add_output  # noqa: E402
from graphpass.model import Model, from_proto, infer_shapes, load, to_proto  # noqa: E402
from graphpass_models.digits import Digits, digits_model_path  # noqa: E402
from graphpass_runtime.errors import ModelError  # noqa: E402

SHARED = [
    "kd_resnet20_cifar10",
    "mlperf_tiny_ad_autoencoder",
    "mlperf_tiny_resnet8_cifar10",
    "mlperf_tiny_vww_mobilenetv1_025_96",
    "mobilenet_v2_1.0_224_imagenet",
    "nascifarnet_clip_cifar10",
    "resnet20_cifar10",
    "resnet20_cifar10_bn",
    "resnet56_cifar10",
    "squeezenet1.1_imagenet",
    "wrn16_1_cifar10",
]


def stage(ann: Path, feeds: dict[str, np.ndarray], folder: Path) -> Model:
    """Stage 2 of a network, thresholds measured on these feeds."""
    convert(ann, folder / "snn.onnx", steps=4, data=[feeds], calibrate="none", stages=folder)
    model = load(folder / "2-daqcfs.onnx")
    infer_shapes(model)
    return model


def layers_in_ort(proto, names, feeds) -> dict[str, np.ndarray]:
    for name in names:
        add_output(proto, name)
        proto.graph.output[-1].type.tensor_type.ClearField("shape")
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, feeds), strict=True))


def forced(name: str, output: np.ndarray, currents: dict):
    """A neuron that notes its current, and answers with a given output."""

    def run(current):
        currents[name] = current
        return torch.from_numpy(output)

    return run


def agrees(model: Model, feeds: dict[str, np.ndarray]) -> None:
    """Analog layers are close; of spike counts at most a few differ, at ties."""
    neurons, ranks, network = neurons_of(model), ranks_of(model), Network(model)
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    with torch.no_grad():
        references = {name: Reference(n, ranks[name]) for name, n in neurons.items()}
        outputs, layers = network(tensors, references)
        wanted = layers_in_ort(reference_net(model, neurons), neurons, feeds)
        for name, found in {**outputs, **layers}.items():
            scale = np.abs(wanted[name]).max()
            np.testing.assert_allclose(found.numpy(), wanted[name], rtol=0, atol=2e-5 * scale)
        # Each spiking layer reads what ONNX Runtime's layers before it wrote: a tie that falls
        # to the other side in one layer would make all later ones differ.
        wanted, apart, total = layers_in_ort(to_proto(model), neurons, feeds), 0, 0
        currents: dict[str, torch.Tensor] = {}
        network(tensors, {name: forced(name, wanted[name], currents) for name in neurons})
        for name, current in currents.items():
            found = LearnedNeuron(neurons[name], ranks[name])(current).numpy()
            differs = np.abs(found - wanted[name]) > neurons[name].amplitude.min() / 2
            apart, total = apart + int(differs.sum()), total + differs.size
    assert apart <= 2 + 1e-5 * total


@pytest.fixture
def digits_stage(digits: Digits, tmp_path: Path) -> Model:
    return stage(digits_model_path(), {"image": digits.train_images[:50]}, tmp_path)


def test_digits_network_is_the_same_in_torch(digits_stage: Model, digits: Digits):
    agrees(digits_stage, {"image": digits.test_images[:20]})


@pytest.mark.parametrize("name", SHARED)
def test_shared_network_is_the_same_in_torch(name: str, shared_data: Path, tmp_path: Path):
    ann = shared_data / "models" / f"{name}.onnx"
    (value,) = load(ann).graph.inputs
    shape = [2, *value.shape[1:]]
    feeds = {value.name: np.random.default_rng(1).normal(size=shape).astype(np.float32)}
    agrees(stage(ann, feeds, tmp_path), feeds)


def test_nothing_learned_nothing_changed(digits_stage: Model, digits: Digits):
    before = to_proto(digits_stage)
    Network(digits_stage).write_back()
    feeds = {"image": digits.test_images[:20]}
    one, other = (layers_in_ort(proto, [], feeds) for proto in (before, to_proto(digits_stage)))
    np.testing.assert_array_equal(one["logits"], other["logits"])


def test_output_that_is_an_initializer(write_model):
    path = write_model(
        "g (float[N, 2] x) => (float[N, 2] y, float[2] w) { y = Add (x, w) }",
        {"w": np.array([1, 2], np.float32)},
    )
    outputs, _ = Network(load(path))({"x": torch.zeros(1, 2)}, {})
    assert outputs["y"].tolist() == [outputs["w"].tolist()] == [[1, 2]]


def test_learned_weights_go_into_new_initializers(write_model):
    """`w` is a weight of two products and, elsewhere, a summand: that use keeps its values."""
    path = write_model(
        """g (float[N, 2] x) => (float[N, 2] y)
        { a = MatMul (x, w) r = Relu (a) b = MatMul (r, w) y = Add (b, w) }""",
        {"w": np.array([[1, 2], [3, 4]], np.float32)},
    )
    model = load(path)
    network = Network(model)
    assert len(network.weights) == 1
    with torch.no_grad():
        network.weights[0] += 1.0
    network.write_back()
    first, _, second, summand = model.graph.nodes
    assert first.inputs[1] is second.inputs[1]
    np.testing.assert_array_equal(first.inputs[1].values, [[2, 3], [4, 5]])
    np.testing.assert_array_equal(summand.inputs[1].values, [[1, 2], [3, 4]])
    reread = from_proto(to_proto(model)).graph.tensors()
    np.testing.assert_array_equal(reread["w"].values, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(reread["w/finetuned"].values, [[2, 3], [4, 5]])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = Celu (x)", "Celu node 'y' is an operator that finetuning does not know"),
        (
            'y = Pad <mode = "reflect"> (x, pads)',
            "Pad node 'y' pads in mode 'reflect'",
        ),
        ("y, i = MaxPool <kernel_shape = [2]> (x)", "has a further output that is used"),
    ],
)
def test_what_it_does_not_know_is_refused(body: str, reason: str, write_model):
    outputs = "float[N, 2, M] y" + (", int64[N, 2, M] i" if ", i" in body else "")
    weights = {"pads": np.array([0, 0, 1, 0, 0, 1])} if "pads" in body else {}
    model = load(write_model(f"g (float[N, 2, 4] x) => ({outputs}) {{ {body} }}", weights))
    with pytest.raises(ModelError, match=reason) as caught:
        Network(model)({"x": torch.zeros(1, 2, 4)}, {})
    assert "ann.onnx: " in str(caught.value)
    assert "--calibrate optimal" in str(caught.value)

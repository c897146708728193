"""Files of many exporters and tasks: each converts exactly, or is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from graphpass import Conversion, GraphpassError, convert, verify

FORMS = ("matmul", "sorted", "counts")

#: Files that convert. A file may move here; one that leaves is a regression.
CONVERTS = frozenset(
    """acasxu_1_1 autoencoder1d blazeface_front cartpole cct_16 cgan_32_upsample eran_sigmoid_6x200
    esp_stream fastestdet hand_landmark keras_mlp light_resnet50 light_shufflenet light_vgg19
    marabou_cifar_large mnist_cntk mnist_fc_256x4 oww_alexa pensieve_mid qonnx_espcn_float
    road_seg_adas rten_mnist super_resolution ultraface_rfb320 unet_simp_small vit_pgd
    vnn_cifar_base vnn_resnet_4b winml_image_classifier yunet_n_320""".split()
)
#: Files that convert when islands are allowed, with a word of why not without.
ISLANDS = {
    "candy_style": "InstanceNormalization",
    "ppocr_cls": "HardSigmoid",
    "selfie_segmentation": "Sigmoid",
    "silero_vad_16k": "has a body that reads spikes",
    "tbefn_180": "Mul",
}
#: Seconds for one pass: these get one sample, and one form.
HEAVY = frozenset(
    """candy_style light_vgg19 light_resnet50 road_seg_adas super_resolution tbefn_180
    ultraface_rfb320""".split()
)
#: ONNX Runtime runs it only as graphpass lowers it: see test_quantised_networks.py.
ELSEWHERE = frozenset({"qonnx_espcn_quant"})
NAMES = sorted(CONVERTS | set(ISLANDS))
#: Largest input where it is not 1; on nearly constant images InstanceNormalization divides
#: rounding errors by next to nothing.
SCALE = {"candy_style": 255}
#: What stands for free dimensions where 1 does not run.
FREE = {"ppocr_cls": (1, 3, 48, 192)}


def feeds(name: str, inputs: dict[str, Any], seed: int) -> dict[str, Any]:
    """One sample of random numbers for the inputs that index.json lists."""
    rng = np.random.default_rng(seed)
    if name == "silero_vad_16k":  # see the README of the data
        return {
            "input": rng.normal(0, 0.1, (1, 576)).astype(np.float32),
            "state": np.zeros((2, 1, 128), np.float32),
            "sr": np.array(16000, np.int64),
        }
    arrays = {}
    for key, (_, shape) in inputs.items():
        free = FREE.get(name, (1,) * len(shape))
        size = [d if isinstance(d, int) else free[axis] for axis, d in enumerate(shape)]
        arrays[key] = rng.uniform(0, SCALE.get(name, 1), size).astype(np.float32)
    return arrays


def _param(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow) if name in HEAVY else name


def _outcome(path: Path, output: Path, data: Any, **options: Any) -> Conversion | str:
    """The conversion, or the line that refuses it. Anything else that is raised is a defect."""
    try:
        return convert(path, output, steps=4, data=data, **options)
    except GraphpassError as error:
        return str(error)


@pytest.fixture(scope="module")
def index(shared_data: Path) -> dict[str, Any]:
    entries = json.loads((shared_data / "onnx_corpus/index.json").read_text())
    return {Path(entry["file"]).stem: entry for entry in entries}


def test_the_lists_above_name_every_file(index: dict[str, Any]) -> None:
    assert sorted(index) == sorted({*NAMES, *ELSEWHERE})


@pytest.mark.parametrize("name", [_param(name) for name in NAMES])
def test_corpus_file(name: str, index: dict[str, Any], shared_data: Path, tmp_path: Path) -> None:
    ann = shared_data / "onnx_corpus" / f"{name}.onnx"
    inputs = index[name]["inputs"]
    heavy = name in HEAVY
    data = [feeds(name, inputs, seed) for seed in range(1 if heavy else 2)]
    result = _outcome(ann, tmp_path / "counts.onnx", data, form="counts")
    if isinstance(result, str):
        assert name not in CONVERTS, result
        assert result.startswith(f"{ann.name}: ")
        assert result.isprintable()
        assert ISLANDS[name] in result
        assert "--islands allow" in result
        assert list(tmp_path.iterdir()) == []
    islands = "allow" if name in ISLANDS else "forbid"
    if name in ISLANDS:
        result = _outcome(ann, tmp_path / "counts.onnx", data, form="counts", islands=islands)
    assert isinstance(result, Conversion), result
    assert any(verdict.status == "island" for verdict in result.activations) is (name in ISLANDS)
    for form in ("counts",) if heavy else FORMS:
        snn = tmp_path / f"{form}.onnx"
        if form != "counts":
            convert(ann, snn, steps=4, data=data, form=form, islands=islands)
        found = verify(ann, snn, data)
        assert found.equal, found
        assert found.layers == len(result.record.neurons)
        assert np.isfinite(found.max_abs_diff)
        session = onnxruntime.InferenceSession(str(snn), providers=["CPUExecutionProvider"])
        assert [t.name for t in session.get_inputs()] == list(inputs)
        outputs = session.run(None, data[0])
        assert [list(o.shape) for o in outputs] == index[name]["out_shapes"]

"""The few bytes that make inner tensors visible."""

from __future__ import annotations

import onnx
import pytest

from graphpass_runtime.extra_outputs import extra_outputs_suffix


def test_no_names_add_no_bytes() -> None:
    assert extra_outputs_suffix([]) == b""


@pytest.mark.parametrize(
    "names",
    [
        ["z"],
        ["a", "b/c:0"],
        ["\N{GREEK SMALL LETTER THETA}", ""],
        [f"n{i}" * 50 for i in range(300)],
    ],
)
def test_suffix_is_what_onnx_writes(names: list[str]) -> None:
    # Long lists need lengths of several varint bytes.
    model = onnx.ModelProto()
    for name in names:
        model.graph.output.add(name=name)
    assert extra_outputs_suffix(names) == model.SerializeToString()


def test_suffix_leaves_the_rest_of_a_model_alone() -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) { y = Relu(x) }'
    model = onnx.parser.parse_model(text)
    model.metadata_props.add(key="k", value="v")
    merged = onnx.load_from_string(model.SerializeToString() + extra_outputs_suffix(["x"]))
    assert [output.name for output in merged.graph.output] == ["y", "x"]
    del merged.graph.output[1]
    assert merged == model

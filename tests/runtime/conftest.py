"""Small models, written as ONNX text."""

from __future__ import annotations

from collections.abc import Callable

import onnx.parser
import pytest

from graphpass_runtime.metadata import FileRecord

Build = Callable[..., bytes]


@pytest.fixture
def build() -> Build:
    """Parse the text of a graph into the bytes of a model, with an optional record."""

    def parse(text: str, record: FileRecord | None = None) -> bytes:
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
        for key, value in (record.to_props() if record else {}).items():
            model.metadata_props.add(key=key, value=value)
        return bytes(model.SerializeToString())

    return parse

"""Making inner tensors of a model visible, without the `onnx` package.

Protobuf merges concatenated messages: the bytes of two `ModelProto` read as one
whose repeated fields are joined. So a few bytes appended to a model file declare
further graph outputs, and nothing of the file has to be understood. ONNX Runtime
infers the type and shape of such an output itself.
"""

from __future__ import annotations

from collections.abc import Iterable

# Field numbers of onnx.proto, fixed by the ONNX standard.
_MODEL_GRAPH = 7
_GRAPH_OUTPUT = 12
_VALUE_INFO_NAME = 1

_LENGTH_DELIMITED = 2  # protobuf's wire type of strings and messages


def extra_outputs_suffix(names: Iterable[str]) -> bytes:
    """Bytes that, appended to a serialized ModelProto, declare more graph outputs.

    Args:
        names: tensors of the main graph, none of them an output already (ONNX
            Runtime would hand it out twice). A name that the graph does not have
            makes the result invalid; ONNX Runtime says so when it loads it.

    Returns:
        A serialized ``ModelProto{graph{output{name}, ...}}``; empty for no names.
    """
    outputs = b"".join(
        _field(_GRAPH_OUTPUT, _field(_VALUE_INFO_NAME, name.encode())) for name in names
    )
    return _field(_MODEL_GRAPH, outputs) if outputs else b""


def _field(number: int, payload: bytes) -> bytes:
    """One length-delimited protobuf field: tag, length, payload."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    """A non-negative integer in groups of seven bits, lowest first, high bit = more follow."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)

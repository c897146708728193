"""What torch's exporters leave in a model, taken out, and the file written in one step."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from graphpass_runtime.errors import OutputError


def clean(model: onnx.ModelProto) -> None:
    """Remove exporter metadata and fix the order of attributes, in place.

    The dynamo exporter writes stack traces and the source file's absolute path into
    the metadata of every node; neither exporter promises an order of attributes.
    Both differ between machines, so the same network would give other bytes.
    """
    del model.metadata_props[:]
    for function in model.functions:
        del function.metadata_props[:]
        _clean_nodes(function.node)
    for graph in _graphs(model.graph):
        del graph.metadata_props[:]
        for value in (*graph.input, *graph.output, *graph.value_info):
            del value.metadata_props[:]
        for tensor in graph.initializer:
            del tensor.metadata_props[:]
        _clean_nodes(graph.node)


def _clean_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        del node.metadata_props[:]
        node.ClearField("doc_string")
        node.attribute.sort(key=lambda attribute: attribute.name)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and, depth first, the bodies of its control flow."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                if body.node:
                    yield from _graphs(body)


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Write `model` to one file at `path`: the whole file appears, or nothing does.

    Raises:
        OutputError: the folder does not exist or cannot be written.
    """
    content = model.SerializeToString(deterministic=True)
    try:
        # In the same folder: a rename across file systems is a copy.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror})", where=str(path), remedy="check the folder"
        ) from error
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        partial.chmod(0o644)  # mkstemp makes it private to its owner
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror})", where=str(path)) from error
    finally:
        partial.unlink(missing_ok=True)

"""Loading and saving: the only place where ONNX files become graphs and back.

Passes edit an onnx-graphsurgeon graph. A round trip through graphsurgeon loses
metadata, documentation strings and more, so `Model` carries what would be lost
and this module puts it back, with IR version and opset set explicitly.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.numpy_helper
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx_graphsurgeon.logger import G_LOGGER

from graphpass import admission, dialect, files, large_weights, shape_inference
from graphpass.admission import first_line
from graphpass_runtime.errors import ModelError
from graphpass_runtime.metadata import PREFIX, FileRecord

log = logging.getLogger(__name__)

# Graphsurgeon prints its own running commentary; ours is the verdict table.
G_LOGGER.severity = G_LOGGER.CRITICAL

_OLDEST_IR_WITH_FUNCTIONS, _NEWEST_IR = 8, 13  # the newest that ONNX Runtime 1.31 loads
_OLDEST_OPSET, _NEWEST_OPSET = 7, 26  # NumPy broadcasting; what ONNX Runtime 1.31 loads
_NOTES = "notes"  # attribute of a gs.Node


@dataclass
class NodeNotes:
    """What graphsurgeon drops from a node: its documentation and metadata."""

    doc_string: str
    metadata: dict[str, str]


@dataclass
class Model:
    """An ONNX model under conversion.

    Attributes:
        graph: the editing view, sorted topologically.
        record: what the file says about itself; None for a foreign ANN.
        name: what to call the model in errors (a file name, never a full path).
        props: the metadata entries that are not graphpass's own, kept as they are.
        header: model-level fields that the editing view has no place for.
    """

    graph: gs.Graph
    record: FileRecord | None = None
    name: str = "model"
    props: dict[str, str] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return int(self.graph.opset)

    def note(self, **changes: Any) -> None:
        """Replace fields of the record, which must exist.

        Raises:
            ModelError: what was measured is not finite.
        """
        assert self.record is not None, "the record starts with stage 0"
        self.record = replace(self.record, **changes)
        if (what := self.record.not_finite()) is not None:
            raise ModelError(
                f"{what} is not finite",
                where=self.name,
                remedy="check that weights and calibration data are finite, and not very large",
            )


def load(path: str | os.PathLike[str]) -> Model:
    """Read an ONNX file, external data included.

    Raises:
        ModelError: the file is missing, is not ONNX, is cut short, wants data that
            is not there, or uses an opset or IR version outside what is supported.
    """
    path = Path(path)
    proto, weights = files.read(path)  # which live until they are in the view
    model = from_proto(proto, name=path.name, file=path)
    del weights
    return model


def check_before_running(path: str | os.PathLike[str]) -> None:
    """Refuse what ONNX Runtime would not come back from.

    For commands that run a file without compiling it. Other damage is for ONNX Runtime to find.

    Raises:
        ModelError: see `admission.check_runnable`.
    """
    try:
        proto = onnx.load(str(path), format="protobuf", load_external_data=False)
    except (DecodeError, OSError):
        return
    admission.check_runnable(proto, Path(path))


def from_proto(proto: onnx.ModelProto, *, name: str = "model", file: Path | None = None) -> Model:
    """Take a loaded protobuf into the editing view. The protobuf is used up.

    Args:
        proto: the model.
        name: what to call it in errors.
        file: where it was read from, if it comes from outside and is not to be trusted.

    Raises:
        ModelError: there is no graph, the opset or a function is not supported, or the
            file is not valid.
    """
    if not proto.graph.node or not proto.graph.output:
        raise ModelError(
            "holds no graph with nodes and outputs", where=name, remedy="is it an ONNX model?"
        )
    opsets = {o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")}
    if len(opsets) > 1:
        raise ModelError(
            f"imports the standard operators in versions {sorted(opsets)}",
            where=name,
            remedy="export the model again with one opset",
        )
    opset = opsets.pop() if opsets else 0
    if not _OLDEST_OPSET <= opset <= _NEWEST_OPSET:
        raise ModelError(
            f"opset {opset} is outside {_OLDEST_OPSET}..{_NEWEST_OPSET}",
            where=name,
            remedy="export the model again with an opset in this range",
        )
    if file is not None:
        admission.admit(proto, file)
    _read_as_opset_8(proto)
    try:
        proto = _without_functions(proto)
    except (onnx.checker.ValidationError, RuntimeError) as error:
        raise ModelError(
            f"its functions cannot be inlined ({first_line(error)})",
            where=name,
            remedy="inline them with onnx.inliner, or export without functions",
        ) from error
    elements: list[Any] = [*admission.all_nodes(proto), *proto.opset_import]
    for element in elements:
        if element.domain == "ai.onnx":  # another word for the standard domain
            element.domain = ""
    _spell_empty_constants(proto)
    _open_maps(proto)
    if (tensorless := admission.no_tensor(proto)) is not None:
        raise ModelError(
            f"{tensorless}, not a tensor",
            where=name,
            remedy="export the model with tensors as inputs and outputs",
        )
    if (attribute := admission.lost_attribute(proto)) is not None:
        raise ModelError(
            f"attribute {attribute} is empty, or of a type that graphpass does not know",
            where=name,
            remedy="export the model again, without it",
        )
    if (attribute := admission.dangling_attribute(proto)) is not None:
        raise ModelError(
            f"attribute '{attribute}' refers to a function's, outside of any function",
            where=name,
            remedy="export the model again",
        )
    props = {p.key: p.value for p in proto.metadata_props}
    # Before IR 4 every initializer is listed as an input too; a weight that a
    # caller may replace at run time cannot be compiled.
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    for value in [*proto.graph.input, *proto.graph.output]:
        _forget_impossible_sizes(value)
    _spell_weights(proto)
    proto, arrays = large_weights.take_out(proto)
    for node in admission.all_nodes(proto):
        if node.domain == dialect.DOMAIN and not _is_known_call(node):
            raise ModelError(
                f"calls {dialect.DOMAIN}::{node.op_type}, which this version does not know",
                where=name,
                remedy="update graphpass, or convert the ANN again",
            )
    try:
        graph = gs.import_onnx(proto)
        large_weights.attach(graph)
        del arrays  # which the view holds now
        _attach_notes(proto, graph)
        graph.toposort()
    except Exception as error:  # graphsurgeon raises bare Exception subclasses of its own
        raise ModelError(f"graph cannot be read ({first_line(error)})", where=name) from error
    return Model(
        graph=graph,
        record=FileRecord.from_props(props, where=name),
        name=name,
        props={k: v for k, v in props.items() if not k.startswith(PREFIX)},
        header={
            "model_version": proto.model_version,
            "domain": proto.domain,
            "doc_string": proto.doc_string,
            "ir_version": proto.ir_version,
        },
    )


def to_proto(model: Model) -> onnx.ModelProto:
    """The model as protobuf: functions of the dialect, metadata and notes attached.

    Where its weights are very large, some are references (`large_weights`).
    """
    proto = _exported(model)
    most = large_weights.INSIDE
    below = math.inf if large_weights.total(proto) <= most else large_weights.LARGE
    return large_weights.fill(proto, below)


def _exported(model: Model) -> onnx.ModelProto:
    """With references for all weights but the smallest."""
    proto = _without_metadata(model)
    own = model.record.to_props() if model.record else {}
    for key, value in {**model.props, **own}.items():
        proto.metadata_props.add(key=key, value=value)
    return proto


def _without_metadata(model: Model) -> onnx.ModelProto:
    """The same but for what the file says of itself: long lists of numbers, one per channel."""
    graph = model.graph
    levels = [graph, *graph.subgraphs(recursive=True)]
    called = {n.op for level in levels for n in level.nodes if n.domain == dialect.DOMAIN}
    half = model.record is not None and model.record.precision == "fp16"
    functions = dialect.functions(called, model.opset, half=half)
    with large_weights.referring(graph):
        proto: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    proto.functions.extend(functions)
    for key in ("model_version", "domain", "doc_string"):
        if value := model.header.get(key):
            setattr(proto, key, value)
    oldest = _OLDEST_IR_WITH_FUNCTIONS if functions else 4  # 4: weights need not be inputs
    proto.ir_version = min(max(model.header.get("ir_version", 0), oldest), _NEWEST_IR)
    _name_apart(proto)
    for written, node in zip(proto.graph.node, graph.nodes, strict=True):
        if notes := getattr(node, _NOTES, None):
            written.doc_string = notes.doc_string
            for key, value in notes.metadata.items():
                written.metadata_props.add(key=key, value=value)
    return proto


def to_bytes(model: Model) -> bytes:
    """The model as an ONNX file's content; same model, same bytes."""
    proto = _exported(model)
    if large_weights.total(proto) > files.MOST_IN_ONE_FILE:
        raise ModelError(
            "has more weights than ONNX holds in one piece",
            where=model.name,
            remedy="use a form that needs no second copy of the network (not int8)",
        )
    content: bytes = large_weights.fill(proto).SerializeToString(deterministic=True)
    return content


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write the model; a reader sees the old file or the whole new one, never a part.

    Raises:
        OutputError: the path cannot be written.
    """
    files.write(_exported(model), Path(path))


def copied(model: Model) -> Model:
    """A second editing view of a model; the weights are shared, since they are never edited."""
    return from_proto(_exported(model), name=model.name)


def infer_shapes(model: Model) -> None:
    """Fill in dtype and shape of every tensor that can be found out.

    Where the inference fails the graph stays as it is: a rule that needs a shape then
    refuses.
    """
    try:
        shape_inference.fill_in(model.graph, _without_metadata(model))
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        log.info("%s: shape inference failed: %s", model.name, first_line(error))


def _read_as_opset_8(proto: onnx.ModelProto) -> None:
    """Opset 8 only adds to opset 7 (operators, broadcasting, attributes): nothing is lost."""
    for imported in proto.opset_import:
        if imported.domain in ("", "ai.onnx") and imported.version == 7:
            imported.version = 8


def _name_apart(proto: onnx.ModelProto) -> None:
    """Number nodes of one name, which ONNX Runtime refuses: new nodes are named like tensors."""
    taken = {node.name for node in proto.graph.node}
    seen: set[str] = set()
    for node in proto.graph.node:
        if node.name and node.name in seen:
            numbered = (f"{node.name}_{count}" for count in itertools.count(2))
            node.name = next(name for name in numbered if name not in taken)
            taken.add(node.name)
        seen.add(node.name)


def _attach_notes(proto: onnx.ModelProto, graph: gs.Graph) -> None:
    """Let every node carry its notes: names of tensors change on the way, nodes do not."""
    for read, node in zip(proto.graph.node, graph.nodes, strict=True):
        if read.doc_string or read.metadata_props:
            metadata = {p.key: p.value for p in read.metadata_props}
            setattr(node, _NOTES, NodeNotes(read.doc_string, metadata))


def _is_known_call(node: onnx.NodeProto) -> bool:
    """Is it a function of the dialect, with all its inputs and outputs?"""
    if node.op_type not in dialect.FUNCTIONS or not (all(node.input) and all(node.output)):
        return False
    return (len(node.input), len(node.output)) == dialect.arity(node.op_type)


def _forget_impossible_sizes(value: onnx.ValueInfoProto) -> None:
    """Some exporters write -1 for a size that is free."""
    for dim in value.type.tensor_type.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value < 0:
            dim.ClearField("dim_value")


def _spell_empty_constants(proto: onnx.ModelProto) -> None:
    """Write the empty list of a Constant, as of the shape of a scalar, as a tensor."""
    empty: dict[str, NDArray[Any]] = {
        "value_ints": np.zeros(0, np.int64),
        "value_floats": np.zeros(0, np.float32),
    }
    for node in admission.all_nodes(proto):
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name in empty and not (attribute.ints or attribute.floats):
                tensor = onnx.numpy_helper.from_array(empty[attribute.name])
                attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))


def _open_maps(proto: onnx.ModelProto) -> None:
    """Take the tensor instead of what scikit-learn's converter makes of it, a map per sample."""
    opened: set[str] = set()
    for node in proto.graph.node:
        if (node.domain, node.op_type) == ("ai.onnx.ml", "ZipMap"):
            opened.update(node.output)
            node.domain, node.op_type = "", "Identity"
            del node.attribute[:]
    for value in proto.graph.output:
        if value.name in opened:
            value.type.CopyFrom(onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None))


def _spell_weights(proto: onnx.ModelProto) -> None:
    """Write all weights as raw bytes; else the file would depend on which were looked at."""
    for weight in proto.graph.initializer:
        external = weight.data_location == onnx.TensorProto.EXTERNAL
        if not weight.HasField("raw_data") and not external and not weight.string_data:
            array = onnx.numpy_helper.to_array(weight)
            weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))


def _without_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Inline the model's own functions; graphpass's are written anew when saving."""
    foreign = [(f.domain, f.name) for f in proto.functions if f.domain != dialect.DOMAIN]
    kept = [f for f in proto.functions if f.domain != dialect.DOMAIN]
    del proto.functions[:]
    proto.functions.extend(kept)
    return onnx.inliner.inline_selected_functions(proto, foreign) if foreign else proto

"""What old exporters write, read as what it means today."""

import onnx
import onnx.parser

from graphpass.model import from_proto


def parse(opset=17):
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]>'
        " g (float[N,3] x) => (float[N,3] y) { y = Relu (x) }"
    )


def test_opset_7_is_read_as_8():
    assert from_proto(parse(7)).opset == 8


def test_opset_8_only_adds_to_opset_7():
    """Whatever changed with opset 8 takes all that opset 7 took."""
    defs = onnx.defs
    changed = [s for s in defs.get_all_schemas_with_history() if s.since_version == 8]
    assert changed
    for new in [s for s in changed if s.domain == ""]:
        if not defs.has(new.name, 7):
            continue  # new with opset 8
        old = defs.get_schema(new.name, 7)
        if new.name == "Scan":
            continue
        assert set(old.attributes) <= set(new.attributes), new.name
        assert [i.name for i in old.inputs] == [i.name for i in new.inputs][: len(old.inputs)]
        assert len(old.outputs) <= len(new.outputs)
        for attribute in set(new.attributes) - set(old.attributes):
            assert not new.attributes[attribute].required, new.name


def test_sizes_below_zero_are_free():
    proto = parse()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert from_proto(proto).graph.inputs[0].shape[0] is None

"""Which activations become neurons, and why the others do not."""

import onnx.parser
import pytest

from graphpass import stages
from graphpass.model import from_proto
from graphpass.plan import RefusedConversion, make_plan
from graphpass_runtime.errors import ModelError, OptionError

K = "float[3,3,1,1] k = {1,2,3,4,5,6,7,8,9}, float zero = {0.0}, float six = {6.0}, float T = {4.0}"


def normalised(body, out="y", opset=17):
    model = from_proto(
        onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["": {opset}, "graphpass": 1]>'
            f" g (float[N,3,4,4] x) => (float {out}) <{K}> {{ {body} }}"
        ),
        name="net.onnx",
    )
    stages.normalise(model)
    return model


def plan(body, **options):
    return make_plan(normalised(body, options.pop("out", "y")), **options)


def verdicts(found):
    return {a.name: a.status for a in found.activations}


CHAIN = "a = Conv (x, k) r = Relu (a) b = Conv (r, k) s = Relu (b) c = Conv (s, k) y = Relu (c)"


def test_first_activation_stays_analog_as_in_the_paper():
    found = plan(CHAIN)
    assert verdicts(found) == {"r": "kept", "s": "converted", "y": "converted"}
    assert "first activation" in found.activations[0].reason
    assert found.converted == ["s", "y"]
    assert found.activations[1].reason == ""


def test_first_activation_spikes_when_asked():
    assert plan(CHAIN, first_activation="spiking").converted == ["r", "s", "y"]


def test_first_activation_spikes_when_it_is_exact():
    body = CHAIN.replace("Relu (a)", "graphpass.QCFS (a, six, T)")
    assert plan(body).converted == ["r", "s", "y"]


def test_first_activation_spikes_when_nothing_else_would():
    assert plan("a = Conv (x, k) y = Relu (a)").converted == ["y"]


def test_all_activations_without_a_predecessor_are_first():
    body = "r = Relu (x) n = Neg (x) s = Relu (n) a = Add (r, s) b = Conv (a, k) y = Relu (b)"
    assert verdicts(plan(body)) == {"r": "kept", "s": "kept", "y": "converted"}


@pytest.mark.parametrize("name", ["s", "second"])
def test_kept_by_the_name_of_tensor_or_node(name):
    found = plan(CHAIN.replace("s = Relu", "[second] s = Relu"), keep=[name])
    assert verdicts(found)["s"] == "kept"
    assert [a.reason for a in found.activations if a.name == "s"] == ["kept on request"]


def test_what_is_kept_between_neurons_is_an_island():
    found = plan(CHAIN, keep=["s"], first_activation="spiking")
    assert verdicts(found) == {"r": "converted", "s": "refused", "y": "converted"}
    assert [r.node.outputs[0].name for r in found.refused] == ["s"]


def test_unknown_name_to_keep():
    with pytest.raises(OptionError, match=r"no activation 'nope'.*r, s, y"):
        plan(CHAIN, keep=["nope"])


@pytest.mark.parametrize(
    ("body", "hint"),
    [("y = Conv (x, k)", "Relu, Clip"), ("y = Sigmoid (x)", "only Sigmoid")],
)
def test_nothing_to_convert_is_an_error(body, hint):
    with pytest.raises(ModelError, match=hint):
        plan(body)


def test_function_that_fits_no_neuron_is_named_where_there_is_no_other_activation():
    body = "a = Conv (x, k) p = Abs (a) q = Sub (p, six) [waves] w = Abs (q) y = Conv (w, k)"
    with pytest.raises(ModelError, match=r"no activation to convert: .* rises and falls more"):
        plan(body)


def test_nothing_left_to_convert_is_an_error():
    with pytest.raises(ModelError, match="no activation to convert"):
        plan("y = Relu (x)", keep=["y"])


def test_others_in_front_and_behind():
    body = "t = Tanh (x) r = Relu (t) a = Conv (r, k) s = Relu (a) b = Conv (s, k) y = Softmax (b)"
    found = {a.name: (a.operator, a.status, a.reason) for a in plan(body).activations}
    assert found["t"] == ("Tanh", "kept", "reads no spikes")
    assert found["y"][:2] == ("Softmax", "kept")
    assert "behind the last neuron" in found["y"][2]


def test_every_refusal_is_listed():
    pool = "MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]>"
    body = (
        f"r = Relu (x) a = Sigmoid (r) s = Relu (a) p = {pool} (s)"
        f" d = Conv (s, k) q = {pool} (d) e = Add (p, q) y = Relu (e)"
    )
    found = plan(body, first_activation="spiking")
    assert [refused.node.op for refused in found.refused] == ["Sigmoid", "MaxPool"]
    assert verdicts(found) == {
        "r": "converted",
        "a": "refused",
        "s": "converted",
        "q": "refused",
        "y": "converted",
    }
    error = RefusedConversion(found, where="net.onnx")
    assert error.plan is found
    assert str(error) == (
        "net.onnx: Sigmoid node 'a' is not linear, and reads spikes on the way to another neuron"
        " (and 1 more); keep the activations before it (--keep), or remove it, or let it compute on"
        " rates (--islands allow)"
    )


def test_a_function_that_turns_too_often_is_refused_for_that():
    cubic = "m = Mul (b, b) n = Mul (m, b) f = Sub (n, b)"
    body = f"a = Conv (x, k) r = Relu (a) b = Conv (r, k) {cubic} c = Conv (f, k) y = Relu (c)"
    found = plan(body, first_activation="spiking")
    assert "belongs to a function of one current that rises and falls more than once; use an" in (
        str(found.refused[0])
    )


@pytest.mark.parametrize(
    ("activation", "operator", "theta"),
    [
        ("Relu (a)", "Relu", None),
        ("Clip (a, zero, six)", "Clip", 6.0),
        ("graphpass.QCFS (a, six, T)", "QCFS", 6.0),
    ],
)
def test_thresholds_that_are_known(activation, operator, theta):
    (found,) = plan(f"a = Conv (x, k) y = {activation}").activations
    assert (found.operator, found.channels) == (operator, 3)
    assert (found.threshold_min, found.threshold_max) == (theta, theta)


def test_a_function_that_no_neuron_can_stand_for_is_an_island():
    """Slopes along the rows, behind channels on the last axis; its two operators stay two."""
    body = (
        "r = Relu (x) a = MatMul (r, m) b = Mul (a, rows) f = Max (a, b) c = MatMul (f, m)"
        " s = Relu (c) y = MatMul (s, m)"
    )
    text = f"float[4,1] rows = {{0.5,0.25,0.5,0.25}}, float[4,4] m = {{{','.join('1' * 16)}}}"

    def of(islands):
        model = from_proto(
            onnx.parser.parse_model(
                '<ir_version: 8, opset_import: ["": 17]>'
                f" g (float[N,3,4,4] x) => (float[N,3,4,4] y) <{text}> {{ {body} }}"
            )
        )
        stages.normalise(model)
        return make_plan(model, first_activation="spiking", islands=islands)

    forbidden, allowed = of("forbid"), of("allow")
    assert [str(r.node.op) for r in forbidden.refused] == ["Max"]
    assert "thresholds along [2], and channels along [3]" in forbidden.activations[1].reason
    assert forbidden.islands_would_help
    assert verdicts(allowed) == {"r": "converted", "f": "island", "s": "converted"}
    assert allowed.functions == ()
    assert not allowed.refused


def test_verdicts_are_plain_values():
    found = plan(CHAIN).activations[1]
    assert found.to_json() == {
        "name": "s", "operator": "Relu", "status": "converted", "reason": "", "channels": 3,
        "threshold_min": None, "threshold_max": None, "work": None,
    }  # fmt: skip


def test_same_graph_same_plan():
    assert plan(CHAIN).activations == plan(CHAIN).activations


def test_activations_in_bodies_are_named():
    body = (
        "m = ReduceMax <keepdims = 0> (x) more = Less (m, six) y = If (more) <"
        " then_branch = t () => (float[N,3,4,4] p) { p = Relu (x) },"
        " else_branch = e () => (float[N,3,4,4] q) { q = Sigmoid (x) }>"
    )
    with pytest.raises(ModelError, match=r"If node '.*' has the activations \(Relu, Sigmoid\) in"):
        plan(body)

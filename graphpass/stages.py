"""The stages of a conversion: each takes a model one step further, in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphpass import dialect, editing
from graphpass.activation import upper_bound
from graphpass.calibration import sensitivity
from graphpass.calibration.extremes import Extremes
from graphpass.calibration.measuring import Measuring
from graphpass.calibration.ranges import record_currents
from graphpass.calibration.rules import Calibration
from graphpass.consistency import check_sizes
from graphpass.forms import ALL_FORMS, FORMS
from graphpass.grids import find_grids, measurable, read_by_layers
from graphpass.model import Model, copied, infer_shapes
from graphpass.neurons import Carrier, Neuron, daqcfs, parameters
from graphpass.passes.base import Settled, run_all
from graphpass.passes.bound_activations import BoundActivations
from graphpass.passes.bound_functions import BoundFunctions, Bounds, bounds_between
from graphpass.passes.drop_empty import DropEmpty
from graphpass.passes.expose_states import state_elements
from graphpass.passes.fold_batch_norm import FoldBatchNorm
from graphpass.passes.fold_constants import FoldConstants
from graphpass.passes.fold_shapes import FoldShapes
from graphpass.passes.free_batch import FreeBatch
from graphpass.passes.halve_precision import HalvePrecision
from graphpass.passes.keep_integer_kernels import KeepIntegerKernels
from graphpass.passes.lower_quant import LowerQuant
from graphpass.passes.move_activation import MoveActivation
from graphpass.passes.move_functions import MoveFunctions
from graphpass.passes.move_rectifier import MoveRectifier
from graphpass.passes.order_rows import OrderRows
from graphpass.passes.pad_constants import PadConstants
from graphpass.passes.part_populations import PartPopulations
from graphpass.passes.quantise_activations import QuantiseActivations
from graphpass.passes.recognise_qcfs import RecogniseQCFS
from graphpass.passes.recognise_quantiser import RecogniseQuantiser
from graphpass.passes.recognise_signs import RecogniseSigns
from graphpass.passes.spell_clip import SpellClip
from graphpass.passes.spell_gelu import SpellGelu
from graphpass.passes.spell_integer_weights import SpellIntegerWeights
from graphpass.passes.spell_log_sigmoid import SpellLogSigmoid
from graphpass.passes.spell_qoperator import SpellQOperator
from graphpass.passes.spell_retired import SpellRetired
from graphpass.passes.spell_subsampling import SpellSubsampling
from graphpass.passes.split_fused import SplitFused
from graphpass.passes.spread_skips import SpreadSkips
from graphpass.passes.unify_precision import UnifyPrecision
from graphpass.plan import Plan
from graphpass.population_choice import choose_populations
from graphpass.regions import find_regions
from graphpass.timeflow import TimeFlow, infer
from graphpass.verdicts import Activation, converted, note_populations, note_thresholds
from graphpass_runtime.errors import ModelError, OptionError
from graphpass_runtime.metadata import FileRecord, Stage

_MOST_ELEMENTS = 2**62  # sizes come from files: the product of some may be anything

# Sizes that became constants make floats constant, and these again sizes: paddings that are
# computed, one behind the other.
_FOLDS = [
    FoldConstants(),
    LowerQuant(),
    SpellQOperator(),
    Settled([FoldShapes(), FoldConstants()]),
]
# Each finds the batch behind what the other has mended.
_BATCH = [OrderRows(), FreeBatch(), OrderRows(), FreeBatch()]


def normalise(
    model: Model,
    preprocess: dict[str, Any] | None = None,
    rounded_currents: str = "spike",
    steps: int | None = None,
) -> None:
    """Stage 0: one spelling for each thing.

    Raises:
        ModelError: the network computes tensors without elements.
    """
    model.record = FileRecord(Stage.NORMALISED, preprocess=preprocess)
    infer_shapes(model)
    run_all(
        model,
        [
            SpellRetired(),
            SplitFused(),
            UnifyPrecision(),
            SpellGelu(),
            SpellLogSigmoid(),
            SpellSubsampling(),
            *_FOLDS,
            DropEmpty(),
            PadConstants(),
            *_BATCH,
            SpellIntegerWeights(),
            FoldBatchNorm(),
            MoveRectifier(),
            RecogniseQuantiser(rounded_currents, steps),
            KeepIntegerKernels(),
            RecogniseQCFS(),
            RecogniseSigns(),
            SpellClip(),
            MoveActivation(),
            MoveFunctions(),
        ],
    )
    check_sizes(model)


def bound(
    model: Model,
    plan: Plan,
    maxima: Mapping[str, NDArray[np.float32]],
    extremes: Extremes | None = None,
) -> None:
    """Stage 1: a threshold for every activation that will spike.

    Args:
        model: stage 0.
        plan: what will spike.
        maxima: largest current per channel of every `unbounded` activation, ``[C]``.
        extremes: smallest and largest current per channel of `read_by_functions`.
    """
    verdicts, bounds = _bounds_of_functions(model, plan, extremes or {})
    run_all(model, [BoundActivations(plan.rectifiers, plan.flow, maxima), BoundFunctions(bounds)])
    assert model.record is not None, "stage 0 has a record"
    verdicts_before = model.record.activations
    model.note(
        stage=Stage.CLIP,
        activations=(*verdicts_before, *(verdict.to_json() for verdict in verdicts)),
    )


def read_by_functions(model: Model, plan: Plan) -> dict[str, int | None]:
    """Currents of the activations that are no rectifiers, with the axis of their channels."""
    if not plan.functions:
        return {}
    regions = find_regions(model)
    return {
        regions[name].source.name: plan.flow.types[name].channel_axis for name in plan.functions
    }


def _bounds_of_functions(
    model: Model, plan: Plan, extremes: Extremes
) -> tuple[list[Activation], dict[str, Bounds]]:
    """Verdicts with a row for every neuron, and the bounds of those behind functions."""
    regions = find_regions(model) if plan.functions else {}
    verdicts: list[Activation] = []
    bounds: dict[str, Bounds] = {}
    for verdict in plan.activations:
        if verdict.name not in plan.functions:
            verdicts.append(verdict)
            continue
        region, axis = regions[verdict.name], plan.flow.types[verdict.name].channel_axis
        found = bounds_between(model, region, *extremes[region.source.name], axis)
        verdicts += [replace(verdict, name=name) for name in found]
        bounds |= found
    return verdicts, bounds


def measure_sensitivities(model: Model, measuring: Measuring) -> dict[str, float]:
    """How much of what each activation of stage 1 rounds reaches the output."""
    names = converted(model)
    return sensitivity.measure_sensitivities(
        model, names, infer(model, names, islands=True), measuring
    )


def quantise(
    model: Model,
    steps: int,
    levels: Mapping[str, int] | None = None,
    population: int = 1,
    sensitivities: Callable[[], Mapping[str, float]] = dict,
) -> None:
    """Stage 2: DA-QCFS at T levels, or at the fewer of some, shift 0, amplitude theta/T.

    Args:
        model: stage 1.
        steps: T.
        levels: time-steps of the neurons that have fewer, by name.
        population: neurons for each value, where that pays.
        sensitivities: calls `measure_sensitivities`, where there is data.

    Raises:
        OptionError: levels of what is no neuron, or outside of 1 to T.
    """
    fewer, names = levels or {}, converted(model)
    members = choose_populations(
        *(model, names, lambda name: fewer.get(name, steps), population, sensitivities)
    )
    run_all(model, [SpreadSkips(members, names)])
    note_populations(model, members)
    names = converted(model)
    for name, count in fewer.items():
        if name not in names or not 1 <= count <= steps:
            raise OptionError(
                f"{count} time-steps for '{name}'",
                remedy=f"use 1 to {steps}, for activations that are converted",
            )
    flow = infer(model, names, islands=True)
    run_all(model, [QuantiseActivations(names, flow, steps, fewer, members)])
    model.note(stage=Stage.DAQCFS)
    note_thresholds(model)


def own_levels(model: Model, steps: int) -> dict[str, int]:
    """Levels of the neurons of stage 1, where each keeps those that it was trained with.

    Empty unless all were trained as quantisers, and T is enough for each. Where they differ
    then, the network stays the same at no other levels; and one level is a step, which no ramp
    of more levels comes near.
    """
    names = set(converted(model))
    trained = {
        node.outputs[0].name: int(editing.scalar(node.inputs[2]) or 0)
        for node in model.graph.nodes
        if editing.is_dialect(node, dialect.QCFS) and node.outputs[0].name in names
    }
    if len(trained) < len(names) or max(trained.values(), default=0) > steps:
        return {}
    found = set(trained.values())
    return trained if len(found) > 1 or found == {1} else {}


def calibrate(model: Model, rule: str, calibration: Calibration | None) -> None:
    """Stage 3: threshold, shift and amplitude of every neuron.

    Args:
        model: stage 2.
        rule: what the file says that they come from.
        calibration: finds them; None leaves them as they are.
    """
    summary: dict[str, Any] = {"rule": rule}
    if calibration is not None:
        neurons, found = calibration(model)
        neurons = tuple(_above_smallest(neuron) for neuron in neurons)
        by_name = {neuron.name: neuron for neuron in neurons}
        for node in model.graph.nodes:
            if editing.is_dialect(node, dialect.DAQCFS):
                daqcfs.build(model, node, by_name[node.outputs[0].name])
        editing.tidy(model)
        infer_shapes(model)
        model.note(neurons=neurons)
        summary |= found
    model.note(stage=Stage.CALIBRATED, calibration=summary)
    note_thresholds(model)


def _above_smallest(neuron: Neuron) -> Neuron:
    """A calibration divides currents by one another, which may be next to nothing."""
    smallest = np.float32(parameters.SMALLEST_THRESHOLD)
    return replace(neuron, threshold=np.maximum(neuron.threshold, smallest))


def check_form(model: Model, form: str, steps: int) -> None:
    """Refuse, before anything is measured, what the form cannot be written in.

    Raises:
        ModelError: the opset is too old.
        OptionError: T is too large.
    """
    chosen = ALL_FORMS[form]
    if model.opset < chosen.oldest_opset:
        raise ModelError(
            f"opset {model.opset} is too old for form '{form}'",
            where=model.name,
            remedy=f"export it with opset {chosen.oldest_opset} or newer, or use --form counts",
        )
    if chosen.most_steps is not None and steps > chosen.most_steps:
        raise OptionError(
            f"T = {steps} time-steps do not fit into form '{form}'",
            remedy=f"use 1 to {chosen.most_steps}, or --form counts",
        )
    neurons = model.record.neurons if model.record else ()
    if chosen.carrier is Carrier.SERIAL and any(n.firing_steps != steps for n in neurons):
        raise OptionError(
            "serial neurons have all the same number of time-steps",
            remedy="use a parallel form, or the same T for every layer",
        )


def rounds_currents(form: str) -> bool:
    """Does the form need the ranges of currents?"""
    return form in FORMS and FORMS[form].prepare is not None


def without_range(model: Model, form: str) -> list[str]:
    """Currents whose range the form needs, and that must be measured."""
    return find_grids(_counting(model, form)).unknown


def measure_currents(model: Model, form: str, measuring: Measuring) -> None:
    """Measure the currents that the form rounds, in the network that it rounds them in."""
    counting = _counting(model, form)
    found = record_currents(counting, measurable(counting), read_by_layers(counting), measuring)
    model.note(ranges=found.ranges, means=found.means)


def _counting(model: Model, form: str) -> Model:
    """The float network that the form rounds, from a copy of stage 3."""
    prepare = FORMS[form].prepare
    assert prepare is not None, "asked for forms that round currents"
    counting = copied(model)
    infer_shapes(counting)
    run_all(counting, prepare())
    return counting


def emit(model: Model, form: str, precision: str = "fp32") -> None:
    """Stage 4: spiking neurons; in a form with trains, the time axis appears."""
    assert model.record is not None, "stage 3 has a record"
    assert model.record.steps is not None, "stage 3 has a T"
    steps, chosen = model.record.steps, ALL_FORMS[form]
    if chosen.carrier is not Carrier.COUNT:
        run_all(model, [PartPopulations()])
    flow = infer(model, [neuron.name for neuron in model.record.neurons], islands=True)
    declared = {tensor.name: tensor.shape for tensor in model.graph.outputs if tensor.shape}
    run_all(model, chosen.passes(flow, steps))
    if precision == "fp16":
        run_all(model, [HalvePrecision()])
    _forget_folded_shapes(model)
    for tensor in model.graph.outputs:  # an inference may take what is averaged for a train
        if isinstance(tensor, gs.Variable):
            tensor.shape = declared.get(tensor.name, tensor.shape)
    peak = _peak_elements(flow, steps if chosen.carrier is Carrier.TRAIN else 1)
    if peak is not None and chosen.carrier is Carrier.SERIAL:
        peak += state_elements(flow, [neuron.name for neuron in model.record.neurons])
    model.note(stage=Stage.SPIKING, form=form, peak_elements=peak)


def unbounded(model: Model, names: Collection[str]) -> list[str]:
    """Rectifiers among `names` whose threshold has to be measured."""
    return [
        node.outputs[0].name
        for node in model.graph.nodes
        if node.outputs
        and node.outputs[0].name in set(names)
        and editing.is_standard(node, "Relu", "Clip")
        and upper_bound(node) is None
    ]


def largest_tensor(model: Model) -> int:
    """Elements per sample of the largest tensor whose size is known."""
    variables = [t for t in model.graph.tensors().values() if isinstance(t, gs.Variable)]
    shapes = [tensor.shape[1:] for tensor in variables if tensor.shape]
    known = [shape for shape in shapes if all(isinstance(size, int) for size in shape)]
    return max((math.prod(shape) for shape in known), default=1)


def lossless(model: Model) -> bool:
    """Is every neuron of stage 2 a QCFS at the levels it was trained with?"""
    assert model.record is not None, "stage 2 has a record"
    return all(neuron.trained_levels == neuron.levels for neuron in model.record.neurons)


def _forget_folded_shapes(model: Model) -> None:
    """Inferred shapes name N what is T*N now; ONNX Runtime finds them itself."""
    interface = {id(tensor) for tensor in [*model.graph.inputs, *model.graph.outputs]}
    for tensor in model.graph.tensors().values():
        if isinstance(tensor, gs.Variable) and id(tensor) not in interface:
            tensor.shape = tensor.dtype = None


def _peak_elements(flow: TimeFlow, steps: int) -> int | None:
    """Elements per sample of the largest tensor, time included; None if none is known."""
    sizes = []
    for name, kind in flow.types.items():
        features = [s for axis, s in enumerate(flow.shapes[name]) if axis != kind.batch_axis]
        if all(isinstance(size, int) for size in features):
            repeats = steps if kind.varies else 1
            sizes.append(math.prod(features) * kind.inner * repeats)
    return min(max(sizes), _MOST_ELEMENTS) if sizes else None

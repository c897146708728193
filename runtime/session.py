"""Running a model: any batch size, bounded memory, errors in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphpass_runtime.device_io import Bound, device_of
from graphpass_runtime.errors import DataError, ModelError, OptionError
from graphpass_runtime.execution import execute
from graphpass_runtime.feeds import (
    Array,
    Chunk,
    FedModel,
    TensorSpec,
    batch_inputs,
    check_feed,
    split,
    zeros,
)
from graphpass_runtime.loading import ModelSource, as_array, describe_session
from graphpass_runtime.metadata import FileRecord
from graphpass_runtime.neuron import Neuron
from graphpass_runtime.placement import Placement, measure_placement
from graphpass_runtime.spikes import count_spikes, sum_per_channel
from graphpass_runtime.stepping import Stepper

__all__ = ["Session", "TensorSpec"]

_FLOAT_BYTES = 4
# Tensors of the largest size that ONNX Runtime may hold at once: a node's inputs
# and output, and the other branch of a residual block.
_LIVE_TENSORS = 4


class Session:
    """An ONNX model, ready to run; writes no files.

    Args:
        model: path of an ONNX file, or its bytes (external data of bytes is looked
            for in the working folder), or bytes with weights to feed in every run.
        provider: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``; ``auto`` takes CUDA or the CPU.
        threads: threads that one operator may use; None leaves it to ONNX Runtime,
            which takes one per core.
        provider_options: ONNX Runtime's options for CUDA, or for TensorRT.
        extra_outputs: tensors of the graph to hand out beside its outputs. That
            can change how ONNX Runtime fuses around them, so measure speed without.
        memory_limit: bytes of intermediate tensors to aim for; a larger batch is run
            in pieces. Needs the file's own record of its largest tensor.
        spinning: idle threads wait actively, which suits one session on its own. Switch
            it off for sessions that are run in turn, above all to measure them.
        tf32: let CUDA round the inputs of fp32 products: faster, but not the same spikes.
        cuda_graph: record each bound batch and replay it; only through `bind`, on a GPU.
        file_order: run nodes in the order of the file, not in ONNX Runtime's own: for files
            that put what reads a large tensor right behind it, to hold few at a time.

    Attributes:
        record: what a graphpass file says about itself; None for any other file.
        provider: what it runs on, ``cpu``, ``cuda`` or ``tensorrt``.
        inputs: the inputs, without initializers and without states: a file that computes
            one time-step is run T times here.
        outputs: the outputs, extra ones last, without states.
        where: what the model is called in an error: its path.
        batch: the batch size that the file fixes; None when it is free.

    Raises:
        ModelError: the file is missing, damaged, or nothing that ONNX Runtime can run.
        ProviderError: no ONNX Runtime, or ``cuda`` where there is none.
        OptionError: an argument that makes no sense.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | FedModel,
        *,
        provider: str = "auto",
        threads: int | None = None,
        provider_options: Mapping[str, Any] | None = None,
        extra_outputs: Sequence[str] = (),
        memory_limit: int = 1 << 30,
        spinning: bool = True,
        tf32: bool = False,
        cuda_graph: bool = False,
        file_order: bool = False,
    ) -> None:
        if memory_limit < 1:
            raise OptionError(f"memory limit is {memory_limit} bytes", remedy="give 1 or more")
        self._memory_limit = memory_limit
        self._weights = dict(model.weights) if isinstance(model, FedModel) else {}
        model = model.content if isinstance(model, FedModel) else model
        self._source = ModelSource(
            model if isinstance(model, bytes) else Path(model),
            provider,
            provider_options,
            threads,
            spinning,
            tf32,
            cuda_graph,
            file_order,
        )
        self.where = self._source.where

        self._ort, self.provider = self._source.create()
        # Checked before anything is read: names and metadata may be no text at all.
        self._declared = {spec.name for spec in describe_session(self._ort, where=self.where)[1]}
        if new := self._undeclared(extra_outputs):
            self._ort, self.provider = self._source.create(new)
        self._extra_count = len(new)
        # A second session that shows the neurons' spikes, made when first needed.
        self._probe: Any = None

        inputs, outputs, props = describe_session(self._ort, where=self.where)
        self.record = FileRecord.from_props(props, where=self.where)
        states = self.record.states if self.record else ()
        hidden = {name for state in states for name in (state.input, state.output)}
        hidden |= self._weights.keys()
        self.inputs = tuple(spec for spec in inputs if spec.name not in hidden)
        self.outputs = tuple(spec for spec in outputs if spec.name not in hidden)
        self._batched, self.batch = batch_inputs(self.inputs)
        self._ort = self._stepped(self._ort)

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Run a batch of any size.

        Args:
            feeds: an array for every input, of exactly its dtype.
            outputs: names of the outputs to compute; None = all.

        Returns:
            Output name -> array, the batch on axis 0.

        Raises:
            DataError: feeds that do not fit the inputs, or a batch that had to be cut
                up for a model whose output has no batch axis to join the results on.
            OptionError: no such output, or a session for CUDA graphs.
            ModelError: ONNX Runtime fails while running.
        """
        names = self._names(outputs)
        if self._source.cuda_graph:
            raise OptionError(
                "run() gives a CUDA graph other addresses every time",
                where=self.where,
                remedy="use bind(), or leave cuda_graph out",
            )
        pieces: list[dict[str, Array]] = []
        for chunk in self._chunks(feeds, _LIVE_TENSORS + self._extra_count):
            results = self._execute(self._ort, names, chunk)
            if not chunk.whole:
                results = {k: self._rows(k, array, chunk) for k, array in results.items()}
            pieces.append(results)
        if len(pieces) == 1:
            return pieces[0]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in names}

    def bind(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Bound:
        """Keep a batch on the device, to run it again and again without copies.

        The batch is run whole: it is not cut up to fit the memory. A file of one time-step
        is run T times, its states on the device too.

        Args:
            feeds: as for `run`; every later batch has the same shapes.
            outputs: names of the outputs to compute; None = all.

        Raises:
            DataError: as for `run`, or a batch of another size than the file fixes.
            OptionError: no such output.
            ModelError: ONNX Runtime fails while running.
        """
        names = self._names(outputs)
        chunk = next(split(self._checked(feeds), self._batched, literal=self.batch, limit=None))
        if not chunk.whole:
            raise DataError(
                f"the batch size is fixed to {self.batch}",
                where=self.where,
                remedy=f"bind exactly {self.batch} samples",
            )
        stepper = self._ort if isinstance(self._ort, Stepper) else None
        return Bound(
            self._ort if stepper is None else stepper.session,
            {**chunk.feeds, **self._weights},
            names,
            device=device_of(self.provider, self._source.options),
            cuda_graph=self._source.cuda_graph,
            where=self.where,
            steps=None if stepper is None else stepper.steps_for(chunk.feeds),
        )

    def placement(self, feeds: Mapping[str, Array] | None = None) -> Placement:
        """Which execution provider runs each node of the optimised graph.

        Args:
            feeds: a batch to run, as for `run`; None runs one sample of zeros.

        Raises:
            DataError: as for `run`, or no feeds for a model whose inputs are of no
                fixed shape.
            ModelError: ONNX Runtime fails while running.
        """
        arrays = self._checked(zeros(self.inputs, where=self.where) if feeds is None else feeds)
        batch = self.samples_in(arrays)
        for state in self.record.states if self.record else ():
            arrays[state.input] = np.zeros(state.shape_of(batch), np.float32)
        return measure_placement(
            replace(self._source, cuda_graph=False), {**arrays, **self._weights}
        )

    def samples_in(self, feeds: Mapping[str, Array]) -> int:
        """Rows of the inputs that carry the batch; 1 where none does."""
        return len(feeds[self._batched[0]]) if self._batched else 1

    def spike_counts(self, feeds: Mapping[str, Array]) -> dict[str, NDArray[np.int32]]:
        """Spikes of every neuron, summed over time; of those of a population, as the file has them.

        Returns:
            Neuron name -> int32 array ``[N, ...]``; a batch axis that is not the
            first one in the file is moved to the front.

        Raises:
            ModelError: the file has no spiking neurons, or not where it says.
            DataError: as for `run`.
        """
        pieces: dict[str, list[NDArray[np.int32]]] = {}
        for neuron, counts in self._counts(feeds):
            moved = np.moveaxis(counts, neuron.batch_axis, 0)
            pieces.setdefault(neuron.name, []).append(moved)
        return {name: np.concatenate(parts) for name, parts in pieces.items()}

    def firing_rates(self, feeds: Mapping[str, Array]) -> dict[str, NDArray[np.float64]]:
        """Spikes per neuron and time-step, from 0 to 1, averaged over the batch.

        Returns:
            Neuron name -> float64 array ``[C]``, or ``[1]`` without a channel axis.

        Raises:
            ModelError: the file has no spiking neurons, or not where it says.
            DataError: as for `run`.
        """
        spikes: dict[str, NDArray[np.float64]] = {}
        slots: dict[str, int] = {}  # neurons of a channel, times time-steps, times samples
        for neuron, counts in self._counts(feeds):
            total = sum_per_channel(neuron, counts)
            spikes[neuron.name] = spikes.get(neuron.name, 0) + total
            count = counts.size // max(1, total.size) * self._steps(neuron) * neuron.together
            slots[neuron.name] = slots.get(neuron.name, 0) + count
        return {name: total / max(1, slots[name]) for name, total in spikes.items()}

    def _counts(self, feeds: Mapping[str, Array]) -> Iterator[tuple[Neuron, NDArray[np.int32]]]:
        """Per piece of the batch and neuron: its counts, the batch axis in its place."""
        neurons = self.record.neurons if self.record else ()
        if not neurons:
            raise ModelError(
                "has no spiking neurons", where=self.where, remedy="run graphpass convert on it"
            )
        if self.record and self.record.form == "scan":
            raise ModelError(
                "keeps its spikes inside its Scan",
                where=self.where,
                remedy="convert with --serial step, which shows them",
            )
        names = list(dict.fromkeys(neuron.spikes for neuron in neurons))
        if self._probe is None:
            # Not in the session that `run` uses: outputs in its middle undo fusions.
            source = replace(self._source, cuda_graph=False)
            self._probe = self._stepped(source.create(self._undeclared(names))[0], names)
        for chunk in self._chunks(feeds, _LIVE_TENSORS + len(names)):
            tensors = self._execute(self._probe, names, chunk)
            for neuron in neurons:
                spikes = tensors[neuron.spikes]
                try:
                    counts = count_spikes(neuron, spikes, self._steps(neuron))
                except ValueError as error:
                    raise ModelError(
                        f"{neuron.spikes!r} of shape {spikes.shape} is not as recorded: {error}",
                        where=self.where,
                        remedy="convert the ANN again",
                    ) from error
                if chunk.valid != chunk.size:
                    # Rows that repeat the last sample must not be counted.
                    rows = self._rows(neuron.spikes, counts.swapaxes(0, neuron.batch_axis), chunk)
                    counts = rows.swapaxes(0, neuron.batch_axis)
                yield neuron, counts

    def _steps(self, neuron: Neuron) -> int:
        steps = self.record.steps if self.record else None
        return steps or neuron.firing_steps

    def _stepped(self, session: Any, summed: Sequence[str] = ()) -> Any:
        """The session, or what runs it once per time-step if its file has states."""
        if self.record is None or not self.record.states:
            return session
        if not self.record.steps:
            raise ModelError(
                "has states but no number of steps",
                where=self.where,
                remedy="convert the ANN again",
            )
        return Stepper(
            session,
            self.record.states,
            self.record.steps,
            device=device_of(self.provider, self._source.options),
            where=self.where,
            batched=self._batched,
            summed=summed,
        )

    def _names(self, outputs: Sequence[str] | None) -> list[str]:
        """Outputs by name, each once; all of them for None."""
        known = [output.name for output in self.outputs]
        names = known if outputs is None else list(dict.fromkeys(outputs))
        if unknown := [name for name in names if name not in known]:
            raise OptionError(
                f"no output {unknown[0]!r}",
                where=self.where,
                remedy=f"the outputs are {', '.join(known)}",
            )
        return names

    def _undeclared(self, names: Sequence[str]) -> list[str]:
        return [name for name in dict.fromkeys(names) if name not in self._declared]

    def _chunks(self, feeds: Mapping[str, Array], live_tensors: int) -> Iterator[Chunk]:
        arrays = self._checked(feeds)
        peak = self.record.peak_elements if self.record else None
        limit = None
        if peak is not None and peak > 0:
            limit = max(1, self._memory_limit // (_FLOAT_BYTES * live_tensors * peak))
        return split(arrays, self._batched, literal=self.batch, limit=limit, where=self.where)

    def _checked(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        wanted = [spec.name for spec in self.inputs]
        if missing := [name for name in wanted if name not in feeds]:
            raise DataError(
                f"no data for input {missing[0]!r}",
                where=self.where,
                remedy=f"feed {', '.join(wanted)}",
            )
        if unknown := [name for name in feeds if name not in wanted]:
            raise DataError(
                f"no input {unknown[0]!r}",
                where=self.where,
                remedy=f"the inputs are {', '.join(wanted)}",
            )
        arrays = {name: np.asarray(feeds[name]) for name in wanted}
        for spec in self.inputs:
            batched = spec.name in self._batched
            check_feed(spec, arrays[spec.name], batched=batched, where=self.where)
        return arrays

    def _rows(self, name: str, array: Array, chunk: Chunk) -> Array:
        """The rows of a piece's result that are not padding."""
        if array.ndim and array.shape[0] == chunk.size:
            return array[: chunk.valid]
        size = self.batch or chunk.limit
        raise DataError(
            f"the batch was run in pieces of {size}, but {name!r} of shape {array.shape} "
            "has no batch axis to join them on",
            where=self.where,
            remedy=f"feed {'exactly' if self.batch else 'at most'} {size} samples at a time",
        )

    def _execute(self, session: Any, names: list[str], chunk: Chunk) -> dict[str, Array]:
        fed = {**chunk.feeds, **self._weights}
        found = execute(lambda options: session.run(names, fed, options), where=self.where)
        return dict(zip(names, map(as_array, found), strict=True))

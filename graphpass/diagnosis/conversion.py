"""Diagnosing a conversion while it is made: the same survey, at a bounded cost."""

from __future__ import annotations

from collections.abc import Sequence

from graphpass.calibration.measuring import Progress
from graphpass.diagnosis.pair import why_no_layers
from graphpass.diagnosis.report import Diagnosis
from graphpass.diagnosis.substitution import Substitution
from graphpass.diagnosis.survey import survey
from graphpass.model import Model, infer_shapes
from graphpass.running import OpenSession
from graphpass_runtime.metadata import FileRecord
from graphpass_runtime.model_data import Data, PathLike, open_model_data
from graphpass_runtime.preprocess import Preprocess

_RUNS = 512  # samples times half-converted networks, of which there is one for each layer
_SAMPLES = (8, 16)  # at least, and at most


def diagnose_conversion(
    ann: Model,
    files: Sequence[tuple[PathLike, FileRecord | None]],
    record: FileRecord,
    data: Data,
    preprocess: Preprocess | None,
    open_session: OpenSession,
    progress: Progress,
) -> Diagnosis | None:
    """Compare the neurons of stage 3 with the ANN, on few samples.

    For most networks that costs about 500 runs of a half-converted network on one sample,
    whatever the amount of data: two to four passes of the ANN over 256 samples.

    Args:
        ann: the ANN at stage 0 or 1; it is changed.
        files: what may say how images become inputs.
        record: of stage 3.
        data: calibration data, to be read again.
        preprocess: how images become inputs, if it was given.
        open_session: as `graphpass.running.open_session`.
        progress: as for `graphpass.convert`.

    Returns:
        The diagnosis; None where calibration has changed weights.

    Raises:
        DataError: data that does not fit.
    """
    if why_no_layers(record):
        return None
    infer_shapes(ann)
    net = Substitution(ann, record.neurons, open_session)
    fewest, most = _SAMPLES
    samples = max(fewest, min(most, _RUNS // len(record.neurons)))
    source = open_model_data(data, net.inputs, files, preprocess, samples)
    return survey(net, source, progress=progress)

"""Diagnosing a conversion while it is made: the same survey, at a bounded cost."""

from __future__ import annotations

from graphpass.calibration.measuring import Progress
from graphpass.diagnosis.pair import why_no_layers
from graphpass.diagnosis.report import Diagnosis
from graphpass.diagnosis.substitution import OpenSession, Substitution, load_ann
from graphpass.diagnosis.survey import survey
from graphpass_runtime.metadata import FileRecord
from graphpass_runtime.model_data import Data, PathLike, open_model_data
from graphpass_runtime.preprocess import Preprocess

_RUNS = 512  # samples times half-converted networks, of which there is one for each layer
_SAMPLES = (8, 16)  # at least, and at most


def diagnose_conversion(
    ann: PathLike,
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
        ann: what the conversion started from: an ANN, or a file of stage 0 or 1.
        record: of stage 3.
        data: calibration data, to be read again.
        preprocess: how images become inputs, if it was given.
        open_session: opens a `Session` on the bytes of a model.
        progress: as for `graphpass.convert`.

    Returns:
        The diagnosis; None where calibration has changed weights.

    Raises:
        DataError: data that does not fit.
    """
    if why_no_layers(record):
        return None
    model = load_ann(ann)
    files = [(ann, model.record)]
    net = Substitution(model, record.neurons, open_session)
    fewest, most = _SAMPLES
    samples = max(fewest, min(most, _RUNS // len(record.neurons)))
    source = open_model_data(data, net.inputs, files, preprocess, samples)
    return survey(net, source, progress=progress)

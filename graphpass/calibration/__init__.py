"""Finding thresholds, shifts and amplitudes from data, in ordinary ONNX graphs."""

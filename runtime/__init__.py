"""Running ONNX models, SNNs above all: sessions, metadata, data, measures."""

"""Into ONNX, from torch modules and QCFS networks; the converter never imports this package."""

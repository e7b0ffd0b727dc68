"""From a trained torch student to the ONNX files that are served, each proved against the student."""

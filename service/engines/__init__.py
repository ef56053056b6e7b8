"""Runs the components of an exported repository: ONNX Runtime, OpenVINO or a Triton server."""

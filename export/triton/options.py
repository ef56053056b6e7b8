"""What may be chosen about how Triton runs a repository."""

from __future__ import annotations

from typing import Literal, NamedTuple

LARGEST_BATCH = {"image_backbone": 16, "pose_decoder": 32}
"""Largest batches of roles on Triton and in TensorRT engines: latency under load and an engine's memory grow with them.
The embedded engine takes what the manifest says."""

Device = Literal["auto", "cpu", "gpu"]
"""Where models run: 'auto' takes every GPU that Triton sees, and the CPU where there is none."""

Accelerator = Literal["none", "openvino", "tensorrt"]
"""What ONNX Runtime hands the graphs to: OpenVINO on CPUs, TensorRT on GPUs; 'none' is its own CPU or CUDA code."""


class TritonOptions(NamedTuple):
    """How Triton is to run the models.

    Attributes:
        device: where.
        accelerator: with what; it must be built into the server's ONNX Runtime backend.
        threads: CPU threads of a run, 0 for one per core.
    """

    device: Device = "auto"
    accelerator: Accelerator = "none"
    threads: int = 0

    def problem(self) -> str | None:
        """Why the choice makes no sense; None where it does."""
        if self.accelerator == "openvino" and self.device == "gpu":
            return "OpenVINO accelerates CPUs, not the device gpu"
        if self.accelerator == "tensorrt" and self.device == "cpu":
            return "TensorRT accelerates GPUs, not the device cpu"
        return None

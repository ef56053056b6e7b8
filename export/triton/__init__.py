"""The exported repository as NVIDIA Triton sees it, and a real Triton server on this machine."""

"""Category-agnostic pose estimation: the method, its data and its client.

Importing this package is cheap: torch, OpenCV and gRPC are imported by the modules that need them.

- `cape.client`: calls a running service.
- `cape.checkpoints`, `cape.models`: loads and runs a model in PyTorch (extra `export`).
- `cape.manifest`: reads the manifest of an exported repository.
- `cape.v1`: the gRPC stubs.
"""

__version__ = "0.2.0"

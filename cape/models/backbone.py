"""The image backbone as a component: bytes of an image in, feature map out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cape.configuration import BackboneConfiguration
from cape.models.efficientnet import EfficientNetLite0
from cape.models.swin import SwinV2, fold_constants

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageBackbone(nn.Module):
    """Scales, normalises and encodes crops."""

    def __init__(self, configuration: BackboneConfiguration) -> None:
        super().__init__()
        self.network: nn.Module
        self.network = SwinV2(configuration) if configuration.kind == "swinv2" else EfficientNetLite0()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD) * 255, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Encodes crops.

        Args:
            image: RGB, uint8 (or float of the same range) [B, H, W, 3].

        Returns:
            float [B, C, F, F].
        """
        return self.network(self._normalised(image))

    def begin(self, image: Tensor, blocks: int) -> Tensor:
        """The first blocks of an EfficientNet: crops as for `forward` → the map that they give."""
        assert isinstance(self.network, EfficientNetLite0), "only an EfficientNet has blocks to split at"
        return self.network.begin(self._normalised(image), blocks)

    def finish(self, maps: Tensor, blocks: int) -> Tensor:
        """The other blocks: maps from `begin` for as many → features."""
        assert isinstance(self.network, EfficientNetLite0), "only an EfficientNet has blocks to split at"
        return self.network.finish(maps, blocks)

    def first_blocks(self, blocks: int) -> list[nn.Module]:
        """The modules that `begin` runs."""
        assert isinstance(self.network, EfficientNetLite0), "only an EfficientNet has blocks to split at"
        return [self.network._conv_stem, self.network._bn0, *self.network._blocks[:blocks]]

    def _normalised(self, image: Tensor) -> Tensor:
        return ((image.to(self.mean.dtype) - self.mean) / self.std).permute(0, 3, 1, 2)

    def fold(self) -> None:
        """Turns everything that depends on weights alone into constants, in place, for export."""
        if isinstance(self.network, SwinV2):
            fold_constants(self.network)

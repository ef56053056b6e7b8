"""The visual encoder: an image becomes N vectors (CapeLLM, equation 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from cape.capellm.configuration import VisionConfiguration
from cape.models.backbone import IMAGENET_MEAN, IMAGENET_STD
from cape.models.efficientnet import EfficientNetLite0

POSITION_CHANNELS = 64
"""Sine features that tell a convolutional map's cells apart; DINOv2 has position embeddings of its own."""


class VisionTower(nn.Module):
    """DINOv2's normalised patch tokens (`x_norm_patchtokens`), or the cells of a convolutional map."""

    def __init__(self, configuration: VisionConfiguration) -> None:
        super().__init__()
        self.configuration = configuration
        self.network: nn.Module
        if configuration.kind == "dinov2":
            self.network = Dinov2Model(Dinov2Config(**configuration.architecture))
        else:
            self.network = EfficientNetLite0()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Crops uint8 [B, S, S, 3] → patches [B, C, G, G], G patches a side."""
        pixels = ((image.to(self.mean.dtype) / 255 - self.mean) / self.std).permute(0, 3, 1, 2)
        if self.configuration.kind != "dinov2":
            return self.network(pixels)
        states = self.network(pixels).last_hidden_state[:, 1:]  # without the class token
        side = self.configuration.image_size // self.configuration.patch
        return states.transpose(1, 2).unflatten(2, (side, side))


class ImageProjection(nn.Module):
    """Patches to image tokens of the language model: one linear layer (equation 2)."""

    def __init__(self, configuration: VisionConfiguration, width: int) -> None:
        super().__init__()
        self.merge = configuration.merge
        channels = configuration.channels
        self.positions: Tensor | None
        if configuration.kind == "dinov2":
            self.register_buffer("positions", None)
        else:
            self.register_buffer("positions", _sine_positions(configuration.grid), persistent=False)
            channels += POSITION_CHANNELS
        self.linear = nn.Linear(channels, width)
        # Channels of a convolutional map differ in scale by orders of magnitude; DINOv2's are normalised.
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(configuration.channels))
        self.register_buffer("std", torch.ones(configuration.channels))

    @torch.no_grad()
    def standardise(self, patches: Tensor) -> None:
        """Has every channel of a sample of patches [B, C, G, G] come in with mean 0 and standard deviation 1."""
        tokens = self._cells(patches.float()).flatten(0, 1)
        self.mean.copy_(tokens.mean(0))
        self.std.copy_(tokens.std(0).clamp(min=1e-4))

    def _cells(self, patches: Tensor) -> Tensor:
        # pixel_unshuffle lays the cells of a square side by side in the channels.
        cells = nn.functional.pixel_unshuffle(patches, self.merge) if self.merge > 1 else patches
        return cells.flatten(2).transpose(1, 2)

    def forward(self, patches: Tensor) -> Tensor:
        """Patches [B, C, G, G] → image tokens [B, N, D], row by row."""
        tokens = (self._cells(patches) - self.mean) / self.std
        if self.positions is not None:
            # shape[0], for len() would make the batch of an export a constant.
            tokens = torch.cat((tokens, self.positions.to(tokens.dtype).expand(tokens.shape[0], -1, -1)), dim=2)
        return self.linear(tokens)


def _sine_positions(side: int) -> Tensor:
    """[side², POSITION_CHANNELS]: sines and cosines of x and y at four octaves of frequencies and between."""
    centre = (torch.arange(side) + 0.5) / side
    frequencies = torch.pi * 2 ** (torch.arange(POSITION_CHANNELS // 4) / 4)
    angles = centre[:, None] * frequencies
    axis = torch.cat((angles.sin(), angles.cos()), dim=1)
    return torch.cat((axis.repeat(side, 1), axis.repeat_interleave(side, 0)), dim=1)

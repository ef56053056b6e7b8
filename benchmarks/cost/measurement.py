"""Parameters and multiply-adds of each system by component, as served.

The components that `capeserve export` writes run on torch's meta device under torch's own counter. Every matrix product
counts, with weights and between activations alike; other operations (normalisation, softmax, resizing by copying) take
almost no time and do not count.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cape.configuration import TEXT_SYSTEMS, HeadConfiguration, SystemConfiguration, SystemName, TextConfiguration
from cape.manifest import Role
from cape.models.system import System
from export.components import Component, components

SYSTEMS: tuple[SystemName, ...] = typing.get_args(SystemName)

Counts = Mapping[str, Mapping[object, int]]
"""Path of a module below its component → operator → operations in it and below."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a request.

    Attributes:
        keypoints: K.
        tokens: T of each keypoint's text, with start and end tokens.
        shots: support images, for systems that look at them.
    """

    keypoints: int = 17
    tokens: int = 6
    shots: int = 1


@dataclass(frozen=True, slots=True)
class ComponentCost:
    """One component.

    Attributes:
        parameters: those of a projection that two components share count in both.
        multiply_adds: of one run: one image, all texts of a support, one support set, one query.
    """

    parameters: int
    multiply_adds: int


@dataclass(frozen=True, slots=True)
class SystemCost:
    """A whole system.

    Attributes:
        system: which one.
        sizes: what was counted with.
        components: by role; a system without text has no text encoder.
        parameters: of the system, shared ones once.
        reads_images: whether support images are encoded.
    """

    system: SystemName
    sizes: Sizes
    components: Mapping[Role, ComponentCost]
    parameters: int
    reads_images: bool

    def multiply_adds(self, role: Role) -> int:
        """Multiply-adds of one run of a component; 0 if the system has none of that role."""
        return self.components[role].multiply_adds if role in self.components else 0

    @property
    def per_support(self) -> int:
        """Multiply-adds of a support set, paid once: a server caches the result."""
        images = self.sizes.shots * self.multiply_adds("image_backbone") if self.reads_images else 0
        return images + self.multiply_adds("text_encoder") + self.multiply_adds("support_fusion")

    @property
    def per_query(self) -> int:
        """Multiply-adds of a query whose support set is known: a backbone pass and the pose decoder."""
        return self.multiply_adds("image_backbone") + self.multiply_adds("pose_decoder")

    @property
    def uncached(self) -> int:
        """Multiply-adds of a query that brings a new support set: what the paper counts."""
        return self.per_support + self.per_query


def published_configuration(system: SystemName) -> SystemConfiguration:
    """A system as the paper compares it: Swin V2-S, and gte-base where texts are read."""
    return SystemConfiguration(
        system=system,
        text=TextConfiguration() if system in TEXT_SYSTEMS else None,
        head=HeadConfiguration(graph="none" if system == "capeformer" else "pre"),
    )


def served_components(configuration: SystemConfiguration) -> tuple[list[Component], int]:
    """A system's components as they are exported, without weights, and its number of parameters."""
    with torch.device("meta"):
        system = System(configuration)
        parameters = sum(parameter.numel() for parameter in system.parameters())
        return components(system), parameters


def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], custom: Mapping[object, object] | None = None) -> Counts:
    """Runs a module without weights and counts.

    Args:
        module: on the meta device.
        inputs: of any device; only their shapes matter.
        custom: operator → formula, beside products of matrices; see `FlopCounterMode`.

    Returns:
        Operations by module path, "" for the whole, and operator: two for a multiply-add.
    """
    counter = FlopCounterMode(display=False, custom_mapping=dict(custom or {}))
    with torch.inference_mode(), torch.device("meta"), counter:
        module(*(tensor.to("meta") for tensor in inputs))
    # The counter names a module by the outermost class and the path below it.
    root = type(module).__name__
    return {
        path.removeprefix(root).removeprefix("."): dict(operators)
        for path, operators in counter.get_flop_counts().items()
        if path.split(".")[0] == root
    }


def count_component(component: Component, sizes: Sizes, custom: Mapping[object, object] | None = None) -> Counts:
    """Counts one run of a component; see `count`."""
    example = component.example(B=1, S=sizes.shots, K=sizes.keypoints, T=sizes.tokens)
    return count(component.module, example, custom)


def measure_cost(configuration: SystemConfiguration, sizes: Sizes) -> SystemCost:
    """Counts every component of a system, as it is exported: constants folded, maps at 8×8 as long as possible."""
    parts, parameters = served_components(configuration)
    return SystemCost(
        system=configuration.system,
        sizes=sizes,
        components={
            part.role: ComponentCost(part.parameters, sum(count_component(part, sizes)[""].values()) // 2)
            for part in parts
        },
        parameters=parameters,
        reads_images=configuration.reads_images,
    )

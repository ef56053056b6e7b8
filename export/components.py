"""The four components of a system as modules of their own, with the inputs and outputs that serving needs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cape.configuration import SystemConfiguration
from cape.manifest import Role, TensorSpec
from cape.models.system import System, component_modules, parameter_counts

Shape = tuple[int | str, ...]

MAX_BATCH_SIZE: dict[Role, int] = {
    # Crops, single texts, support sets, queries: what a GPU can use. CPUs and Triton take less, see `CPU_BATCH` and
    # `export.triton`.
    "image_backbone": 64,
    "text_encoder": 64,
    "support_fusion": 8,
    "pose_decoder": 64,
}

EXAMPLE_SIZES = {"B": 2, "S": 3, "K": 5, "T": 7}
"""Sizes that the dynamic axes are traced with: all different and above 1, so that none is taken for a constant."""


@dataclass(frozen=True, slots=True)
class Component:
    """One graph to be.

    Attributes:
        role: which of the four it is.
        module: takes and returns the tensors below, in their order.
        inputs, outputs: names, types and shapes; dynamic axes are named B, S, K, T.
        parameters: parameters that it uses.
    """

    role: Role
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int

    def example(self, seed: int = 0, **sizes: int) -> tuple[Tensor, ...]:
        """Random inputs; `sizes` overrides the sizes of dynamic axes.

        Values are what the graph may meet: bytes, token ids, coordinates a little outside the crop, hidden
        keypoints, unit embeddings, symmetric skeletons.
        """
        generator = torch.Generator().manual_seed(seed)
        bound = EXAMPLE_SIZES | sizes
        return tuple(
            _example(spec, [bound[s] if isinstance(s, str) else s for s in spec.shape], generator)
            for spec in self.inputs
        )


def _example(spec: TensorSpec, shape: list[int], generator: torch.Generator) -> Tensor:
    if spec.name == "image":
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    if spec.name == "input_ids":
        return torch.randint(1, 1000, shape, generator=generator)
    if spec.name == "attention_mask":
        lengths = torch.randint(1, shape[-1] + 1, (*shape[:-1], 1), generator=generator)
        return (torch.arange(shape[-1]) < lengths).long()
    if spec.name == "keypoints":
        return torch.rand(shape, generator=generator) * 1.1 - 0.05
    if spec.name in ("visible", "mask"):
        return (torch.rand(shape, generator=generator) > 0.2).float()
    if spec.name == "adjacency":
        edges = (torch.rand(shape, generator=generator) > 0.7).float().triu(1)
        return edges + edges.transpose(-2, -1)
    values = torch.randn(shape, generator=generator)
    return values / values.norm(dim=-1, keepdim=True) if spec.name == "embeddings" else values


class _Call(nn.Module):
    """What a system does with positional tensors, as a module."""

    def __init__(self, system: System, function: Callable[..., Tensor | tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.system = system
        self.function = function

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.function(self.system, *tensors)


def _only(system: System, names: Collection[str]) -> System:
    """The system with no other submodules than these, which it shares.

    A tracer takes up every parameter of the module that it is given, used or not, which costs more than the smaller
    components themselves.
    """
    part = copy.copy(system)
    part._modules = {name: module if name in names else None for name, module in system._modules.items()}
    return part


def _float(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)


def components(system: System) -> list[Component]:
    """The components of a system, ready to be traced.

    The backbone's constants are folded in place: the system can no longer be trained.
    """
    configuration: SystemConfiguration = system.configuration
    system.eval().requires_grad_(False)
    counts = parameter_counts(system)
    parts = {role: _only(system, names) for role, names in component_modules(system).items()}
    system.image_backbone.fold()
    head, backbone, text = configuration.head, configuration.backbone, configuration.text
    side, cells, maps = backbone.image_size, backbone.feature_size, head.similarity_size
    features = (backbone.channels, cells, cells)
    tokens: Shape = ("B", configuration.pathways, "K", head.width)
    mask: Shape = ("B", configuration.pathways, "K")

    def fuse(part: System, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        return part.fuse_support(**{spec.name: tensor for spec, tensor in zip(support, tensors, strict=True)})

    def decode(part: System, *tensors: Tensor) -> tuple[Tensor, ...]:
        pose = part.decode_pose(*tensors)
        return pose.keypoints, pose.scores, pose.similarity, pose.proposals

    found = [
        Component(
            "image_backbone",
            _Call(parts["image_backbone"], System.encode_image),
            (TensorSpec(name="image", dtype="uint8", shape=("B", side, side, 3)),),
            (_float("features", "B", *features),),
            counts["image_backbone"],
        )
    ]
    if text is not None:
        found.append(
            Component(
                "text_encoder",
                _Call(parts["text_encoder"], System.encode_text),
                tuple(
                    TensorSpec(name=name, dtype="int64", shape=("B", "K", "T"))
                    for name in ("input_ids", "attention_mask")
                ),
                (_float("embeddings", "B", "K", text.dimension),),
                counts["text_encoder"],
            )
        )
    support: list[TensorSpec] = []
    if configuration.reads_images:
        support += [
            _float("features", "B", "S", *features),
            _float("keypoints", "B", "S", "K", 2),
            _float("visible", "B", "S", "K"),
        ]
    if text is not None:
        support.append(_float("embeddings", "B", "K", text.dimension))
    found.append(
        Component(
            "support_fusion",
            _Call(parts["support_fusion"], fuse),
            tuple(support),
            (_float("support_tokens", *tokens), _float("mask", *mask)),
            counts["support_fusion"],
        )
    )
    found.append(
        Component(
            "pose_decoder",
            _Call(parts["pose_decoder"], decode),
            (
                _float("features", "B", *features),
                _float("support_tokens", *tokens),
                _float("mask", *mask),
                _float("adjacency", "B", "K", "K"),
            ),
            (
                _float("keypoints", "B", "K", 2),
                _float("scores", "B", "K"),
                _float("similarity", "B", "K", maps, maps),
                _float("proposals", "B", "K", 2),
            ),
            counts["pose_decoder"],
        )
    )
    return found

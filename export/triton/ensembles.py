"""The three ensembles of a system, put together from the inputs that its components have.

| ensemble | takes | gives |
|---|---|---|
| `<system>` | query image, one support image with keypoints, token ids, skeleton | keypoints, scores |
| `<system>_support` | one support image with keypoints, token ids | support tokens, mask |
| `<system>_query` | query image, support tokens, mask, skeleton | keypoints, scores |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from cape.manifest import QUERY_SUFFIX, Manifest, Role, TensorSpec

SINGLE_SHOT = "single_shot"
"""The model that gives a support image the axis of shots; see `export.triton.single_shot`."""

SUPPORT_SUFFIX = "_support"


class Step(NamedTuple):
    """One model of an ensemble.

    Attributes:
        model: its name in the repository.
        inputs: the model's input → the ensemble's tensor.
        outputs: the model's output → the ensemble's tensor.
    """

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


class Ensemble(NamedTuple):
    """Models in a row, served as one.

    Attributes:
        name: of the Triton model.
        template: file of `model_repository/` that describes it.
        inputs, outputs: what a request brings and gets.
        steps: Triton runs them as their inputs become available.
        max_batch_size: the smallest of its models', which every request must fit.
    """

    name: str
    template: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    steps: tuple[Step, ...]
    max_batch_size: int


def ensembles(manifest: Manifest, system: str) -> list[Ensemble]:
    """The ensembles of a system of the manifest."""
    models = manifest.systems[system].components
    fusion = {spec.name: spec for spec in manifest.components[models["support_fusion"]].inputs}
    decoder = manifest.components[models["pose_decoder"]]
    support_steps, support_inputs = [], []
    if "features" in fusion:
        support_steps += _image_steps(models)
        support_inputs += _image_inputs(manifest, models)
    if "embeddings" in fusion:
        text_encoder = manifest.components[models["text_encoder"]]
        support_steps.append(Step(models["text_encoder"], _same(text_encoder.inputs), {"embeddings": "embeddings"}))
        support_inputs += text_encoder.inputs
    shared = {"features": "shot_features", "keypoints": "shot_keypoints", "visible": "shot_visible"}
    tokens = manifest.components[models["support_fusion"]].outputs
    support_steps.append(
        Step(models["support_fusion"], {name: shared.get(name, name) for name in fusion}, _same(tokens))
    )

    (image,) = manifest.components[models["image_backbone"]].inputs
    query_steps = [
        Step(models["image_backbone"], {"image": "image"}, {"features": "features"}),
        Step(models["pose_decoder"], _same(decoder.inputs), _same(decoder.outputs)),
    ]
    (adjacency,) = (spec for spec in decoder.inputs if spec.name == "adjacency")

    support = Ensemble(
        f"{system}{SUPPORT_SUFFIX}",
        "system_support",
        tuple(support_inputs),
        tokens,
        tuple(support_steps),
        _largest_batch(manifest, support_steps),
    )
    query = Ensemble(
        f"{system}{QUERY_SUFFIX}",
        "system_query",
        (image, *tokens, adjacency),
        decoder.outputs,
        tuple(query_steps),
        _largest_batch(manifest, query_steps),
    )
    whole = Ensemble(
        system,
        "system",
        (image, *support.inputs, adjacency),
        decoder.outputs,
        tuple(Step(part.name, _same(part.inputs), _same(part.outputs)) for part in (support, query)),
        min(support.max_batch_size, query.max_batch_size),
    )
    return [whole, support, query]


def _largest_batch(manifest: Manifest, steps: Iterable[Step]) -> int:
    """The smallest limit of an ensemble's components."""
    described = (manifest.components[step.model] for step in steps if step.model in manifest.components)
    return min(component.max_batch_size for component in described)


def _image_steps(models: Mapping[Role, str]) -> list[Step]:
    shot = {"features": "support_features", "keypoints": "support_keypoints", "visible": "support_visible"}
    return [
        Step(models["image_backbone"], {"image": "support_image"}, {"features": "support_features"}),
        Step(SINGLE_SHOT, shot, {f"shot_{name}": f"shot_{name}" for name in shot}),
    ]


def _image_inputs(manifest: Manifest, models: Mapping[Role, str]) -> list[TensorSpec]:
    (image,) = manifest.components[models["image_backbone"]].inputs
    return [
        image.model_copy(update={"name": "support_image"}),
        TensorSpec(name="support_keypoints", dtype="float32", shape=("B", "K", 2)),
        TensorSpec(name="support_visible", dtype="float32", shape=("B", "K")),
    ]


def _same(specs: Iterable[TensorSpec]) -> dict[str, str]:
    return {spec.name: spec.name for spec in specs}

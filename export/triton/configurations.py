"""A manifest → the `config.pbtxt` of every model of the repository.

The text comes from the templates of `model_repository/`, where a person reads and changes it; what depends on the
manifest and on the chosen options is filled in.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template

from cape.manifest import MODEL_FILE, Manifest, Role, TensorSpec
from export.triton import blocks
from export.triton.ensembles import SINGLE_SHOT, Ensemble, ensembles
from export.triton.options import LARGEST_BATCH, TritonOptions
from export.triton.single_shot import INPUTS, OUTPUTS, write_single_shot

TEMPLATES = Path(__file__).resolve().parents[2] / "model_repository"
"""In a checkout and in an installed wheel alike: a folder beside the packages."""

TOKENS = 16
"""Tokens of a usual text: a short name, padded as the service pads."""

WARM_BATCHES: dict[Role, tuple[int, ...]] = {
    # What the batcher prefers, see the templates.
    "image_backbone": (1, 4, 8, 16),
    "text_encoder": (1, 16, 64),
    "support_fusion": (1,),
    "pose_decoder": (1,),
    "capellm_vision": (1, 4, 8, 16),
    "capellm_decoder": (1, 8, 32),
}
"""Batch sizes of the warm-up requests."""

LANGUAGE_ROLES: frozenset[Role] = frozenset({"capellm_vision", "capellm_decoder"})
"""Components that ONNX Runtime runs by itself: an accelerator would compile for every length of keys and values."""

USUAL_BATCH: dict[Role, int] = {"image_backbone": 4, "text_encoder": 32, "support_fusion": 1, "pose_decoder": 4}
"""Batch sizes that TensorRT tunes its engines for."""


def write_configurations(
    repository: Path, manifest: Manifest, options: TritonOptions, plans: Mapping[str, int] | None = None
) -> None:
    """Writes the configurations of all components and ensembles, and the one model that only ensembles need.

    Args:
        repository: folder with the components' graphs.
        manifest: describes them.
        options: how Triton is to run them.
        plans: components that have a TensorRT plan, which is then served in the graph's place → how many optimisation
            profiles it has.
    """
    plans = plans or {}
    manifest = _within_limits(manifest)
    systems = manifest.support_systems
    roles = {name: role for system in manifest.systems.values() for role, name in system.components.items()}
    for name in roles:
        _write(repository / name, roles[name], _component(manifest, name, roles[name], options, plans.get(name)))
    every = [ensemble for system in systems for ensemble in ensembles(manifest, system)]
    if any(step.model == SINGLE_SHOT for ensemble in every for step in ensemble.steps):
        write_single_shot(repository / SINGLE_SHOT / MODEL_FILE)
        _write(repository / SINGLE_SHOT, SINGLE_SHOT, _single_shot(manifest))
    for system in systems:
        for ensemble in ensembles(manifest, system):
            # Triton wants a version, and stores of objects keep no empty folders.
            version = repository / ensemble.name / "1" / ".keep"
            version.parent.mkdir(parents=True, exist_ok=True)
            version.touch()
            _write(repository / ensemble.name, ensemble.template, _ensemble(ensemble, manifest.version(system)))


def _within_limits(manifest: Manifest) -> Manifest:
    """The manifest with the batch sizes of `LARGEST_BATCH`."""
    components = dict(manifest.components)
    for system in manifest.systems.values():
        for role, name in system.components.items():
            largest = min(components[name].max_batch_size, LARGEST_BATCH.get(role, sys.maxsize))
            components[name] = components[name].model_copy(update={"max_batch_size": largest})
    return manifest.model_copy(update={"components": components})


def _write(folder: Path, template: str, fields: dict[str, str]) -> None:
    text = Template((TEMPLATES / f"{template}.pbtxt").read_text(encoding="utf-8")).substitute(fields, name=folder.name)
    path = folder / blocks.CONFIGURATION
    path.unlink(missing_ok=True)  # it may be a link to the same file of another repository
    path.write_text(text, encoding="utf-8")


def _component(
    manifest: Manifest, name: str, role: Role, options: TritonOptions, plan_profiles: int | None
) -> dict[str, str]:
    component = manifest.components[name]
    profiles = {}
    if role in LANGUAGE_ROLES:
        options = options._replace(accelerator="none")
    else:
        profiles = {spec.name: _profile(manifest, spec, role, component.max_batch_size) for spec in component.inputs}
    return {
        "backend": "onnxruntime" if plan_profiles is None else "tensorrt",
        "max_batch_size": str(component.max_batch_size),
        "tensors": blocks.tensors(component.inputs, component.outputs),
        "queue_policy": blocks.queue_policy(),
        "placement": (
            blocks.placement(options, profiles) if plan_profiles is None else blocks.plan_placement(plan_profiles)
        ),
        "version_policy": blocks.version_policy(),
        # Compared by the service, so that it never answers with a graph that its manifest does not describe.
        "identity": blocks.parameter("sha256", component.sha256),
        "warmup": "\n".join(
            _language_warmups(manifest, name, role)
            if role in LANGUAGE_ROLES
            else _warmups(manifest, component.inputs, role)
        ),
    }


def _single_shot(manifest: Manifest) -> dict[str, str]:
    return {
        "max_batch_size": str(max(component.max_batch_size for component in manifest.components.values())),
        "tensors": blocks.tensors(INPUTS, OUTPUTS),
        "queue_policy": blocks.queue_policy(),
        "placement": blocks.placement(TritonOptions(threads=1)),
        "version_policy": blocks.version_policy(),
    }


def _ensemble(ensemble: Ensemble, version: str) -> dict[str, str]:
    steps = "\n".join(blocks.step(*step) for step in ensemble.steps)
    return {
        "max_batch_size": str(ensemble.max_batch_size),
        "tensors": blocks.tensors(ensemble.inputs, ensemble.outputs),
        "version_policy": blocks.version_policy(),
        "identity": blocks.parameter("version", version),
        "steps": f"ensemble_scheduling {{\n{steps}\n}}",
    }


def _warmups(manifest: Manifest, inputs: tuple[TensorSpec, ...], role: Role) -> Iterator[str]:
    """Requests of zeros: one per batch size, or per number of keypoints where that changes shapes."""
    buckets = manifest.keypoint_buckets if role in ("support_fusion", "pose_decoder") else (1,)
    for batch in WARM_BATCHES[role]:
        for keypoints in buckets:
            sizes = {"K": keypoints, "S": 1, "T": TOKENS}
            shapes = [(spec, _bound(spec, sizes)) for spec in inputs]
            yield blocks.warmup(f"batch {batch}, {keypoints} keypoints", batch, shapes)


def _language_warmups(manifest: Manifest, name: str, role: Role) -> Iterator[str]:
    """Requests of zeros: crops, or images after one position of the past, for empty tensors are no warm-up data."""
    system = next(one for one in manifest.language_systems.values() if one.components.get(role) == name)
    sizes = {"T": 1, "N": system.image_tokens, "P": 1, "L": system.image_tokens + 1, "M": system.image_tokens + 2}
    shapes = [(spec, _bound(spec, sizes)) for spec in manifest.components[name].inputs]
    for batch in WARM_BATCHES[role]:
        yield blocks.warmup(f"batch {batch}", batch, shapes)


def _profile(manifest: Manifest, spec: TensorSpec, role: Role, max_batch: int) -> tuple[str, str, str]:
    """Smallest, usual and largest shape of an input, as '4x256x256x3'."""
    longest = max(
        (s.text_encoder.max_tokens for s in manifest.support_systems.values() if s.text_encoder), default=TOKENS
    )
    smallest = {"B": 1, "K": 1, "S": 1, "T": 1}
    usual = {"B": USUAL_BATCH[role], "K": manifest.keypoint_buckets[0], "S": 1, "T": TOKENS}
    largest = {"B": max_batch, "K": manifest.max_keypoints, "S": manifest.max_shots, "T": longest}
    if role == "text_encoder":
        usual["K"] = 1  # the service sends a text per row
    shapes = ((sizes["B"], *_bound(spec, sizes)) for sizes in (smallest, usual, largest))
    first, second, third = ("x".join(map(str, shape)) for shape in shapes)
    return first, second, third


def _bound(spec: TensorSpec, sizes: dict[str, int]) -> list[int]:
    """The shape of a tensor without its batch, dynamic sizes filled in."""
    return [sizes[size] if isinstance(size, str) else size for size in spec.shape[1:]]

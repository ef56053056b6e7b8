"""Adding a system to a repository that serves others already; equal weights are kept once.

A component keeps the name of its role unless another graph of the repository has it: then the system's name goes
before it, 'dlf_support_fusion'. A graph that the repository holds already, byte for byte, is shared, and with it its
batches and caches: `image_backbone` and `text_encoder`, where the systems were trained on the same frozen towers.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from cape.manifest import MANIFEST_NAME, Manifest, ManifestError, Role, SystemManifest, read_manifest
from export.graph import ExportError

COMMON = ("image_size", "box_padding", "max_keypoints", "keypoint_buckets", "max_shots")
"""What the systems of a repository must agree on: the service prepares a request once, for whichever system."""


def check_addition(repository: Path, system: str) -> None:
    """Checks that a system may be added, before the long work.

    Raises:
        ExportError: there is no repository, or it has a system of that name.
    """
    try:
        manifest = read_manifest(repository)
    except ManifestError as error:
        raise ExportError(f"nothing to add to: {error}") from None
    if system in manifest.systems:
        raise ExportError(f"{repository} has a system {system} already")


def add_system(repository: Path, addition: Path) -> Manifest:
    """Turns `addition`, a repository of one system, into `repository` with that system in it.

    Args:
        repository: as it is; nothing in it changes.
        addition: what was exported; afterwards it holds everything, files of `repository` as links.

    Returns:
        The manifest of the result, which is written.

    Raises:
        ExportError: the two differ in what the systems of a repository must agree on.
    """
    old, new = read_manifest(repository), read_manifest(addition)
    ((name, system),) = new.systems.items()
    for field in COMMON:
        if (theirs := getattr(old, field)) != (ours := getattr(new, field)):
            raise ExportError(f"{repository} has {field} {theirs}, {name} has {ours}: export it on its own")
    names = {role: _place(old, name, role, new.components[own].sha256) for role, own in system.components.items()}
    changes: dict[str, Any] = {"components": names, "source": new.source}
    text_encoder = system.text_encoder if isinstance(system, SystemManifest) else None
    if text_encoder is not None:
        moved = Path(names["text_encoder"]) / Path(text_encoder.tokenizer).name
        if names["text_encoder"] in old.components:
            _require_same(repository / moved, addition / text_encoder.tokenizer)
        changes["text_encoder"] = text_encoder.model_copy(update={"tokenizer": str(moved)})
    components = dict(old.components)
    for role, own in system.components.items():
        target = names[role]
        if target in old.components:
            shutil.rmtree(addition / own)
        else:
            components[target] = new.components[own]
            (addition / own).rename(addition / target)
    _link(repository, addition)
    added = type(system).model_validate(dict(system) | changes)
    manifest = Manifest.model_validate(
        dict(new) | {"components": components, "systems": old.systems | {name: added}, "source": old.source}
    )
    (addition / MANIFEST_NAME).write_text(manifest.with_scheduling().model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def _place(old: Manifest, system: str, role: Role, sha256: str) -> str:
    """The component that plays a role: one that is there with the same bytes, or the name of a new one."""
    for name, component in old.components.items():
        if component.sha256 == sha256:
            return name
    return role if role not in old.components else f"{system}_{role}"


def _require_same(first: Path, second: Path) -> None:
    if first.read_bytes() != second.read_bytes():
        raise ExportError(f"{first} is another tokenizer, for the same text encoder: export the system on its own")


def _link(source: Path, target: Path) -> None:
    """Puts what is in `source` and not in `target` there, without copying weights."""
    for path in source.iterdir():
        if path.is_dir() and not (target / path.name).exists():
            shutil.copytree(path, target / path.name, copy_function=os.link)
        elif path.is_file() and not (target / path.name).exists():
            os.link(path, target / path.name)

"""Example supports and query images that the playground offers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_IMAGES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


def list_examples(folder: Path | None) -> dict[str, list[Any]]:
    """Support annotations (YAML) and images of a folder.

    Returns:
        "supports": each file's content with its file name as "file"; "images": names of image files. Files that hold
        no annotation are left out.
    """
    if folder is None or not folder.is_dir():
        return {"supports": [], "images": []}
    supports = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            content = yaml.safe_load(path.read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(content, dict) and content.get("examples") and content.get("keypoints"):
            supports.append(content | {"file": path.name})
    images = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in _IMAGES)
    return {"supports": supports, "images": images}

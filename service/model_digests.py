"""Verification of model files: a damaged graph, vocabulary or weights file is refused by name, never served."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cape.manifest import MODEL_FILE, LanguageSystemManifest, Manifest
from service.errors import StartError

THREADS = 4
"""Files hashed at the same time; hashing does not hold the interpreter's lock."""

BUFFER_BYTES = 1 << 20


def verify_digests(repository: Path, manifest: Manifest, *, graphs: bool = True) -> None:
    """Compares every file of a repository that this process reads with its digest in the manifest.

    Takes about half a second for 1 GB: call it in a thread while the models load.

    Args:
        repository: folder of an exported repository.
        manifest: its manifest.
        graphs: whether to verify the graphs and their weights too; without them, only the tokenizers.

    Raises:
        StartError: names the first file that is missing or not the exported one.
    """
    expected = list(_expected(repository, manifest, graphs))
    with ThreadPoolExecutor(THREADS, thread_name_prefix="digests") as pool:
        for (path, digest), found in zip(expected, pool.map(lambda pair: _digest(pair[0]), expected), strict=True):
            if found != digest:
                raise StartError(
                    f"{path}: its SHA-256 is not the one in cape.json, so it is damaged or incomplete: "
                    "copy or export the repository again"
                )


def _expected(repository: Path, manifest: Manifest, graphs: bool) -> Iterator[tuple[Path, str]]:
    """Files and their digests."""
    if graphs:
        for name, component in manifest.components.items():
            yield repository / name / MODEL_FILE, component.sha256
            for variant in component.variants.values():
                yield repository / name / variant.file, variant.sha256
    for system in manifest.systems.values():
        if isinstance(system, LanguageSystemManifest):
            yield repository / system.tokenizer, system.tokenizer_sha256
        elif system.text_encoder is not None and system.text_encoder.tokenizer_sha256 is not None:
            yield repository / system.text_encoder.tokenizer, system.text_encoder.tokenizer_sha256


def _digest(path: Path) -> str:
    """SHA-256 of a file and, for a graph, of the weights beside it."""
    digest = hashlib.sha256()
    try:
        for file in (path, path.with_name(f"{path.name}.data")):
            if file == path or file.exists():
                with file.open("rb", buffering=0) as stream:
                    while chunk := stream.read(BUFFER_BYTES):
                        digest.update(chunk)
    except OSError as error:
        raise StartError(f"{error.filename}: {error.strerror}") from None
    return digest.hexdigest()

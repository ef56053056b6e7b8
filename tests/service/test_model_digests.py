"""Model files are verified before they are served."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cape.manifest import MANIFEST_NAME, ManifestError, read_manifest
from service.errors import StartError
from service.model_digests import verify_digests
from service.server import running_server
from tests.service.live_server import settings_for


@pytest.fixture
def repository(tiny_repository: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_repository, tmp_path / "repository"))


def test_an_intact_repository_passes(tiny_repository: Path) -> None:
    verify_digests(tiny_repository, read_manifest(tiny_repository))


@pytest.mark.parametrize(
    "file", ["image_backbone/1/model.onnx", "pose_decoder/variants/float16.onnx", "text_encoder/tokenizer.json"]
)
async def test_a_server_refuses_a_changed_file_by_name(repository: Path, file: str) -> None:
    path = repository / file
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 16] = bytes(byte ^ 1 for byte in content[middle : middle + 16])
    path.write_bytes(content)
    with pytest.raises(StartError, match=path.name.replace(".", r"\.")):
        async with running_server(settings_for(repository)):
            pass


def test_weights_beside_a_graph_count_as_part_of_it(repository: Path) -> None:
    (repository / "pose_decoder" / "1" / "model.onnx.data").write_bytes(b"more")
    with pytest.raises(StartError, match="pose_decoder"):
        verify_digests(repository, read_manifest(repository))


@pytest.mark.parametrize("name", ["../outside", "a/b", "", "..", "flf\n", 'flf"} 1', "/etc"])
@pytest.mark.parametrize("kind", ["components", "systems"])
def test_a_name_that_is_not_a_folder_of_the_repository_is_refused(repository: Path, kind: str, name: str) -> None:
    document = json.loads((repository / MANIFEST_NAME).read_text())
    old = next(iter(document[kind]))
    document[kind][name] = document[kind].pop(old)
    if kind == "components":
        for system in document["systems"].values():
            system["components"] = {role: name if of == old else of for role, of in system["components"].items()}
    (repository / MANIFEST_NAME).write_text(json.dumps(document))
    with pytest.raises(ManifestError, match=kind):
        read_manifest(repository)


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../b", "", "C:\\file", "..\\file"])
def test_a_tokenizer_outside_the_repository_is_refused(repository: Path, path: str) -> None:
    document = json.loads((repository / MANIFEST_NAME).read_text())
    for system in document["systems"].values():
        system["text_encoder"]["tokenizer"] = path
    (repository / MANIFEST_NAME).write_text(json.dumps(document))
    with pytest.raises(ManifestError, match=r"tokenizer"):
        read_manifest(repository)

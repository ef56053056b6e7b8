from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from cape.annotations import AnnotationError, read_support, write_support
from cape.support import Box, KeypointDefinition

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def write(folder: Path, document: object, name: str = "support.yaml") -> Path:
    """An annotation file beside an image of that name."""
    (folder / "cat.jpg").write_bytes(b"pixels are read when they are sent")
    path = folder / name
    path.write_text(json.dumps(document) if path.suffix == ".json" else yaml.safe_dump(document))
    return path


def cat(**changes: object) -> dict[str, object]:
    document: dict[str, object] = {
        "category": "cat",
        "keypoints": ["left eye", {"name": "nose", "description": "the tip of the cat's nose"}, "tail"],
        "skeleton": [[0, 1], ["nose", "tail"]],
        "examples": [{"image": "cat.jpg", "box": [1, 2, 30, 40], "keypoints": [[5, 6], [7.5, 8, True], None]}],
    }
    return document | changes


@pytest.mark.parametrize("name", ["support.yaml", "support.json"])
def test_everything_in_a_file_is_read(tmp_path, name):
    support = read_support(write(tmp_path, cat(modalities=["image"]), name))
    assert support.category == "cat"
    assert support.keypoints[1] == KeypointDefinition("nose", "the tip of the cat's nose")
    assert support.skeleton == ((0, 1), (1, 2))
    assert support.modalities == ("image",)
    (example,) = support.examples
    assert example.image == tmp_path / "cat.jpg"
    assert example.box == Box(1, 2, 30, 40)
    np.testing.assert_array_equal(example.visible, [True, True, False])
    np.testing.assert_array_equal(example.keypoints[:2], [[5, 6], [7.5, 8]])


def test_keypoints_by_name_may_leave_hidden_ones_out(tmp_path):
    examples = [{"image": "cat.jpg", "keypoints": {"tail": [3, 4], "left eye": None}}]
    (example,) = read_support(write(tmp_path, cat(examples=examples))).examples
    np.testing.assert_array_equal(example.visible, [False, False, True])
    np.testing.assert_array_equal(example.keypoints[2], [3, 4])
    assert example.box is None


def test_a_point_marked_invisible_is_hidden(tmp_path):
    examples = [{"image": "cat.jpg", "keypoints": [[1, 2, False], [1, 2, 0], [1, 2, 1]]}]
    (example,) = read_support(write(tmp_path, cat(examples=examples))).examples
    np.testing.assert_array_equal(example.visible, [False, False, True])


@pytest.mark.parametrize("name", ["copy.yaml", "copy.json"])
def test_what_is_written_is_read_back(tmp_path, name):
    before = read_support(write(tmp_path, cat(modalities=["text"])))
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    write_support(before, folder / name)
    after = read_support(folder / name)
    assert (after.category, after.keypoints, after.skeleton, after.modalities) == (
        before.category,
        before.keypoints,
        before.skeleton,
        before.modalities,
    )
    assert after.examples[0].box == before.examples[0].box
    assert after.examples[0].image.resolve() == before.examples[0].image.resolve()
    np.testing.assert_array_equal(after.examples[0].visible, before.examples[0].visible)
    np.testing.assert_array_equal(after.examples[0].keypoints[:2], before.examples[0].keypoints[:2])


def test_an_image_in_memory_cannot_be_written(tmp_path):
    from dataclasses import replace

    support = read_support(write(tmp_path, cat()))
    example = replace(support.examples[0], image=b"bytes")
    with pytest.raises(ValueError, match=r"examples\[0\].image: only the path"):
        write_support(replace(support, examples=(example,)), tmp_path / "copy.yaml")


def example(**changes: object) -> dict[str, object]:
    return cat(examples=[{"image": "cat.jpg", "keypoints": [[1, 2], [3, 4], None]} | changes])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (cat(category=""), "category: "),
        (cat(keypoints=[]), "keypoints: "),
        (cat(keypoints=["nose", "nose", "tail"]), "keypoints[1].name: 'nose' is there twice"),
        (cat(keypoints=["nose", {"nam": "x"}]), "keypoints[1].name: Field required"),
        (cat(skeleton=[[0, 3]]), "skeleton[0]: there is no keypoint 3; indices run from 0 to 2"),
        (cat(skeleton=[["nose", "ear"]]), "skeleton[0]: there is no keypoint 'ear'"),
        (cat(skeleton=[[1]]), "skeleton[0]: an edge is two keypoints"),
        (cat(colour="red"), "colour: Extra inputs"),
        (cat(modalities=["sound"]), "modalities[0]: "),
        (example(image="dog.jpg"), "examples[0].image: no such file"),
        (example(box=[0, 0, 0, 5]), "examples[0].box: a box is [x, y, width, height]"),
        (example(keypoints=[[1, 2]]), "examples[0].keypoints: 1 points for 3 keypoints"),
        (example(keypoints=[[1, 2], "x", None]), "examples[0].keypoints[1]: a keypoint is [x, y]"),
        (example(keypoints=[[1, 2], [float("nan"), 1], None]), "examples[0].keypoints[1]: a keypoint is"),
        (example(keypoints={"ear": [1, 2]}), "examples[0].keypoints: there is no keypoint 'ear'"),
        (example(keypoints={"nose": [1]}), "examples[0].keypoints.nose: a keypoint is [x, y]"),
        (["cat"], "document: "),
        (None, "document: "),
    ],
)
def test_a_mistake_is_named_with_file_and_field(tmp_path, document, message):
    path = write(tmp_path, document)
    with pytest.raises(AnnotationError) as caught:
        read_support(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.json", b'{"category": "cat",\n oops}', "line 2: not JSON"),
        ("bad.yaml", b"category: cat\nkeypoints: [a\n", "not YAML"),
        ("bad.yaml", b"\xff\xd8\xff\xe0", "not a text file"),
    ],
)
def test_a_file_that_is_neither_json_nor_yaml_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match=message):
        read_support(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AnnotationError, match=r"nothing\.yaml: No such file"):
        read_support(tmp_path / "nothing.yaml")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_lie_inside_their_photographs(path):
    from PIL import Image

    support = read_support(path)
    (example,) = support.examples
    with Image.open(example.image) as photograph:
        size = np.array(photograph.size)
    points = example.keypoints[example.visible]
    assert len(points) >= 7
    assert (points >= 0).all()
    assert (points < size).all()
    low = np.array([example.box.x, example.box.y])
    assert (points >= low).all()
    assert (points - low <= (example.box.width, example.box.height)).all()


@pytest.mark.parametrize("pair", [("astronaut", "grace_hopper"), ("cat", "raccoon")])
def test_the_examples_come_in_pairs_with_the_same_keypoints(pair):
    first, second = (read_support(EXAMPLES / f"{name}.yaml") for name in pair)
    assert first.keypoints == second.keypoints
    assert first.skeleton == second.skeleton


@pytest.mark.parametrize("language", ["yaml", "json"])
def test_the_documentations_examples_are_read(tmp_path, language):
    text = (EXAMPLES.parent / "docs" / "annotations.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert blocks
    (tmp_path / "cat.jpg").write_bytes(b"")
    for block in blocks:
        path = tmp_path / f"cat.{language}"
        path.write_text(block)
        support = read_support(path)
        assert support.names == ("left eye", "right eye", "nose")
        assert set(support.skeleton) == {(0, 2), (1, 2)}

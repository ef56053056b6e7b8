from __future__ import annotations

import json

from PIL import Image


def test_a_support_is_created_listed_shown_and_deleted(capeserve, examples):
    created = json.loads(capeserve("support", "create", examples / "astronaut.yaml", "--json").stdout)
    (name,) = [document["name"] for document in created]
    listed = json.loads(capeserve("support", "list", "--json").stdout)
    assert name in [document["name"] for document in listed]

    shown = json.loads(capeserve("support", "show", name, "--json").stdout)
    assert shown["category"] == "human face"
    assert [keypoint["name"] for keypoint in shown["keypoints"]][6] == "nose tip"
    assert [0, 1] in shown["skeleton"]

    assert capeserve("support", "delete", name).exit_code == 0
    after = json.loads(capeserve("support", "list", "--json").stdout)
    assert name not in [document["name"] for document in after]


def test_creating_twice_gives_the_same_name_and_says_so(capeserve, examples):
    first, second = (capeserve("support", "create", examples / "raccoon.yaml").stdout for _ in range(2))
    assert second.split()[0] == first.split()[0]
    assert "was there already" in second


def test_tables_name_what_they_show(capeserve, examples):
    name = capeserve("support", "create", examples / "cat.yaml").stdout.split()[0]
    listed = capeserve("support", "list").stdout
    assert name in listed
    assert "animal face" in listed
    shown = capeserve("support", "show", name).stdout
    assert "bottom of the nose" in shown
    assert "0 of 1" in shown  # the ear tips, which lie outside the photograph


def test_show_draws_the_examples(capeserve, examples, tmp_path):
    name = capeserve("support", "create", examples / "cat.yaml").stdout.split()[0]
    result = capeserve("support", "show", name, "--output", tmp_path)
    assert result.exit_code == 0, result.output
    (picture,) = tmp_path.iterdir()
    assert Image.open(picture).format == "PNG"


def test_a_coco_file_is_registered_with_the_wanted_shots(capeserve, examples, tmp_path):
    coco = {
        "categories": [{"id": 1, "name": "ear", "keypoints": ["base", "tip"], "skeleton": [[0, 1]]}],
        "images": [{"id": 5, "file_name": "raccoon.jpg"}],
        "annotations": [
            {"id": n, "image_id": 5, "category_id": 1, "bbox": [0, 0, 400, 300], "keypoints": [10, 20, 2, 30, n, 2]}
            for n in (40, 50)
        ],
    }
    file = tmp_path / "coco.json"
    file.write_text(json.dumps(coco))
    result = capeserve("support", "create", "--coco", file, "--shots", "2", "--images", examples, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[0]["examples"] == 2


def test_a_mistake_in_a_file_names_file_and_field(capeserve, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("category: cat\nkeypoints: [nose]\nskeleton: [[nose, tail]]\n")
    result = capeserve("support", "create", file)
    assert result.exit_code == 1
    assert result.stderr.strip() == f"Error: {file}: skeleton[0]: there is no keypoint 'tail'"


def test_what_the_server_refuses_names_its_field(capeserve, examples, tmp_path):
    file = tmp_path / "outside.yaml"
    file.write_text(
        f"category: cat\nkeypoints: [nose]\nexamples: [{{image: {examples / 'chelsea.jpg'}, keypoints: [[9999, 1]]}}]\n"
    )
    result = capeserve("support", "create", file)
    assert result.exit_code == 1
    assert "examples[0].keypoints[0]" in result.stderr


def test_an_unknown_support_is_one_clear_line(capeserve):
    result = capeserve("support", "show", "supports/00000000000000000000000000000000")
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1


def test_files_and_a_coco_file_together_are_refused(capeserve, examples):
    result = capeserve("support", "create")
    assert result.exit_code == 2
    assert "annotation files, or --coco" in result.stderr

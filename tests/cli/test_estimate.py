from __future__ import annotations

import json
import shutil

import numpy as np
from PIL import Image


def test_a_photograph_gets_a_picture_and_a_table_of_its_keypoints(capeserve, examples, tmp_path):
    result = capeserve(
        "estimate", examples / "grace_hopper.jpg", "--support", examples / "astronaut.yaml", "--output", tmp_path
    )
    assert result.exit_code == 0, result.output
    assert "left pupil" in result.stdout
    picture = Image.open(tmp_path / "grace_hopper_pose.png")
    assert min(picture.size) >= min(Image.open(examples / "grace_hopper.jpg").size)


def test_json_holds_every_keypoint_and_nothing_else_is_on_stdout(capeserve, examples):
    result = capeserve(
        "estimate", examples / "grace_hopper.jpg", "--support", examples / "astronaut.yaml",
        "--box", "124,16,206,274", "--json",
    )  # fmt: skip
    (document,) = json.loads(result.stdout)
    (instance,) = document["instances"]
    assert instance["box"] == [124, 16, 206, 274]
    assert len(instance["keypoints"]) == 14
    assert all(keypoint["located"] for keypoint in instance["keypoints"])
    assert document["provenance"]["model"] == "models/flf"


def test_several_boxes_give_several_pictures(capeserve, examples, tmp_path):
    boxes = ("--box", "0,0,200,200", "--box", "100,100,200,200")
    result = capeserve(
        "estimate", examples / "raccoon.jpg", "--support", examples / "cat.yaml", "--output", tmp_path, *boxes
    )
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raccoon_pose_1.png", "raccoon_pose_2.png"]


def test_several_images_are_answered_in_the_order_in_which_they_were_given(capeserve, examples):
    names = ["grace_hopper.jpg", "astronaut.jpg", "chelsea.jpg", "raccoon.jpg"]
    result = capeserve(
        "estimate", *(examples / name for name in names), "--support", examples / "astronaut.yaml", "--json"
    )
    documents = json.loads(result.stdout)
    assert [document["image"] for document in documents] == [str(examples / name) for name in names]


def test_a_registered_support_is_used_by_its_name(capeserve, examples):
    name = capeserve("support", "create", examples / "cat.yaml").stdout.split()[0]
    result = capeserve("estimate", examples / "raccoon.jpg", "--support", name)
    assert result.exit_code == 0, result.output
    assert "bottom of the nose" in result.stdout


def test_an_image_that_is_none_fails_alone_and_the_exit_code_says_so(capeserve, examples, tmp_path):
    text = tmp_path / "notes.jpg"
    text.write_text("not a photograph")
    result = capeserve(
        "estimate", text, examples / "raccoon.jpg", "--support", examples / "cat.yaml", "--output", tmp_path
    )
    assert result.exit_code == 1
    assert "notes.jpg" in result.stderr
    assert "image.encoded" in result.stderr
    assert (tmp_path / "raccoon_pose.png").exists()


def test_images_of_one_name_in_two_folders_get_two_pictures(capeserve, examples, tmp_path):
    copy = tmp_path / "other" / "raccoon.jpg"
    copy.parent.mkdir()
    shutil.copy(examples / "raccoon.jpg", copy)
    output = tmp_path / "out"
    capeserve("estimate", examples / "raccoon.jpg", copy, "--support", examples / "cat.yaml", "--output", output)
    assert len(list(output.iterdir())) == 2


def test_coordinates_are_those_of_the_upright_photograph(capeserve, examples, tmp_path):
    upright = Image.open(examples / "raccoon.jpg")
    rotated = tmp_path / "rotated.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(rotated, exif=exif)
    same = tmp_path / "same.png"
    upright.save(same)

    found = [
        json.loads(capeserve("estimate", path, "--support", examples / "cat.yaml", "--json").stdout)[0]
        for path in (same, rotated)
    ]
    places = [[(k["x"], k["y"]) for k in document["instances"][0]["keypoints"]] for document in found]
    np.testing.assert_allclose(places[0], places[1], atol=0.01)


def test_a_box_that_is_none_is_refused_before_anything_is_sent(capeserve, examples):
    result = capeserve("estimate", examples / "raccoon.jpg", "--support", examples / "cat.yaml", "--box", "1,2,3")
    assert result.exit_code == 2
    assert "'1,2,3' is not x,y,width,height" in result.stderr


def test_a_support_that_is_neither_a_file_nor_a_name_is_explained(capeserve, examples):
    result = capeserve("estimate", examples / "raccoon.jpg", "--support", "cat")
    assert result.exit_code == 2
    assert "start with supports/" in result.stderr


def test_a_server_that_is_not_there_is_one_clear_line(capeserve, examples):
    arguments = ("--support", examples / "cat.yaml", "--target", "localhost:1", "--timeout", "5")
    result = capeserve("estimate", examples / "raccoon.jpg", *arguments)
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "localhost:1" in result.stderr

"""`capeserve evaluate`, with every source of predictions, on a COCO file made of the example photographs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cape.annotations import read_support
from cli.main import main


@pytest.fixture
def faces(examples: Path, tmp_path: Path) -> Path:
    """Two annotated faces, each twice: enough for one-shot pairs."""
    supports = [read_support(examples / f"{name}.yaml") for name in ("astronaut", "grace_hopper")]
    names = [name for name in supports[0].names if name in supports[1].names]
    images, annotations = [], []
    for number, support in enumerate((*supports, *supports), start=1):
        (example,) = support.examples
        with Image.open(example.image) as image:
            width, height = image.size
        points: list[float] = []
        for name in names:
            index = support.names.index(name)
            x, y = example.keypoints[index].tolist()
            points += [x, y, 2 if example.visible[index] else 0]
        images.append({"id": number, "file_name": Path(example.image).name, "split": "test"})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": [10 * number, 5, width - 60, height - 20],
                "keypoints": points,
            }
        )
    category = {"id": 1, "name": "face", "supercategory": "faces", "keypoints": names, "skeleton": [[0, 1]]}
    path = tmp_path / "faces.json"
    path.write_text(json.dumps({"categories": [category], "images": images, "annotations": annotations}))
    return path


@pytest.fixture
def evaluate(faces: Path, examples: Path) -> Callable[..., Result]:
    def run(*arguments: object) -> Result:
        command = ["evaluate", "--coco", faces, "--images", examples, *arguments]
        return CliRunner().invoke(main, [str(argument) for argument in command])

    return run


def numbers(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_checkpoint_repository_and_service_give_the_same_scores(evaluate, tiny_checkpoint, tiny_repository, target):
    reports = [
        numbers(evaluate("--json", *source))
        for source in (("--checkpoint", tiny_checkpoint), ("--repository", tiny_repository), ("--target", target))
    ]
    assert len({report["estimator"] for report in reports}) == 3
    for report in reports[1:]:
        assert report["pairs"] == reports[0]["pairs"] == 4 * 3
        for name, value in reports[0]["overall"].items():
            assert report["overall"][name] == pytest.approx(value, abs=1e-3), name
        assert report["calibration"]["auroc"] == pytest.approx(reports[0]["calibration"]["auroc"], abs=1e-3)


def test_the_tables_say_what_was_measured_and_that_the_weights_are_random(evaluate, tiny_checkpoint):
    result = evaluate("--checkpoint", tiny_checkpoint, "--split", "test")
    assert result.exit_code == 0, result.output
    assert "random weights, on" in result.stdout
    assert "face: 4 objects, so 4 episodes of 3 queries instead of 200 of 15." in result.stdout
    assert "PCK@0.05, %" in result.stdout
    assert "AUROC of wrong" in result.stdout
    assert "evaluating on" in result.stderr


def test_files_are_the_same_each_time(evaluate, tiny_checkpoint, tmp_path):
    contents = []
    for name in ("first", "second"):
        result = evaluate("--checkpoint", tiny_checkpoint, "--output", tmp_path / name, "--pictures", 1)
        assert result.exit_code == 0, result.output
        files = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        contents.append(files)
        assert all(f"wrote {tmp_path / name / file}" in result.stdout for file in files)
    assert set(contents[0]) == {"evaluation.json", "evaluation.md", "reliability.png", "best_01.png", "worst_01.png"}
    assert contents[0] == contents[1]
    assert json.loads(contents[0]["evaluation.json"])["configuration"]["seed"] == 1


def test_a_file_configures_and_flags_win(evaluate, tiny_checkpoint, tmp_path):
    config = tmp_path / "evaluation.yaml"
    config.write_text(f"checkpoint: {tiny_checkpoint}\nshots: 1\nepisodes: 2\nqueries: 2\nvariations: [misspelt]\n")
    report = numbers(evaluate("--json", "--config", config, "--shots", 2, "--episodes", 3))
    assert report["configuration"]["shots"] == 2
    assert report["pairs"] == 3 * 2
    assert report["variations"]["misspelt"]["scores"]["pairs"] == 6


def test_what_a_model_cannot_do_without_is_said_in_the_table(evaluate, tiny_checkpoint):
    result = evaluate("--checkpoint", tiny_checkpoint, "--variation", "no_image", "--variation", "misspelt")
    assert result.exit_code == 0, result.output
    assert "flf needs example images; the support has none to use" in result.stdout


def test_the_single_person_protocol_runs_from_its_configuration(evaluate, faces, tiny_checkpoint):
    document = json.loads(faces.read_text())
    document["categories"][0] |= {"name": "person", "skeleton": [[1, 2]]}
    document["annotations"].append(document["annotations"][0] | {"id": 9})
    faces.write_text(json.dumps(document))
    config = Path(__file__).resolve().parents[2] / "configurations" / "evaluation" / "coco_person.yaml"
    report = numbers(evaluate("--json", "--config", config, "--checkpoint", tiny_checkpoint))
    assert list(report["categories"]) == ["person"]
    assert report["pairs"] == 3 * 2  # the first image shows two now, and is left out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "one of checkpoint, repository, target and baseline is needed, not none"),
        (("--split", "val"), "no image is in split 'val'; splits: test"),
        (("--category", "dog"), "there is no category 'dog'; the file has 'face'"),
        (("--shots", "4"), "no category has more than 4 objects"),
        (("--pictures", "3"), "--pictures needs --output"),
        (("--data", "synthetic"), "one kind of data at a time"),
        (("--device", "quantum"), "--device"),
        (("--seed", "one"), "'one' is not a valid integer"),
    ],
)
def test_what_cannot_be_done_is_said(evaluate, tiny_checkpoint, arguments, message):
    source = () if not arguments else ("--checkpoint", tiny_checkpoint)
    result = evaluate(*source, *arguments)
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_missing_image_is_left_out_and_named(evaluate, faces, tiny_checkpoint):
    faces.write_text(faces.read_text().replace("astronaut.jpg", "cosmonaut.jpg"))
    result = evaluate("--checkpoint", tiny_checkpoint)
    assert result.exit_code == 0, result.output
    assert "cosmonaut.jpg" in result.output


def test_a_model_that_a_server_or_a_repository_does_not_have_is_named(evaluate, tiny_repository, target):
    for source in (("--repository", tiny_repository), ("--target", target)):
        result = evaluate(*source, "--model", "models/dlf")
        assert result.exit_code == 1
        assert "dlf" in result.output and "Traceback" not in result.output


def test_a_server_that_is_not_there_is_named(evaluate):
    result = evaluate("--target", "localhost:1", "--timeout", "2")
    assert result.exit_code == 1
    assert "localhost:1" in result.output


def test_the_procedural_data_set_needs_no_file(tiny_checkpoint):
    command = ["evaluate", "--checkpoint", str(tiny_checkpoint), "--data", "synthetic", "--episodes", "1"]
    report = numbers(CliRunner().invoke(main, [*command, "--queries", "2", "--json"]))
    assert report["data"] == "synthetic (test)"
    assert len(report["super_categories"]) > 1

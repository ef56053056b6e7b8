"""Label Studio's HTTP contract, with requests as Label Studio 1.23 sends them and a stand-in for its file server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gateway.labelling.label_studio_config import LabelConfigError, read_example, read_label_config
from gateway.server import running_gateway
from gateway.settings import GatewaySettings
from tests.gateway.conftest import EXAMPLES, http, post
from tests.service.live_server import LiveServer

CONFIG = """<View>
  <Image name="image" value="$photo"/>
  <RectangleLabels name="box" toName="image"><Label value="cat"/></RectangleLabels>
  <KeyPointLabels name="points" toName="image">
    <Label value="left eye" hint="the cat's left eye"/><Label value="right eye"/><Label value="nose"/>
  </KeyPointLabels>
</View>"""

WIDTH, HEIGHT = 451, 300
"""Of examples/chelsea.jpg."""


def point(label: str, x: float, y: float) -> dict:
    value = {"x": 100 * x / WIDTH, "y": 100 * y / HEIGHT, "width": 0.5, "keypointlabels": [label]}
    return {
        "type": "keypointlabels", "from_name": "points", "to_name": "image", "value": value,
        "original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0,
    }  # fmt: skip


def rectangle(x: float, y: float, width: float, height: float, rotation: float = 0) -> dict:
    value = {
        "x": 100 * x / WIDTH, "y": 100 * y / HEIGHT, "width": 100 * width / WIDTH, "height": 100 * height / HEIGHT,
        "rotation": rotation, "rectanglelabels": ["cat"],
    }  # fmt: skip
    return {"type": "rectanglelabels", "value": value, "original_width": WIDTH, "original_height": HEIGHT}


ANNOTATION = [
    rectangle(20, 0, 380, 296), point("left eye", 314.5, 131), point("right eye", 173, 110), point("nose", 267, 240),
    point("nose", 10, 10),
]  # fmt: skip


@pytest.fixture(scope="module")
def files() -> Iterator[str]:
    """Serves the examples to whoever has the token, as Label Studio serves uploads."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = EXAMPLES / self.path.rpartition("/")[2]
            allowed = self.headers.get("Authorization") == "Token t0ken"
            self.send_response(200 if allowed and path.exists() else 401)
            self.end_headers()
            if allowed:
                self.wfile.write(path.read_bytes())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def task(name: str, number: int = 7) -> dict:
    return {"id": number, "data": {"photo": f"/data/upload/1/{name}"}, "annotations": [], "predictions": []}


def setup(gateway: str, project: str, files: str) -> dict:
    content = {"project": project, "schema": CONFIG, "hostname": files, "access_token": "t0ken", "extra_params": None}
    return post(f"{gateway}/label-studio/setup", content).json


def test_a_project_learns_from_its_first_annotation_and_predicts_in_per_cent(gateway: str, files: str) -> None:
    assert http(f"{gateway}/label-studio/health").json["status"] == "UP"
    assert setup(gateway, "3.1690000000", files)["model_version"] == "capeserve, names only"
    webhook = {
        "action": "ANNOTATION_CREATED",
        "project": {"id": 3, "label_config": CONFIG},
        "task": task("chelsea.jpg", 1),
        "annotation": {"id": 5, "result": ANNOTATION},
    }
    assert post(f"{gateway}/label-studio/webhook", webhook).status == 201
    request = {"project": "3.1690000000", "label_config": CONFIG, "params": {}, "tasks": [task("raccoon.jpg")]}
    answer = post(f"{gateway}/label-studio/predict", request)
    assert answer.status == 200, answer.body
    (found,) = answer.json["results"]
    assert found["model_version"] == "capeserve, 1 annotated"
    kinds = [(one["type"], one["from_name"], one["to_name"]) for one in found["result"]]
    assert kinds[0] == ("rectanglelabels", "box", "image")
    assert set(kinds[1:]) <= {("keypointlabels", "points", "image")}
    for one in found["result"]:
        assert 0 <= one["value"]["x"] <= 100 and one["original_width"] > 0
    # With a rectangle drawn in the editor, that is where it looks.
    box = rectangle(40, 30, 200, 180)
    request["params"] = {"context": {"result": [box]}}
    (drawn,) = post(f"{gateway}/label-studio/predict", request).json["results"]
    width = drawn["result"][0]["original_width"]
    assert drawn["result"][0]["value"]["x"] == pytest.approx(100 * 40 / width, abs=0.01)


def test_what_was_learnt_survives_a_restart(server: LiveServer, files: str, tmp_path) -> None:
    settings = GatewaySettings(server.server.target, state=tmp_path)
    with running_gateway(settings) as url:
        setup(url.rstrip("/"), "4.1", files)
        training = {"project": "4.1", "label_config": CONFIG, "annotations": [
            task("chelsea.jpg") | {"annotations": [{"result": ANNOTATION}]}]}  # fmt: skip
        assert post(f"{url}label-studio/train", training).status == 200
    with running_gateway(settings) as url:
        assert http(f"{url}label-studio/versions?project=4.1").json["versions"] == ["capeserve, 1 annotated"]
    (kept,) = (tmp_path / "label-studio").glob("*.json")
    assert kept.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("<View>", "not XML"),
        ("<View><Image name='i' value='$i'/></View>", "no KeyPointLabels"),
        ("<View><KeyPointLabels name='k' toName='i'><Label value='a'/></KeyPointLabels></View>", "refers to an Image"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View/>', "document type"),
    ],
)
def test_configurations_without_keypoints_are_refused_by_reason(gateway: str, schema: str, said: str) -> None:
    answer = post(f"{gateway}/label-studio/setup", {"project": "9.1", "schema": schema, "hostname": "http://x"})
    assert answer.status == 400 and said in answer.json["detail"]
    with pytest.raises(LabelConfigError):
        read_label_config(schema)


def test_images_that_cannot_be_fetched_are_named(gateway: str, files: str) -> None:
    setup(gateway, "5.1", files)
    for address in ("file:///etc/passwd", f"{files}/none.jpg"):
        request = {"project": "5.1", "tasks": [{"id": 1, "data": {"photo": address}}]}
        answer = post(f"{gateway}/label-studio/predict", request)
        assert answer.status == 400 and address.rpartition("/")[2] in answer.json["detail"]


def test_an_annotation_becomes_an_example_in_pixels() -> None:
    config = read_label_config(CONFIG)
    example = read_example(config, ANNOTATION)
    assert example is not None and example.box is not None
    assert example.keypoints.tolist() == [
        pytest.approx(expected, abs=1e-3) for expected in ([314.5, 131], [173, 110], [267, 240])
    ]
    assert [example.box.x, example.box.width] == pytest.approx([20, 380])
    turned = read_example(config, [rectangle(100, 50, 40, 20, rotation=90), point("nose", 90, 70)])
    assert turned is not None and turned.box is not None
    assert turned.box.x == pytest.approx(80) and turned.box.height == pytest.approx(40)
    assert read_example(config, [rectangle(0, 0, 9, 9)]) is None

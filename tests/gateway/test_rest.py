"""All of cape.v1 as JSON over HTTP, against a real server."""

from __future__ import annotations

import base64
import json

import pytest

from cape.client import Box, Client
from tests.gateway.conftest import CAT, EXAMPLES, form, http, post
from tests.service.live_server import LiveServer

RACCOON = EXAMPLES / "raccoon.jpg"


def encoded(path=RACCOON) -> dict[str, str]:
    return {"encoded": base64.b64encode(path.read_bytes()).decode()}


def test_a_support_is_made_read_listed_and_deleted(gateway: str) -> None:
    made = post(f"{gateway}/v1/supports", CAT | {"category": "gone", "examples": []})
    assert made.status == 200 and made.json["alreadyExisted"] is False
    name = made.json["support"]["name"]
    read = http(f"{gateway}/v1/{name}?view=SUPPORT_VIEW_BASIC").json["support"]
    assert read["skeleton"] == CAT["skeleton"]
    assert name in [one["name"] for one in http(f"{gateway}/v1/supports?pageSize=1000").json["supports"]]
    assert http(f"{gateway}/v1/{name}", "DELETE").json == {}
    gone = http(f"{gateway}/v1/{name}")
    assert (gone.status, gone.json["code"], gone.json["resource"]) == (404, "NOT_FOUND", name)


def test_json_multipart_and_grpc_give_the_same_keypoints(gateway: str, server: LiveServer, support: str) -> None:
    box = {"x": 40, "y": 30, "width": 200, "height": 180}
    as_json = post(f"{gateway}/v1:estimatePose", {"image": encoded(), "support": support, "boxes": [box]})
    url = {"image": {"encoded": "data:image/jpeg;base64," + encoded()["encoded"]}, "support": support, "boxes": [box]}
    as_url = post(f"{gateway}/v1:estimatePose", url)
    parts = {"image": RACCOON, "support": support, "boxes[0].x": "40", "boxes[0].y": "30"}
    as_form = form(f"{gateway}/v1:estimatePose", parts | {"boxes[0]": '{"width": 200, "height": 180}'})
    by_path = form(f"{gateway}/v1/{support}:estimatePose", {"image": RACCOON, "request": json.dumps({"boxes": [box]})})
    with Client(server.server.target) as client:
        expected = client.estimate(RACCOON, support, boxes=[Box(**box)]).instances[0].keypoints.tolist()
    for answer in (as_json, as_url, as_form, by_path):
        assert answer.status == 200, answer.body
        (instance,) = answer.json["instances"]
        assert [[point["x"], point["y"]] for point in instance["keypoints"]] == [
            pytest.approx(point, abs=1e-3) for point in expected
        ]
        assert answer.json["timing"]["total"].endswith("s")


def test_a_batch_answers_each_item_by_itself(gateway: str, support: str) -> None:
    items = {
        "requests[0].image": RACCOON, "requests[0].support": support,
        "requests[1].image": RACCOON, "requests[1].support": "supports/none",
    }  # fmt: skip
    good, bad = form(f"{gateway}/v1:batchEstimatePose", items).json["results"]
    assert len(good["response"]["instances"][0]["keypoints"]) == 3
    assert bad["error"]["code"] == 5
    assert "supports/none" in [one.get("resourceName") for one in bad["error"]["details"]]


def test_models_and_the_live_report_are_there(gateway: str, support: str) -> None:
    form(f"{gateway}/v1/models/flf:estimatePose", {"image": RACCOON, "support": support})
    (model,) = http(f"{gateway}/v1/models").json["models"]
    assert (model["name"], model["isDefault"]) == ("models/flf", True)
    (report,) = http(f"{gateway}/v1/performanceReport").json["models"]
    assert int(report["count"]) >= 1
    assert "paper" not in report  # the tiny model has not the published size


@pytest.mark.parametrize(
    ("request_", "status", "field"),
    [
        ({"support": "supports/x", "image": encoded(), "boxes": [{"width": -1, "height": 2}]}, 400, "boxes[0].width"),
        ({"support": "supports/x", "image": {"encoded": "bm8="}}, 404, None),
        ({"image": encoded()}, 400, "support"),
        ({"support": "supports/x", "image": encoded(), "boxes": [{"widht": 1}]}, 400, "boxes[0]"),
        ({"support": 7}, 400, "support"),
        ({"options": {"coordinateSpace": "MILES"}}, 400, "options.coordinateSpace"),
        ([], 400, ""),
    ],
)
def test_what_is_wrong_is_named(gateway: str, request_: object, status: int, field: str | None) -> None:
    answer = post(f"{gateway}/v1:estimatePose", request_)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json
    assert problem["status"] == status and problem["detail"]
    if field is not None:
        assert problem["errors"][0]["field"] == field


def test_the_pointer_of_a_body_that_is_one_field_starts_in_the_body(gateway: str) -> None:
    wrong = CAT | {"skeleton": [{"start": 0, "end": 9}], "examples": []}
    (error,) = post(f"{gateway}/v1/supports", wrong).json["errors"]
    assert error["field"].startswith("support.skeleton[0]") and error["pointer"].startswith("#/skeleton/0")


@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"image": NaN}', b"[" * 100_000, b"7"])
def test_bodies_that_are_no_json_are_the_callers_mistake(gateway: str, body: bytes) -> None:
    answer = http(f"{gateway}/v1:estimatePose", "POST", body, content_type="application/json")
    assert answer.status == 400 and answer.json["type"] == "/problems/invalid-argument"


@pytest.mark.parametrize(
    "parts",
    [
        {"imag": b"x"}, {"image[0]": b"x"}, {"boxes": b"x"}, {"boxes[0].x": "wide"}, {"boxes[9999999].x": "1"},
        {"boxes[0]x": "1"}, {"model": b"x"}, {"boxes[0].x.y": "1"}, {"": "x"},
    ],
)  # fmt: skip
def test_forms_with_wrong_parts_are_the_callers_mistake(gateway: str, parts: dict) -> None:
    answer = form(f"{gateway}/v1:estimatePose", parts)
    assert answer.status == 400 and answer.json["errors"][0]["field"] == next(iter(parts))


def test_a_path_and_a_body_that_disagree_are_refused(gateway: str, support: str) -> None:
    answer = form(f"{gateway}/v1/{support}:estimatePose", {"image": RACCOON, "support": "supports/other"})
    assert answer.status == 400 and answer.json["errors"][0]["field"] == "support"


def test_http_mistakes_are_problems_too(gateway: str) -> None:
    assert http(f"{gateway}/v1/nothing").json["type"] == "/problems/not-found"
    assert http(f"{gateway}/v1/models", "PUT").json["status"] == 405
    wrong_type = http(f"{gateway}/v1:estimatePose", "POST", b"x", content_type="text/plain")
    assert wrong_type.json["status"] == 415
    big = http(f"{gateway}/v1:estimatePose", "POST", b" " * (8 * 2**20 + 1), content_type="application/json")
    assert big.json["status"] == 413
    assert http(f"{gateway}/v1/models?nothing=1").json["errors"][0]["field"] == "nothing"
    assert http(f"{gateway}/problems/not-found").status == 200


def test_other_sites_pages_may_not_use_a_gateway_without_tokens(gateway: str) -> None:
    headers = {"origin": "https://example.com", "sec_fetch_site": "cross-site"}
    answer = http(f"{gateway}/v1/supports", "POST", b"{}", content_type="application/json", **headers)
    assert answer.status == 403
    assert "access-control-allow-origin" not in http(f"{gateway}/v1/models", **headers).headers


def events(body: bytes) -> list[tuple[str, dict]]:
    found = []
    for block in body.decode().split("\n\n"):
        if block:
            lines = dict(line.split(": ", 1) for line in block.split("\n"))
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def test_a_stream_answers_each_line_as_a_server_sent_event(gateway: str, support: str) -> None:
    lines = [
        {"requestId": "good", "request": {"image": encoded(), "support": support}},
        {"requestId": "bad", "request": {"image": encoded(), "support": "supports/none"}},
    ]
    body = "\n".join(json.dumps(line) for line in lines).encode()
    answer = http(f"{gateway}/v1:streamEstimatePose", "POST", body, content_type="application/x-ndjson")
    assert answer.headers["content-type"].startswith("text/event-stream")
    *answers, end = events(answer.body)
    assert end == ("end", {})
    by_id = {data["requestId"]: data["result"] for _, data in answers}
    assert len(by_id["good"]["response"]["instances"]) == 1 and by_id["bad"]["error"]["code"] == 5
    body = json.dumps(lines[:1]).encode()
    as_lines = http(
        f"{gateway}/v1:streamEstimatePose", "POST", body, content_type="application/json", accept="application/x-ndjson"
    )
    assert [json.loads(line)["requestId"] for line in as_lines.body.splitlines()] == ["good"]


def test_a_line_that_is_wrong_ends_the_stream_after_what_came_before(gateway: str, support: str) -> None:
    good = json.dumps({"request": {"image": encoded(), "support": support}})
    body = f'{good}\n{{"request": {{"imag": 1}}}}\n'.encode()
    answer = http(f"{gateway}/v1:streamEstimatePose", "POST", body, content_type="application/x-ndjson")
    (kind, first), (failed, problem) = events(answer.body)
    assert (kind, first["requestId"], failed) == ("answer", "0", "problem")
    assert problem["detail"].startswith("item 1: request")


def test_a_box_is_found_and_the_answer_says_so(gateway: str, support: str) -> None:
    parts = {"image": RACCOON, "support": support, "options": '{"findBox": true, "includeSimilarityMaps": true}'}
    found = form(f"{gateway}/v1:estimatePose", parts)
    assert found.status == 200, found.body
    (instance,) = found.json["instances"]
    assert instance["boxFound"] is True and 0 <= instance["boxConfidence"] <= 1
    box, size = instance["box"], found.json["imageSize"]
    assert box["x"] >= 0 and box["x"] + box["width"] <= size["width"] + 0.01
    assert len(instance["keypoints"][0]["similarityMap"]["values"]) == 256
    again = form(f"{gateway}/v1:estimatePose", {"image": RACCOON, "support": support, "boxes[0]": json.dumps(box)})
    assert again.json["instances"][0]["keypoints"][0]["x"] == pytest.approx(instance["keypoints"][0]["x"], abs=0.5)
    assert again.json["instances"][0]["boxFound"] is False

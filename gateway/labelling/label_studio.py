"""Label Studio's machine-learning back end: its documented HTTP contract under /label-studio.

A project's first annotated tasks become its support; until there are any, keypoints are looked for by their names.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cape.client import AsyncClient, CapeError, FailedPreconditionError, SupportExample
from cape.support import Box
from gateway.labelling.label_studio_config import (
    LabelConfig,
    LabelConfigError,
    drawn_box,
    make_support,
    prediction,
    read_example,
    read_label_config,
)
from gateway.rest.problems import RequestError, plain_problem, problem_response

SHOTS = 5
"""Most annotated tasks that a support is made of: more gains little and makes every new support slower."""
THRESHOLD = 0.1
MAX_IMAGE_BYTES = 64 * 2**20
FETCH_SECONDS = 20

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Project:
    """What is known of a Label Studio project.

    Attributes:
        hostname, token: where Label Studio is, and how to read images from it.
        config: text of its labelling configuration.
        examples: task → image and annotation.
        support: name of the registered support; empty until it is needed.
    """

    hostname: str = ""
    token: str = ""
    config: str = ""
    examples: dict[str, tuple[bytes, SupportExample]] = field(default_factory=dict)
    support: str = ""


class LabelStudioBackend:
    """Answers Label Studio's calls."""

    def __init__(self, client: Callable[[], AsyncClient], state: Path | None) -> None:
        """Reads what earlier runs learnt.

        Args:
            client: of the capeserve server.
            state: folder in which annotated images are kept; None for memory only. It holds Label Studio's API tokens.
        """
        self._client = client
        self._state = None if state is None else state / "label-studio"
        self._projects: dict[str, _Project] = {}
        if self._state is not None and self._state.is_dir():
            for path in self._state.glob("*.json"):
                self._projects[path.stem] = _load(path)

    def routes(self) -> list[Route]:
        """Routes of the contract."""
        return [
            Route(f"/label-studio/{name}", _guarded(endpoint), methods=methods)
            for name, endpoint, methods in (
                ("health", self._health, ["GET"]),
                ("setup", self._setup, ["POST"]),
                ("predict", self._predict, ["POST"]),
                ("train", self._train, ["POST"]),
                ("webhook", self._webhook, ["POST"]),
                ("versions", self._versions, ["GET", "POST"]),
            )
        ]

    async def _health(self, _: Request) -> Response:
        await self._client().wait_ready(timeout=2.0)
        return JSONResponse({"status": "UP", "model_class": "capeserve"})

    async def _setup(self, request: Request) -> Response:
        content = await _content(request)
        key, project = self._project(content)
        config = str(content.get("schema") or project.config)
        read_label_config(config)
        if config != project.config:
            project.config, project.support = config, ""
        project.hostname = str(content.get("hostname") or project.hostname)
        project.token = str(content.get("access_token") or project.token)
        self._keep(key, project)
        return JSONResponse({"model_version": self._version(project)})

    async def _versions(self, request: Request) -> Response:
        content = await _content(request) if request.method == "POST" else dict(request.query_params)
        _, project = self._project(content)
        return JSONResponse({"versions": [self._version(project)]})

    async def _predict(self, request: Request) -> Response:
        content = await _content(request)
        _, project = self._project(content)
        if content.get("label_config"):
            project.config = str(content["label_config"])
        config = read_label_config(project.config)
        context = (content.get("params") or {}).get("context") or {}
        box = drawn_box(context.get("result") or [])
        tasks = content.get("tasks") or []
        return JSONResponse({"results": [await self._prediction(project, config, task, box) for task in tasks]})

    async def _prediction(
        self, project: _Project, config: LabelConfig, task: dict[str, Any], box: Box | None
    ) -> dict[str, Any]:
        """The prediction for a task; an empty one where the model needs an annotated task first."""
        image = await self._image(project, config, task)
        if not project.support:
            registered = await self._client().create_support(make_support(config, self._examples(project, config)))
            project.support = registered.name
        try:
            pose = await self._client().estimate(
                image, project.support, boxes=None if box is None else [box], normalized=True, find_box=True
            )
        except FailedPreconditionError as error:
            _log.info("project without annotated tasks: %s", error)
            return {"result": [], "score": 0.0, "model_version": self._version(project)}
        size = await asyncio.to_thread(_image_size, image)
        return prediction(config, pose.instances, size, self._version(project), THRESHOLD)

    async def _webhook(self, request: Request) -> Response:
        """Learns from annotations as they are made."""
        content = await _content(request)
        if content.get("action") in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED"):
            key, project = self._project(content)
            project.config = str((content.get("project") or {}).get("label_config") or project.config)
            annotation, task = content.get("annotation") or {}, content.get("task") or {}
            if await self._learn(project, task, annotation):
                self._keep(key, project)
        return JSONResponse({}, 201)

    async def _train(self, request: Request) -> Response:
        """Learns from the annotated tasks that Label Studio sends along."""
        content = await _content(request)
        key, project = self._project(content)
        project.config = str(content.get("label_config") or project.config)
        for task in content.get("annotations") or []:
            for annotation in task.get("annotations") or []:
                await self._learn(project, task, annotation)
        self._keep(key, project)
        return JSONResponse({"job": self._version(project)})

    async def _learn(self, project: _Project, task: dict[str, Any], annotation: dict[str, Any]) -> bool:
        """Makes an annotated task one of the project's examples, unless there are enough others."""
        config = read_label_config(project.config)
        number = str(task.get("id", ""))
        example = read_example(config, annotation.get("result") or [])
        if example is None or (number not in project.examples and len(project.examples) >= SHOTS):
            return False
        project.examples[number] = (await self._image(project, config, task), example)
        project.support = ""
        return True

    async def _image(self, project: _Project, config: LabelConfig, task: dict[str, Any]) -> bytes:
        address = (task.get("data") or {}).get(config.image_field)
        if not isinstance(address, str):
            raise RequestError(f"task {task.get('id')}: its data has no field {config.image_field!r}")
        return await asyncio.to_thread(_fetch, address, project)

    def _examples(self, project: _Project, config: LabelConfig) -> list[tuple[bytes, SupportExample]]:
        """Examples that fit the labels as they are now."""
        return [one for one in project.examples.values() if len(one[1].visible) == len(config.keypoints)]

    def _project(self, content: dict[str, Any]) -> tuple[str, _Project]:
        """A project by what Label Studio calls it: "12.1690000000" in most calls, {"id": 12} in webhooks."""
        named = content.get("project")
        number = named.get("id") if isinstance(named, dict) else str(named or "").partition(".")[0]
        key = re.sub(r"\W", "", str(number)) or "0"
        return key, self._projects.setdefault(key, _Project())

    def _version(self, project: _Project) -> str:
        return f"capeserve, {len(project.examples)} annotated" if project.examples else "capeserve, names only"

    def _keep(self, key: str, project: _Project) -> None:
        if self._state is not None:
            self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
            _save(self._state / f"{key}.json", project)


def _guarded(endpoint: Callable[[Request], Any]) -> Callable[[Request], Any]:
    async def guarded(request: Request) -> Response:
        try:
            answer: Response = await endpoint(request)
        except (CapeError, RequestError) as error:
            return problem_response(error)
        except (LabelConfigError, KeyError, TypeError, AttributeError) as error:
            return plain_problem(400, f"not what Label Studio sends: {error}")
        return answer

    return guarded


async def _content(request: Request) -> dict[str, Any]:
    try:
        content = json.loads(await request.body())
    except ValueError:
        raise RequestError("the body is not JSON") from None
    if not isinstance(content, dict):
        raise RequestError("the body is not a JSON object")
    return content


def _fetch(address: str, project: _Project) -> bytes:
    """An image of a task: Label Studio's own uploads with its token, others from where they are."""
    url = urllib.parse.urljoin(f"{project.hostname.rstrip('/')}/", address)
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise RequestError(f"{address[:200]}: only http and https addresses are fetched")
    request = urllib.request.Request(url)
    own = urllib.parse.urlsplit(url).netloc == urllib.parse.urlsplit(project.hostname).netloc
    if own and project.token:
        # Not sent on to where a redirect leads, such as a storage bucket.
        request.add_unredirected_header("Authorization", f"Token {project.token}")
    try:
        with urllib.request.urlopen(request, timeout=FETCH_SECONDS) as response:
            content: bytes = response.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise RequestError(f"{address[:200]} cannot be fetched: {error}") from None
    if len(content) > MAX_IMAGE_BYTES:
        raise RequestError(f"{address[:200]} is over the limit of {MAX_IMAGE_BYTES:,} bytes")
    return content


def _image_size(content: bytes) -> tuple[int, int]:
    """Width and height of the upright image."""
    import io

    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        turned = image.getexif().get(0x0112, 1) >= 5
        return (image.height, image.width) if turned else image.size


def _save(path: Path, project: _Project) -> None:
    examples = {}
    for number, (image, example) in project.examples.items():
        image_file = path.with_name(f"{path.stem}-{re.sub(r'[^0-9A-Za-z]', '', number)}.image")
        image_file.write_bytes(image)
        box = example.box
        examples[number] = {
            "image": image_file.name,
            "keypoints": example.keypoints.tolist(),
            "visible": example.visible.tolist(),
            "box": None if box is None else [box.x, box.y, box.width, box.height],
        }
    content = {"hostname": project.hostname, "token": project.token, "config": project.config, "examples": examples}
    fresh = path.with_suffix(".tmp")
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(content), "utf-8")
    fresh.replace(path)


def _load(path: Path) -> _Project:
    content = json.loads(path.read_text("utf-8"))
    project = _Project(content["hostname"], content["token"], content["config"])
    for number, one in content["examples"].items():
        example = SupportExample(
            None,
            np.array(one["keypoints"], dtype=np.float32).reshape(-1, 2),
            np.array(one["visible"], dtype=np.bool_),
            None if one["box"] is None else Box(*one["box"]),
        )
        project.examples[number] = (path.with_name(one["image"]).read_bytes(), example)
    return project

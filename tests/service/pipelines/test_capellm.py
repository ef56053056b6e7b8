"""A language model behind the API: the same answers as PyTorch's, the same errors, rows of many callers in one run."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health_pb2

from benchmarks.harness.exported import ExportedEstimator
from cape.client import Client, PoseEstimate, Query
from cape.evaluation.capellm import checkpoint_estimator
from cape.evaluation.estimator import QueryObject
from cape.evaluation.service import ServiceEstimator
from cape.manifest import read_manifest
from cape.models.capellm.checkpoint import load_capellm
from cape.support import Box, KeypointDefinition, SupportDefinition
from cape.v1 import modality_pb2, model_service_pb2, pose_service_pb2, support_pb2, support_service_pb2
from cli.main import main
from service.application import open_application
from service.engines.onnx_runtime import OnnxRuntimeEngine
from service.errors import StartError
from tests.cape.capellm.conftest import CATEGORY
from tests.conftest import ExportedCapeLlm
from tests.service.live_server import LiveServer, details, settings_for
from tests.service.messages import cat_support, encoded, photograph, points, query, raw

Options = pose_service_pb2.EstimatePoseOptions


class WatchedEngine:
    """ONNX Runtime, but each run is written down and may be held up.

    Attributes:
        runs: (component, rows, whether it began sequences) of every run that has begun.
    """

    def __init__(self, repository: Path) -> None:
        self._engine = OnnxRuntimeEngine(repository, read_manifest(repository), threads=1)
        self.description, self.concurrency, self.close = "watched", 1, self._engine.close
        self.useful_batch = None
        self.runs: list[tuple[str, int, bool]] = []
        self._begun = threading.Condition()
        self._gate: threading.Semaphore | None = None

    def run(self, component: str, inputs: Any, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        with self._begun:
            rows, gate = len(next(iter(inputs.values()))), self._gate
            self.runs.append((component, rows, "past_keys" in inputs and inputs["past_keys"].shape[3] == 0))
            self._begun.notify_all()
        if gate is not None:
            assert gate.acquire(timeout=30)
        return self._engine.run(component, inputs, outputs)

    @contextmanager
    def held(self) -> Iterator[Callable[[], None]]:
        """Runs that begin meanwhile end only afterwards; what is yielded lets one end and waits for the next."""
        gate = threading.Semaphore(0)

        def let_one_end() -> None:
            begun = len(self.runs)
            gate.release()
            self.wait_for(begun + 1)

        self._gate = gate
        try:
            yield let_one_end
        finally:
            self._gate = None
            gate.release(100)

    def wait_for(self, count: int) -> None:
        """Until so many runs have begun."""
        with self._begun:
            assert self._begun.wait_for(lambda: len(self.runs) >= count, timeout=30)

    def steps(self) -> list[int]:
        """Rows of the decoder's runs that carried sequences on."""
        return [rows for component, rows, first in self.runs if component == "capellm_decoder" and not first]


@pytest.fixture(scope="module")
def live(tiny_capellm: ExportedCapeLlm) -> Iterator[LiveServer]:
    with LiveServer(settings_for(tiny_capellm.repository)) as server:
        yield server


@pytest.fixture
def watched(tiny_capellm: ExportedCapeLlm) -> Iterator[tuple[LiveServer, WatchedEngine]]:
    engine = WatchedEngine(tiny_capellm.repository)
    with LiveServer(settings_for(tiny_capellm.repository), engine) as server:
        yield server, engine


def support(keypoints: int = 5, description: str = "where the eye sees it") -> support_pb2.Support:
    """Words alone."""
    names = [f"{CATEGORY.keypoints[index % 5].name} {index}" for index in range(keypoints)]
    return support_pb2.Support(
        category="cat",
        keypoints=[support_pb2.KeypointDefinition(name=name, description=description) for name in names],
    )


def refused(call: Callable[[], object]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def field(error: grpc.RpcError) -> str:
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(details(error)["BadRequest"].field_violations[0].field)


def test_answers_are_those_of_pytorch(tiny_capellm: ExportedCapeLlm, live: LiveServer) -> None:
    """Two objects in each picture, one of them known by heart, as `capeserve evaluate` sends them."""
    known = SupportDefinition(CATEGORY.name, CATEGORY.keypoints)
    pictures = [
        np.concatenate((np.tile(one, (2, 2, 1)), photograph(112, 112, 3)), axis=1) for one in tiny_capellm.images
    ]
    boxes = (Box(30, 30, 50, 50), Box(120, 10, 90, 90))
    queries = [QueryObject(2 * i + j, p, box) for i, p in enumerate(pictures) for j, box in enumerate(boxes)]
    served = ServiceEstimator(live.server.target)
    try:
        answer = served.estimate(known, queries)
    finally:
        served.close()
    expected = checkpoint_estimator(load_capellm(tiny_capellm.checkpoint)).estimate(known, queries)
    assert answer.modalities == expected.modalities == ("text",)
    for found, wanted in zip(answer.poses, expected.poses, strict=True):
        np.testing.assert_allclose(found.keypoints, wanted.keypoints, atol=1e-3)
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
        assert found.located.all()


def test_all_boxes_of_a_request_and_all_requests_of_a_batch_are_answered_alike(live: LiveServer) -> None:
    boxes = [{"x": 0, "y": 0, "width": 60, "height": 60}, {"x": 40, "y": 20, "width": 70, "height": 60}]
    together = live.poses.EstimatePose(query(inline_support=support(), boxes=boxes)).instances
    requests = [query(inline_support=support(), boxes=[box]) for box in boxes]
    batch = live.poses.BatchEstimatePose(pose_service_pb2.BatchEstimatePoseRequest(requests=requests))
    for instance, result in zip(together, batch.results, strict=True):
        np.testing.assert_allclose(points(instance), points(result.response.instances[0]), atol=1e-3)


def test_an_answer_says_what_it_was_made_from_and_where_the_time_went(live: LiveServer) -> None:
    name = live.supports.CreateSupport(support_service_pb2.CreateSupportRequest(support=support(3))).support.name
    cold, warm = (live.poses.EstimatePose(query(support=name)) for _ in range(2))
    assert (cold.provenance.support_cache_hit, warm.provenance.support_cache_hit) == (False, True)
    assert (cold.provenance.texts, cold.provenance.modalities) == (3, [modality_pb2.MODALITY_TEXT])
    assert points(cold.instances[0]).tolist() == points(warm.instances[0]).tolist()
    stages = [getattr(warm.timing, stage).ToNanoseconds() for stage in ("decode", "prepare", "backbone", "decoder")]
    assert all(stages)
    assert sum(stages) <= warm.timing.total.ToNanoseconds()
    assert live.metric("capeserve_cache_hits_total", cache="prompts") >= 1
    live.supports.DeleteSupport(support_service_pb2.DeleteSupportRequest(name=name))
    assert refused(lambda: live.poses.EstimatePose(query(support=name))).code() is grpc.StatusCode.NOT_FOUND


def test_images_of_a_support_are_not_used(live: LiveServer) -> None:
    words = cat_support()
    del words.examples[:]
    plain, illustrated = (live.poses.EstimatePose(query(inline_support=one)) for one in (words, cat_support()))
    assert points(plain.instances[0]).tolist() == points(illustrated.instances[0]).tolist()
    assert illustrated.provenance.modalities == [modality_pb2.MODALITY_TEXT]


def test_a_support_without_words_is_of_no_use(live: LiveServer) -> None:
    images_only = cat_support()
    images_only.modalities.append(modality_pb2.MODALITY_IMAGE)
    error = refused(lambda: live.poses.EstimatePose(query(inline_support=images_only)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "model capellm needs texts" in error.details()


@pytest.mark.parametrize("option", ["include_similarity_maps", "include_proposals", "partial_answers"])
def test_what_it_cannot_answer_is_refused_by_name(live: LiveServer, option: str) -> None:
    request = query(inline_support=support(), options=Options(**{option: True}))
    assert field(refused(lambda: live.poses.EstimatePose(request))) == f"options.{option}"


def test_long_texts_are_refused_by_the_field_that_is_too_long(live: LiveServer) -> None:
    long = support(5)
    long.keypoints[3].description = "ß" * 200  # 400 bytes, none of which this vocabulary joins
    create = support_service_pb2.CreateSupportRequest(support=long)
    error = refused(lambda: live.supports.CreateSupport(create))
    assert field(error) == "support.keypoints[3].description"
    assert "tokens of capellm's vocabulary; at most 128" in error.details()
    error = refused(lambda: live.poses.EstimatePose(query(inline_support=long)))
    assert field(error) == "inline_support.keypoints[3].description"
    long.keypoints[3].description, long.keypoints[2].name = "", "ß" * 40
    error = refused(lambda: live.poses.EstimatePose(query(inline_support=long)))
    assert field(error) == "inline_support.keypoints[2].name"
    many = support(101)
    assert field(refused(lambda: live.poses.EstimatePose(query(inline_support=many)))) == "inline_support.keypoints"


def test_a_support_of_another_server_that_is_too_long_here_is_no_use(
    tiny_capellm: ExportedCapeLlm, tmp_path: Path
) -> None:
    registry = f"sqlite:///{tmp_path}/supports.sqlite3"
    with LiveServer(settings_for(tiny_capellm.repository, registry=registry)) as server:
        name = server.supports.CreateSupport(support_service_pb2.CreateSupportRequest(support=support())).support.name
    strict = Path(shutil.copytree(tiny_capellm.repository, tmp_path / "strict"))
    document = json.loads((strict / "cape.json").read_text())
    document["systems"]["capellm"]["limits"]["description"] = 2
    (strict / "cape.json").write_text(json.dumps(document))
    with LiveServer(settings_for(strict, registry=registry)) as server:
        error = refused(lambda: server.poses.EstimatePose(query(support=name)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "keypoints[0].description" in error.details()


def test_steps_of_several_requests_share_runs(watched: tuple[LiveServer, WatchedEngine]) -> None:
    live, engine = watched
    with ThreadPoolExecutor(4) as pool:
        with engine.held():
            first = pool.submit(live.poses.EstimatePose, query(inline_support=support()))
            engine.wait_for(1)
            others = [
                pool.submit(live.poses.EstimatePose, query(raw(photograph(seed=seed)), inline_support=support(5, text)))
                for seed, text in enumerate(("where the eye sees it", "where an eye sees it", "where my eye sees it"))
            ]
            live.wait_for("capeserve_queue_depth", 3, component="capellm_vision")
        shared = [each.result() for each in others]
        first.result()
    # The first image goes by itself. The others' are older than its first step, so all four decode together.
    assert [rows for component, rows, _ in engine.runs if component == "capellm_vision"] == [1, 3]
    assert engine.steps() == [20, 20]
    alone = live.poses.EstimatePose(query(raw(photograph(seed=1)), inline_support=support(5, "where an eye sees it")))
    np.testing.assert_allclose(points(shared[1].instances[0]), points(alone.instances[0]), atol=1e-3)
    assert live.metric("capeserve_batch_size_count", component="capellm_decoder") == len(
        [component for component, _, _ in engine.runs if component == "capellm_decoder"]
    )


@pytest.mark.parametrize("runs", [1, 2, 3])
def test_no_step_is_run_for_a_caller_who_has_left(watched: tuple[LiveServer, WatchedEngine], runs: int) -> None:
    """He leaves while the image, the prefix or the questions run."""
    live, engine = watched
    with engine.held() as let_one_end:
        call = live.poses.EstimatePose.future(query(inline_support=support()))
        engine.wait_for(1)
        for _ in range(runs - 1):
            let_one_end()
        begun = len(engine.runs)
        call.cancel()
        live.wait_for("capeserve_requests_in_flight", 0, method="EstimatePose")
    live.poses.EstimatePose(query(inline_support=support()))
    assert len(engine.runs) == begun + 4, "the next caller's image, prefix, questions and last step"


def test_a_deadline_that_passes_between_steps_ends_the_request(watched: tuple[LiveServer, WatchedEngine]) -> None:
    live, engine = watched
    live.poses.EstimatePose(query(inline_support=support()))
    begun = len(engine.runs)
    with engine.held():
        call = live.poses.EstimatePose.future(query(inline_support=support()), timeout=0.5)
        engine.wait_for(begun + 1)
        error = refused(call.result)
        live.wait_for("capeserve_requests_in_flight", 0, method="EstimatePose")
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    live.poses.EstimatePose(query(inline_support=support()))
    assert len(engine.runs) == begun + 1 + 4


def test_a_stream_delivers_keypoints_as_they_are_found(live: LiveServer) -> None:
    boxes = [{"x": 0, "y": 0, "width": 60, "height": 60}, {"x": 40, "y": 20, "width": 70, "height": 60}]
    asked = query(inline_support=support(10), boxes=boxes, options=Options(partial_answers=True))
    request = pose_service_pb2.StreamEstimatePoseRequest(request_id="a", request=asked)
    *partial, last = live.poses.StreamEstimatePose(iter([request]))
    assert [message.partial for message in partial] == [True, True]
    assert not last.partial
    assert {message.request_id for message in (*partial, last)} == {"a"}
    response = last.result.response
    assert [len(instance.keypoints) for instance in response.instances] == [10, 10]
    # Eight of the first box; its other two and six of the second.
    heard = [[len(one.keypoints) for one in message.result.response.instances] for message in partial]
    assert heard == [[8, 0], [2, 6]]
    whole = [{keypoint.name: keypoint for keypoint in instance.keypoints} for instance in response.instances]
    for message in partial:
        assert not message.result.response.HasField("timing")
        for instance, final in zip(message.result.response.instances, whole, strict=True):
            for keypoint in instance.keypoints:
                assert keypoint == final[keypoint.name]
    request.request.options.partial_answers = False
    (plain,) = live.poses.StreamEstimatePose(iter([request]))
    np.testing.assert_allclose(points(plain.result.response.instances[1]), points(response.instances[1]), atol=1e-3)


def test_models_health_and_figures_are_as_of_any_other(live: LiveServer, tiny_capellm: ExportedCapeLlm) -> None:
    (model,) = live.models.ListModels(model_service_pb2.ListModelsRequest()).models
    assert (model.name, model.text_encoder, model.image_size) == ("models/capellm", "llama", 56)
    assert (model.required_modalities, model.optional_modalities) == ([modality_pb2.MODALITY_TEXT], [])
    assert model.version == read_manifest(tiny_capellm.repository).version("capellm")
    assert (model.precision, model.parity_keypoints, model.is_default) == ("float32", 0, True)
    status = live.health.Check(health_pb2.HealthCheckRequest(service="cape.v1.PoseService")).status
    assert status == health_pb2.HealthCheckResponse.SERVING
    before = live.metric("capeserve_instances_total", model="capellm")
    live.poses.EstimatePose(query(inline_support=support()))
    (figures,) = live.models.GetPerformanceReport(model_service_pb2.GetPerformanceReportRequest()).models
    assert figures.model == "models/capellm"
    assert figures.count == before + 1
    assert not figures.HasField("paper")


async def test_a_repository_without_its_tokenizer_does_not_start(tiny_capellm: ExportedCapeLlm, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(tiny_capellm.repository, tmp_path / "broken"))
    (broken / "capellm_decoder" / "tokenizer.json").unlink()
    with pytest.raises(StartError, match=r"capellm_decoder/tokenizer\.json: "):
        async with open_application(settings_for(broken)):
            pass


def test_the_client_hears_of_keypoints_as_they_are_found(live: LiveServer) -> None:
    words = SupportDefinition("cat", tuple(KeypointDefinition(f"eye {index}") for index in range(10)))
    queries = [Query(photograph(), words, partial_answers=partial) for partial in (True, False)]
    with Client(live.server.target) as client:
        heard: dict[int, list[PoseEstimate]] = {0: [], 1: []}
        for position, answer in client.estimate_stream(queries):
            assert isinstance(answer, PoseEstimate)
            heard[position].append(answer)
    (part, whole), (plain,) = heard[0], heard[1]
    assert (part.partial, whole.partial, plain.partial) == (True, False, False)
    assert part.instances[0].names == words.names[:8]
    assert whole.instances[0].names == plain.instances[0].names == words.names
    np.testing.assert_array_equal(part.instances[0].keypoints, whole.instances[0].keypoints[:8])
    np.testing.assert_allclose(whole.instances[0].keypoints, plain.instances[0].keypoints, atol=1e-3)


def test_an_exported_repository_is_evaluated_as_the_service_answers(
    tiny_capellm: ExportedCapeLlm, live: LiveServer
) -> None:
    """`capeserve evaluate --repository` and `--service`: the same code, and what is kept of a picture is its own."""
    queries = [QueryObject(row, one, Box(0, 0, 56, 56)) for row, one in enumerate(tiny_capellm.images)]
    known = SupportDefinition(CATEGORY.name, CATEGORY.keypoints)
    renamed = SupportDefinition("dog", (KeypointDefinition("tail"), KeypointDefinition("nose")))
    exported, served = ExportedEstimator(tiny_capellm.repository, threads=1), ServiceEstimator(live.server.target)
    try:
        for support in (known, renamed, known):
            for mine, theirs in zip(
                exported.estimate(support, queries).poses, served.estimate(support, queries).poses, strict=True
            ):
                np.testing.assert_allclose(mine.keypoints, theirs.keypoints, atol=1e-3)
    finally:
        exported.close()
        served.close()


def test_what_cannot_be_finished_is_not_begun(watched: tuple[LiveServer, WatchedEngine]) -> None:
    """Whoever leaves less time than the last dialogues took is refused before his image is looked at."""
    live, engine = watched
    for done in range(3):
        with engine.held() as let_one_end:
            call = live.poses.EstimatePose.future(query(inline_support=support()))
            engine.wait_for(4 * done + 1)
            let_one_end()
            time.sleep(0.3)
        call.result()
    begun = len(engine.runs)
    error = refused(lambda: live.poses.EstimatePose(query(inline_support=support()), timeout=0.25))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(engine.runs) == begun
    live.poses.EstimatePose(query(inline_support=support()), timeout=20)


def test_the_command_says_keypoints_as_they_are_found(live: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text(
        "category: cat\nkeypoints: [" + ", ".join(f"eye {i}" for i in range(10)) + "]\n"
    )
    (tmp_path / "cat.png").write_bytes(encoded(photograph()))
    arguments = ["estimate", tmp_path / "cat.png", "--support", tmp_path / "words.yaml", "--json", "--follow"]
    result = CliRunner().invoke(main, [*map(str, arguments), "--target", live.server.target])
    assert result.exit_code == 0, result.output
    assert [line for line in result.stderr.splitlines() if "cat.png, 1: eye 7 at " in line]
    assert "eye 8 at" not in result.stderr
    (document,) = json.loads(result.stdout)
    assert [keypoint["name"] for keypoint in document["instances"][0]["keypoints"]] == [f"eye {i}" for i in range(10)]


def test_openvino_answers_as_onnx_runtime(live: LiveServer, tiny_capellm: ExportedCapeLlm) -> None:
    """It too takes a past and images of no length."""
    pytest.importorskip("openvino", reason="openvino is missing: pip install 'capeserve[openvino]'")
    expected = live.poses.EstimatePose(query(inline_support=support()))
    with LiveServer(settings_for(tiny_capellm.repository, engine="openvino")) as server:
        answer = server.poses.EstimatePose(query(inline_support=support()))
    np.testing.assert_allclose(points(answer.instances[0]), points(expected.instances[0]), atol=1e-3)

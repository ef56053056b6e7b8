"""A server in front of Triton when things go wrong: never a wrong answer, and back to work by itself."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from cape.manifest import MANIFEST_NAME, read_manifest
from export.triton.local.environment import Installation
from export.triton.local.server import Ports, TritonProcess
from service.engines.triton import TritonEngine
from service.errors import DeadlineError, QueueFullError
from service.settings import SettingsError, load_settings
from tests.service.live_server import LiveServer, settings_for
from tests.service.messages import cat_support, encoded, photograph, points, query
from tests.triton_client import counter

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

SECONDS = 20.0
"""Far more than anything here takes, on a machine that does other things too."""


def health(server: LiveServer) -> int:
    return server.health.Check(health_pb2.HealthCheckRequest()).status


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it does not become true"
        time.sleep(0.02)


def group_exists(number: int) -> bool:
    """Whether any process of a group is left."""
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


def refusal(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()


@pytest.fixture(scope="module")
def restartable(
    triton_installation: Installation, tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], TritonProcess]]:
    """Starts a Triton, unless it runs; always on the same ports."""
    started: list[TritonProcess] = []
    with (tmp_path_factory.mktemp("triton") / "log").open("wb") as log:

        def start() -> TritonProcess:
            if started and started[-1].process.poll() is None:
                return started[-1]
            addresses = (started[0].http, started[0].grpc, started[0].metrics) if started else (":0",) * 3
            ports = Ports(*(int(address.rpartition(":")[2]) for address in addresses))
            started.append(TritonProcess(triton_installation, tiny_repository, "127.0.0.1", ports, 1 << 20, log))
            started[-1].wait_ready(300)
            return started[-1]

        yield start
        for server in started:
            server.process.send_signal(signal.SIGCONT)
            server.stop()


@pytest.fixture
def through_triton(triton: TritonProcess, tiny_repository: Path) -> Iterator[LiveServer]:
    with LiveServer(settings_for(tiny_repository, engine="triton", triton_url=triton.grpc)) as server:
        yield server


def test_a_warm_query_is_one_request_to_the_ensemble(triton: TritonProcess, through_triton: LiveServer) -> None:
    support = cat_support(seed=41)
    cold = through_triton.poses.EstimatePose(query(inline_support=support))
    before = counter(triton, "nv_inference_request_success", "flf_query")
    warm = through_triton.poses.EstimatePose(query(inline_support=support))
    assert counter(triton, "nv_inference_request_success", "flf_query") == before + 1
    assert not cold.provenance.support_cache_hit
    assert warm.provenance.support_cache_hit
    np.testing.assert_allclose(points(warm.instances[0]), points(cold.instances[0]), atol=1e-3)


def test_answers_are_the_embedded_engines(through_triton: LiveServer, tiny_repository: Path) -> None:
    requests = [query(encoded(photograph(seed=seed)), inline_support=cat_support(seed=seed)) for seed in (51, 52)]
    with LiveServer(settings_for(tiny_repository)) as embedded:
        for request in requests * 2:  # cold, then warm
            expected = embedded.poses.EstimatePose(request).instances[0]
            answer = through_triton.poses.EstimatePose(request).instances[0]
            # 1e-4 of the crop, in pixels of the photograph.
            np.testing.assert_allclose(points(answer), points(expected), atol=1e-4 * 150)


def test_kill_9_in_the_middle_of_load_is_unavailable_and_never_a_wrong_answer(
    restartable: Callable[[], TritonProcess], tiny_repository: Path
) -> None:
    triton = restartable()
    with LiveServer(settings_for(tiny_repository, engine="triton", triton_url=triton.grpc)) as server:
        assert health(server) == SERVING
        requests = [query(encoded(photograph(seed=seed))) for seed in range(4)]
        expected = [points(server.poses.EstimatePose(request).instances[0]) for request in requests]
        codes: set[grpc.StatusCode] = set()
        slowest = 0.0
        stop = threading.Event()

        def load(index: int) -> None:
            nonlocal slowest
            while not stop.is_set():
                started = time.monotonic()
                try:
                    answer = server.poses.EstimatePose(requests[index], timeout=SECONDS)
                    np.testing.assert_allclose(points(answer.instances[0]), expected[index], atol=1e-2)
                    codes.add(grpc.StatusCode.OK)
                except grpc.RpcError as error:
                    codes.add(error.code())
                    stop.wait(0.02)
                slowest = max(slowest, time.monotonic() - started)

        callers = [threading.Thread(target=load, args=(index,)) for index in range(len(requests))]
        for caller in callers:
            caller.start()
        wait_until(lambda: grpc.StatusCode.OK in codes)
        triton.process.kill()
        wait_until(lambda: health(server) == NOT_SERVING)
        wait_until(lambda: grpc.StatusCode.UNAVAILABLE in codes)
        codes.clear()
        triton.stop()
        wait_until(lambda: not group_exists(triton.process.pid))
        assert triton._shared_memory
        assert not any(path.exists() for path in triton._shared_memory)
        restartable()
        wait_until(lambda: health(server) == SERVING)
        wait_until(lambda: grpc.StatusCode.OK in codes)
        stop.set()
        for caller in callers:
            caller.join()
        assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert slowest < SECONDS
        assert server.server.application.runner.queued == 0


def test_deadlines_and_departures_do_not_wait_for_a_triton_that_hangs(
    restartable: Callable[[], TritonProcess], tiny_repository: Path
) -> None:
    triton = restartable()
    with LiveServer(settings_for(tiny_repository, engine="triton", triton_url=triton.grpc)) as server:
        server.poses.EstimatePose(query())
        triton.process.send_signal(signal.SIGSTOP)
        assert refusal(lambda: server.poses.EstimatePose(query(), timeout=0.5)) is grpc.StatusCode.DEADLINE_EXCEEDED
        leaving = server.poses.EstimatePose.future(query())
        wait_until(lambda: server.server.application.runner.queued > 0)
        leaving.cancel()
        wait_until(lambda: server.server.application.runner.queued == 0)
        triton.process.send_signal(signal.SIGCONT)
        wait_until(lambda: health(server) == SERVING)
        assert server.poses.EstimatePose(query()).instances


def test_a_server_waits_for_a_triton_that_is_not_there_yet(tiny_repository: Path) -> None:
    with LiveServer(settings_for(tiny_repository, engine="triton", triton_url="127.0.0.1:1")) as server:
        assert health(server) == NOT_SERVING
        assert refusal(lambda: server.poses.EstimatePose(query())) is grpc.StatusCode.UNAVAILABLE
        assert server.metric("capeserve_engine_healthy") == 0


def test_a_triton_that_serves_another_export_is_not_believed(
    triton: TritonProcess, tiny_export: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    repository = tiny_export("flf")
    manifest = read_manifest(repository)
    other = manifest.components["pose_decoder"].model_copy(update={"sha256": "f" * 64})
    changed = manifest.model_copy(update={"components": manifest.components | {"pose_decoder": other}})
    (repository / MANIFEST_NAME).write_text(changed.model_dump_json())
    with LiveServer(settings_for(repository, engine="triton", triton_url=triton.grpc)) as server:
        assert health(server) == NOT_SERVING
        assert refusal(lambda: server.poses.EstimatePose(query())) is grpc.StatusCode.UNAVAILABLE
    assert "pose_decoder is not the one that the manifest describes" in caplog.text


async def test_what_tritons_queue_refuses_has_the_callers_code(triton: TritonProcess, tiny_repository: Path) -> None:
    engine = TritonEngine(triton.grpc, read_manifest(tiny_repository), max_queue=0)
    await engine.open()
    with pytest.raises(QueueFullError):
        await engine.submit("image_backbone", {"image": np.zeros((256, 256, 3), np.uint8)}, ["features"])
    await engine.close()
    full, late = (
        grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details)
        for details in ("[request id: 1] Exceeds maximum queue size", "Request timeout expired")
    )
    assert isinstance(engine._translated("image_backbone", full, hung=False), QueueFullError)
    assert isinstance(engine._translated("image_backbone", late, hung=False), DeadlineError)


@pytest.mark.parametrize("url", ["http://triton:8001", "triton", "triton:grpc"])
def test_an_address_that_is_none_is_refused_at_start(tiny_repository: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="triton_url"):
        load_settings(flags={"repository": tiny_repository, "triton_url": url})

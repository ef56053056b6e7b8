"""Two servers that share a Redis, all of them real processes, when all is well and when something dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from cape.v1 import pose_service_pb2, support_pb2, support_service_pb2
from tests.service.live_server import START, Client, ServerProcess
from tests.service.messages import cat_support, query
from tests.service.redis_server import RedisServer

SECONDS = 20.0
"""Far more than anything here takes, on a machine that does other things too."""

redis = pytest.importorskip("redis", reason="the redis client is missing: pip install 'capeserve[redis]'")


def flags(repository: Path, registry: str) -> list[object]:
    """Command line of a server on a free port."""
    return [*("--repository", repository, "--port", 0, "--metrics-port", 0, "--threads", 1), "--registry", registry]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def replicas(shared: RedisServer, tiny_repository: Path) -> Iterator[list[ServerProcess]]:
    """Two servers, which all tests share."""
    with ExitStack() as stack:
        started = [ServerProcess(*flags(tiny_repository, shared.url)) for _ in range(2)]
        yield [stack.enter_context(server) for server in started]


def create(client: Client, support: support_pb2.Support) -> str:
    request = support_service_pb2.CreateSupportRequest(support=support)
    return client.supports.CreateSupport(request).support.name


def delete(client: Client, name: str) -> None:
    client.supports.DeleteSupport(support_service_pb2.DeleteSupportRequest(name=name))


def ask(client: Client, name: str) -> pose_service_pb2.EstimatePoseResponse:
    answer = client.poses.EstimatePose(query(support=name), timeout=SECONDS)
    assert answer.instances
    return answer


def code_of(call: Callable[[], object]) -> grpc.StatusCode:
    """The code of a call's status, OK included."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def wait_for(expected: grpc.StatusCode, call: Callable[[], object]) -> None:
    """Repeats a call until it ends with a status."""
    end = time.monotonic() + SECONDS
    while (code := code_of(call)) is not expected:
        assert time.monotonic() < end, f"it stays {code}"
        time.sleep(0.02)


def test_a_support_created_on_one_replica_can_be_used_on_the_next_at_once(replicas: list[ServerProcess]) -> None:
    for number in range(10):
        one, other = replicas if number % 2 else reversed(replicas)
        name = create(one, cat_support(seed=number))
        assert ask(other, name).provenance.support_cache_hit is False
        assert other.supports.GetSupport(support_service_pb2.GetSupportRequest(name=name)).support.name == name
        assert create(other, cat_support(seed=number)) == name


def test_each_replica_computes_tokens_once(replicas: list[ServerProcess]) -> None:
    name = create(replicas[0], cat_support(seed=20))
    for replica in replicas:
        hits = [ask(replica, name).provenance.support_cache_hit for _ in range(3)]
        assert hits == [False, True, True]


def test_what_one_replica_deletes_the_other_forgets(replicas: list[ServerProcess]) -> None:
    one, other = replicas
    name = create(one, cat_support(seed=21))
    assert [ask(other, name).provenance.support_cache_hit for _ in range(2)] == [False, True]
    delete(one, name)
    wait_for(grpc.StatusCode.NOT_FOUND, lambda: ask(other, name))
    create(one, cat_support(seed=21))
    assert ask(other, name).provenance.support_cache_hit is False, "its tokens were forgotten as well"


def test_a_deletion_that_was_announced_while_a_replica_was_cut_off_reaches_it_later(
    replicas: list[ServerProcess], shared: RedisServer
) -> None:
    one, other = replicas
    kept, gone = (create(one, cat_support(seed=seed)) for seed in (22, 23))
    for name in (kept, gone):
        ask(other, name)
    other.process.send_signal(signal.SIGSTOP)
    try:
        with redis.Redis.from_url(shared.url) as administrator:
            administrator.client_kill_filter(_type="pubsub")
        delete(one, gone)
    finally:
        other.process.send_signal(signal.SIGCONT)
    wait_for(grpc.StatusCode.NOT_FOUND, lambda: ask(other, gone))
    assert ask(other, kept).provenance.support_cache_hit, "what was not deleted stays in memory"


@pytest.mark.parametrize("fault", ["killed", "hanging"])
def test_without_redis_warm_supports_go_on_and_all_comes_back_by_itself(
    replicas: list[ServerProcess], shared: RedisServer, fault: str
) -> None:
    one, other = replicas
    warm, cold = (create(one, cat_support(seed=seed)) for seed in (24, 25))
    ask(one, warm)
    if fault == "killed":
        shared.kill()
    else:
        shared.pause()
    try:
        for _ in range(5):
            assert ask(one, warm).provenance.support_cache_hit
        for refused in (
            lambda: ask(one, cold),
            lambda: ask(other, warm),
            lambda: create(one, cat_support(seed=26)),
            lambda: delete(one, warm),
            lambda: one.supports.ListSupports(support_service_pb2.ListSupportsRequest()),
        ):
            assert code_of(refused) is grpc.StatusCode.UNAVAILABLE
        assert one.poses.EstimatePose(query()).instances, "a support that is sent along needs no registry"
    finally:
        if fault == "killed":
            shared.start()
        else:
            shared.resume()
    wait_for(grpc.StatusCode.OK, lambda: ask(other, cold))
    wait_for(grpc.StatusCode.OK, lambda: create(one, cat_support(seed=26)))
    for replica in replicas:
        assert replica.process.poll() is None
    delete(one, warm)
    wait_for(grpc.StatusCode.NOT_FOUND, lambda: ask(other, warm))


def test_kill_9_of_everything_loses_no_support(tiny_repository: Path, tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        with ServerProcess(*flags(tiny_repository, server.url)) as service:
            names = [create(service, cat_support(seed=seed)) for seed in range(5)]
            server.kill()
            service.process.kill()
            service.process.wait()
        server.start()
        with ServerProcess(*flags(tiny_repository, server.url)) as service:
            listed = service.supports.ListSupports(support_service_pb2.ListSupportsRequest()).supports
            assert [support.name for support in listed] == names
            for name in names:
                ask(service, name)


def test_a_server_that_starts_before_its_redis_works_once_it_is_there(tiny_repository: Path, tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    try:
        with ServerProcess(*flags(tiny_repository, server.url)) as service:
            assert code_of(lambda: create(service, cat_support())) is grpc.StatusCode.UNAVAILABLE
            server.start()
            wait_for(grpc.StatusCode.OK, lambda: create(service, cat_support()))
    finally:
        server.kill()


def test_a_full_redis_refuses_new_supports_but_reads_and_deletes(tiny_repository: Path, tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, ServerProcess(*flags(tiny_repository, server.url)) as service:
        name = create(service, cat_support())
        with redis.Redis.from_url(server.url) as administrator:
            administrator.config_set("maxmemory", 1)
            assert code_of(lambda: create(service, cat_support(seed=1))) is grpc.StatusCode.RESOURCE_EXHAUSTED
            ask(service, name)
            service.supports.DeleteSupport(support_service_pb2.DeleteSupportRequest(name=name))
            administrator.config_set("maxmemory", 0)
        create(service, cat_support(seed=1))


def test_the_password_lets_in_and_stays_out_of_the_log(tiny_repository: Path, tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--requirepass", "hunter2") as server:
        right = server.url.replace("redis://", "redis://:hunter2@")
        with ServerProcess(*flags(tiny_repository, right)) as service:
            create(service, cat_support())
            service.process.terminate()
            _, rest = service.process.communicate(timeout=60)
            assert "hunter2" not in service.log + rest
        command = [sys.executable, "-c", START, "serve", *map(str, flags(tiny_repository, right.replace("2@", "3@")))]
        finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert finished.returncode == 1
        assert "Redis refuses the credentials" in finished.stderr.splitlines()[-1]
        assert "hunter3" not in finished.stderr

"""Getting in where one should not: a server with tokens, from outside."""

from __future__ import annotations

import logging
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from cape.client import Client, ConnectionOptions, UnauthenticatedError
from cape.v1 import model_service_pb2, pose_service_pb2, support_service_pb2
from service.access.api_tokens import TokenFile, digest, new_token, write_tokens
from tests.service.live_server import LiveServer, details, settings_for
from tests.service.messages import cat_support, query
from tests.service.test_server import free_port

SECONDS = 20.0
SERVING = health_pb2.HealthCheckResponse.SERVING
Item = pose_service_pb2.StreamEstimatePoseRequest


class Keys:
    """A token file, and the tokens that are in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, dict[str, object]] = {}

    def add(self, tenant: str, **limits: object) -> str:
        number, secret = new_token()
        self.entries[secret] = {"id": number, "tenant": tenant, "sha256": digest(secret), **limits}
        self.write()
        return secret

    def write(self) -> None:
        write_tokens(self.path, TokenFile.model_validate({"tokens": list(self.entries.values())}))


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def code_of(call: Callable[[], object]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    keys = Keys(tmp_path_factory.mktemp("keys") / "tokens.yaml")
    keys.ours, keys.theirs = keys.add("ours"), keys.add("theirs")
    return keys


@pytest.fixture(scope="module")
def closed(tiny_repository: Path, keys: Keys) -> Iterator[LiveServer]:
    """A server that wants tokens."""
    with LiveServer(settings_for(tiny_repository, tokens=keys.path, metrics_port=free_port())) as server:
        yield server


def admitted(server: LiveServer, keys: Keys, tenant: str, **limits: object) -> str:
    """A new token, once the server knows it."""
    token = keys.add(tenant, **limits)
    end = time.monotonic() + SECONDS
    probe = ProtoReflectionProbe(server, token)
    while code_of(probe) is grpc.StatusCode.UNAUTHENTICATED:
        assert time.monotonic() < end, "the file is not read again"
        time.sleep(0.05)
    return token


class ProtoReflectionProbe:
    """A call that counts against no limit: reflection is no method of ours."""

    def __init__(self, server: LiveServer, token: str) -> None:
        self._call = server.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        self._metadata = bearer(token)

    def __call__(self) -> None:
        list(self._call(iter([]), metadata=self._metadata, timeout=SECONDS))


METHODS = [
    "/cape.v1.PoseService/EstimatePose",
    "/cape.v1.PoseService/BatchEstimatePose",
    "/cape.v1.PoseService/StreamEstimatePose",
    "/cape.v1.SupportService/CreateSupport",
    "/cape.v1.SupportService/GetSupport",
    "/cape.v1.SupportService/ListSupports",
    "/cape.v1.SupportService/DeleteSupport",
    "/cape.v1.ModelService/ListModels",
    "/cape.v1.ModelService/GetPerformanceReport",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/cape.v1.PoseService/NoSuchMethod",
    "/grpc.health.v1.Health2/Check",
    "/grpc.health.v1.Healthy",
    "/",
]


@pytest.mark.parametrize("method", METHODS)
def test_without_a_token_nothing_but_health_answers(closed: LiveServer, method: str) -> None:
    unary = closed.channel.unary_unary(method)
    assert code_of(lambda: unary(b"", timeout=SECONDS)) is grpc.StatusCode.UNAUTHENTICATED
    stream = closed.channel.stream_stream(method)
    assert code_of(lambda: list(stream(iter([]), timeout=SECONDS))) is grpc.StatusCode.UNAUTHENTICATED


def test_every_method_of_the_api_is_in_that_list() -> None:
    services = [
        module.DESCRIPTOR.services_by_name.values()
        for module in (pose_service_pb2, support_service_pb2, model_service_pb2)
    ]
    for service in (service for group in services for service in group):
        for method in service.methods:
            assert f"/{service.full_name}/{method.name}" in METHODS


def test_health_is_open(closed: LiveServer) -> None:
    assert closed.health.Check(health_pb2.HealthCheckRequest()).status == SERVING
    watch = closed.health.Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == SERVING
    watch.cancel()


def test_what_only_looks_like_a_token_does_not_open(closed: LiveServer, keys: Keys) -> None:
    right = keys.ours
    wrong = [
        (("authorization", right),),
        (("authorization", f"Basic {right}"),),
        (("authorization", "Bearer "),),
        (("authorization", f"Bearer {right}A"),),
        (("authorization", f"Bearer {right[:-1]}"),),
        (("authorization", f"Bearer {keys.entries[right]['sha256']}"),),
        (("authorization", f"Bearer {'A' * 5000}"),),
        (*bearer(right), *bearer(keys.theirs)),
        (*bearer(right[:-1]), *bearer(right)),
        (("authorization-bin", f"Bearer {right}".encode()),),
        (("x-authorization", f"Bearer {right}"),),
        (("token", right),),
    ]
    request = model_service_pb2.ListModelsRequest()
    for metadata in wrong:
        call = lambda metadata=metadata: closed.models.ListModels(request, metadata=metadata)  # noqa: E731
        assert code_of(call) is grpc.StatusCode.UNAUTHENTICATED, metadata[0][0]
    for metadata in (bearer(right), (("authorization", f"bearer {right}"),)):
        assert closed.models.ListModels(request, metadata=metadata).models


def test_a_stranger_is_refused_before_its_message_is_read(closed: LiveServer) -> None:
    def endless() -> Iterator[Item]:
        while True:
            yield Item(request=query())

    call = closed.poses.StreamEstimatePose(endless())
    assert code_of(lambda: next(call)) is grpc.StatusCode.UNAUTHENTICATED
    assert closed.metric("capeserve_requests_in_flight", method="StreamEstimatePose") == 0


def test_with_a_token_reflection_answers_too(closed: LiveServer, keys: Keys) -> None:
    assert code_of(ProtoReflectionProbe(closed, keys.ours)) is grpc.StatusCode.OK


def test_a_tenant_sees_its_own_supports_and_no_others(closed: LiveServer, keys: Keys) -> None:
    create = support_service_pb2.CreateSupportRequest(support=cat_support(seed=1))
    theirs = closed.supports.CreateSupport(create, metadata=bearer(keys.theirs))
    name = theirs.support.name
    requests = {
        closed.supports.GetSupport: support_service_pb2.GetSupportRequest(name=name),
        closed.supports.DeleteSupport: support_service_pb2.DeleteSupportRequest(name=name),
        closed.poses.EstimatePose: query(support=name),
    }
    for method, request in requests.items():
        with pytest.raises(grpc.RpcError) as caught:
            method(request, metadata=bearer(keys.ours))
        unknown = type(request)()
        unknown.CopyFrom(request)
        missing = "supports/" + "0" * 32
        if isinstance(unknown, pose_service_pb2.EstimatePoseRequest):
            unknown.support = missing
        else:
            unknown.name = missing
        with pytest.raises(grpc.RpcError) as never:
            method(unknown, metadata=bearer(keys.ours))
        assert caught.value.code() is never.value.code() is grpc.StatusCode.NOT_FOUND
        assert caught.value.details().replace(name, missing) == never.value.details(), "they look the same"
    listed = support_service_pb2.ListSupportsRequest()
    assert not closed.supports.ListSupports(listed, metadata=bearer(keys.ours)).supports
    assert len(closed.supports.ListSupports(listed, metadata=bearer(keys.theirs)).supports) == 1
    closed.poses.EstimatePose(query(support=name), metadata=bearer(keys.theirs))


def test_the_same_content_of_two_tenants_tells_neither_of_the_other(closed: LiveServer, keys: Keys) -> None:
    create = support_service_pb2.CreateSupportRequest(support=cat_support(seed=2))
    first = closed.supports.CreateSupport(create, metadata=bearer(keys.theirs))
    for _ in range(2):
        closed.poses.EstimatePose(query(support=first.support.name), metadata=bearer(keys.theirs))
    inline = closed.poses.EstimatePose(query(inline_support=cat_support(seed=2)), metadata=bearer(keys.ours))
    assert not inline.provenance.support_cache_hit
    assert inline.provenance.texts == 3
    assert inline.provenance.text_cache_hits == 0, "nor does it learn which texts others use"
    again = closed.supports.CreateSupport(create, metadata=bearer(keys.ours))
    assert not again.already_existed
    closed.supports.DeleteSupport(
        support_service_pb2.DeleteSupportRequest(name=again.support.name), metadata=bearer(keys.ours)
    )
    theirs = closed.poses.EstimatePose(query(support=first.support.name), metadata=bearer(keys.theirs))
    assert theirs.provenance.support_cache_hit, "what one deletes, the other keeps"


def test_a_new_token_opens_and_a_revoked_one_does_not_without_a_restart(closed: LiveServer, keys: Keys) -> None:
    token = admitted(closed, keys, "ours")
    request = model_service_pb2.ListModelsRequest()
    assert closed.models.ListModels(request, metadata=bearer(token)).models
    del keys.entries[token]
    keys.write()
    end = time.monotonic() + SECONDS
    while code_of(lambda: closed.models.ListModels(request, metadata=bearer(token))) is grpc.StatusCode.OK:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert closed.models.ListModels(request, metadata=bearer(keys.ours)).models


def test_a_file_that_is_spoilt_changes_nothing(
    closed: LiveServer, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    keys.path.write_text("tokens: oops")
    end = time.monotonic() + SECONDS
    while "the tokens stay as they were" not in caplog.text:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert closed.models.ListModels(model_service_pb2.ListModelsRequest(), metadata=bearer(keys.ours)).models
    keys.write()


def refusal(call: Callable[[], object]) -> dict[str, object]:
    """The details of a RESOURCE_EXHAUSTED."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return details(caught.value)


def test_who_calls_too_often_is_told_when_to_come_back_and_others_are_not_held_up(
    closed: LiveServer, keys: Keys
) -> None:
    token = admitted(closed, keys, "ours", requests_per_second=0.01, burst=2)
    request = model_service_pb2.ListModelsRequest()
    for _ in range(2):
        closed.models.ListModels(request, metadata=bearer(token))
    found = refusal(lambda: closed.models.ListModels(request, metadata=bearer(token)))
    assert 50 < found["RetryInfo"].retry_delay.ToSeconds() <= 100
    assert found["ErrorInfo"].reason == "CALLER_LIMIT"
    assert closed.models.ListModels(request, metadata=bearer(keys.ours)).models
    assert closed.metric("capeserve_callers_refused_total", reason="rate") >= 1


def test_the_items_of_batches_and_streams_count_too(closed: LiveServer, keys: Keys) -> None:
    batch = pose_service_pb2.BatchEstimatePoseRequest(requests=[query()] * 5)
    token = admitted(closed, keys, "ours", requests_per_second=0.001, burst=3)
    results = closed.poses.BatchEstimatePose(batch, metadata=bearer(token)).results
    assert all(result.HasField("response") for result in results), "a batch larger than the burst passes whole"
    refusal(lambda: closed.poses.EstimatePose(query(), metadata=bearer(token)))  # and is paid for afterwards
    token = admitted(closed, keys, "ours", requests_per_second=0.001, burst=3)
    items = (Item(request_id=str(number), request=query()) for number in range(5))
    answers = list(closed.poses.StreamEstimatePose(items, metadata=bearer(token)))
    assert sum(answer.result.HasField("response") for answer in answers) == 2
    assert {answer.result.error.code for answer in answers if answer.result.HasField("error")} == {8}


def test_who_has_too_many_calls_is_refused_and_others_are_not(closed: LiveServer, keys: Keys) -> None:
    token = admitted(closed, keys, "ours", max_in_flight=1)
    batch = pose_service_pb2.BatchEstimatePoseRequest(requests=[query()] * 100)
    running = closed.poses.BatchEstimatePose.future(batch, metadata=bearer(token))
    closed.wait_for("capeserve_requests_in_flight", 1, method="BatchEstimatePose")
    found = refusal(lambda: closed.poses.EstimatePose(query(), metadata=bearer(token)))
    assert found["RetryInfo"].retry_delay.ToNanoseconds() > 0
    assert not running.done(), "the batch must still run for this test to say anything"
    assert closed.poses.EstimatePose(query(), metadata=bearer(keys.ours)).instances
    assert all(result.HasField("response") for result in running.result().results)
    assert closed.poses.EstimatePose(query(), metadata=bearer(token)).instances


def test_a_message_over_the_callers_own_limit_is_refused(closed: LiveServer, keys: Keys) -> None:
    token = admitted(closed, keys, "ours", max_message_bytes=2000)
    found = refusal(lambda: closed.poses.EstimatePose(query(bytes(3000)), metadata=bearer(token)))
    assert found["ErrorInfo"].reason == "MESSAGE_TOO_LARGE"
    stream = closed.poses.StreamEstimatePose(iter([Item(request=query(bytes(3000)))]), metadata=bearer(token))
    refusal(lambda: list(stream))
    assert closed.models.ListModels(model_service_pb2.ListModelsRequest(), metadata=bearer(token)).models


def test_every_call_leaves_a_line_in_the_audit_log_and_no_secret_anywhere(
    closed: LiveServer, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        closed.models.ListModels(model_service_pb2.ListModelsRequest(), metadata=bearer(keys.ours))
        _, stranger = new_token()
        for token in (stranger, keys.ours[:-1]):
            assert (
                code_of(lambda token=token: closed.poses.EstimatePose(query(), metadata=bearer(token)))
                is grpc.StatusCode.UNAUTHENTICATED
            )
        end = time.monotonic() + SECONDS
        while "method=ListModels" not in caplog.text:  # written once the answer has left
            assert time.monotonic() < end
            time.sleep(0.01)
    lines = [record.getMessage() for record in caplog.records if record.name == "service.access.audit"]
    (answered,) = [line for line in lines if line.startswith("call")]
    number = keys.entries[keys.ours]["id"]
    assert f"method=ListModels tenant=ours token={number} peer=ipv4:127.0.0.1:" in answered
    assert "code=OK" in answered
    assert sum("refused method='/cape.v1.PoseService/EstimatePose'" in line for line in lines) == 2
    url = f"http://127.0.0.1:{closed._settings.metrics_port}/metrics"
    metrics = urllib.request.urlopen(url).read().decode()
    for secret in (keys.ours[14:], stranger[14:], str(keys.entries[keys.ours]["sha256"])):
        assert secret not in caplog.text
        assert secret not in metrics


def test_a_stranger_who_hammers_at_the_door_does_not_fill_the_log(
    closed: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    before = closed.metric("capeserve_callers_refused_total", reason="token")
    started = time.monotonic()
    request = model_service_pb2.ListModelsRequest()
    for _ in range(300):
        assert code_of(lambda: closed.models.ListModels(request)) is grpc.StatusCode.UNAUTHENTICATED
    seconds = time.monotonic() - started
    lines = [record for record in caplog.records if record.name == "service.access.audit"]
    assert len(lines) <= 50 + 10 * (seconds + 1)
    assert closed.metric("capeserve_callers_refused_total", reason="token") == before + 300


def test_the_clients_token_opens(closed: LiveServer, keys: Keys) -> None:
    target = closed.server.target
    with Client(target, ConnectionOptions(token=keys.ours)) as client:
        assert client.models()
    with Client(target) as client, pytest.raises(UnauthenticatedError, match="a token is needed"):
        client.models()

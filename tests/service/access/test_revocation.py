"""Tokens that are revoked, expire, or whose file is deleted: calls and open streams end."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from cape.v1 import model_service_pb2, pose_service_pb2
from service.access.api_tokens import TokenEntry, TokenFile, digest, new_token, write_tokens
from service.handlers import authentication
from tests.service.live_server import LiveServer, settings_for
from tests.service.messages import query

SECONDS = 30.0


class Guarded:
    """A server with one token."""

    def __init__(self, server: LiveServer, path: Path, number: str, token: str) -> None:
        self.server, self.path, self.number, self.token = server, path, number, token
        self.metadata = (("authorization", f"Bearer {token}"),)

    def write(self, **fields: Any) -> None:
        entry = TokenEntry(id=self.number, tenant="acme", sha256=digest(self.token), **fields)
        write_tokens(self.path, TokenFile(tokens=(entry,)))

    def is_let_in(self) -> bool:
        try:
            self.server.models.ListModels(model_service_pb2.ListModelsRequest(), metadata=self.metadata)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            return False
        return True

    def wait_until(self, let_in: bool) -> None:
        end = time.monotonic() + SECONDS
        while self.is_let_in() is not let_in:
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.fixture
def guarded(tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    monkeypatch.setattr(authentication, "RELOAD_SECONDS", 0.05)
    monkeypatch.setattr(authentication, "MISSING_SECONDS", 0.05)
    number, token = new_token()
    path = tmp_path / "tokens.yaml"
    entry = TokenEntry(id=number, tenant="acme", sha256=digest(token))
    write_tokens(path, TokenFile(tokens=(entry,)))
    with LiveServer(settings_for(tiny_repository, tokens=path)) as server:
        yield Guarded(server, path, number, token)


def test_a_bad_date_changes_nothing_and_the_next_good_file_is_read(guarded: Guarded) -> None:
    good = guarded.path.read_text()
    guarded.path.write_text(good + "  expires: 2027-13-01T00:00:00Z\n")
    guarded.server.wait_for("capeserve_tokens_current", 0.0)
    assert guarded.is_let_in()
    guarded.path.write_text("tokens: []\n")
    guarded.wait_until(let_in=False)
    assert guarded.server.metric("capeserve_background_task_failures_total", task="tokens") == 0


def test_a_deleted_file_lets_nobody_in_until_it_is_back(guarded: Guarded) -> None:
    good = guarded.path.read_text()
    guarded.path.unlink()
    guarded.wait_until(let_in=False)
    guarded.path.write_text(good)
    guarded.wait_until(let_in=True)


@pytest.mark.parametrize("ending", ["revoked", "expired", "deleted"])
def test_an_open_stream_ends_with_its_token(guarded: Guarded, ending: str) -> None:
    requests: queue.Queue[pose_service_pb2.StreamEstimatePoseRequest | None] = queue.Queue()
    stream = guarded.server.poses.StreamEstimatePose(iter(requests.get, None), metadata=guarded.metadata)
    requests.put(pose_service_pb2.StreamEstimatePoseRequest(request_id="1", request=query()))
    assert next(stream).request_id == "1"
    if ending == "revoked":
        write_tokens(guarded.path, TokenFile(tokens=()))
    elif ending == "expired":
        guarded.write(expires=datetime.now(UTC) + timedelta(seconds=0.3))
    else:
        guarded.path.unlink()
    with pytest.raises(grpc.RpcError) as error:
        next(stream)
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    requests.put(None)

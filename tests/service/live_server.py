"""A real server on a real port, in this process or in one of its own."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_status import rpc_status

from cape.v1 import model_service_pb2_grpc, pose_service_pb2_grpc, support_service_pb2_grpc
from service.engines.base import Engine
from service.server import RunningServer, running_server
from service.settings import Settings, load_settings
from service.telemetry.request_context import Tracer


def settings_for(repository: Path, **changes: object) -> Settings:
    """Settings of a server that meets no other one."""
    flags = {"repository": repository, "engine": "onnxruntime", "port": 0, "metrics_port": 0}
    return load_settings(flags=flags | {"registry": "sqlite://", "threads": 1} | changes)


def details(error: grpc.RpcError) -> dict[str, Any]:
    """The google.rpc details of an error, by message name."""
    status = rpc_status.from_call(error)
    assert status is not None
    found = {}
    for packed in status.details:
        name = packed.TypeName().rpartition(".")[2]
        found[name] = getattr(error_details_pb2, name)()
        packed.Unpack(found[name])
    return found


class Client:
    """A stub of every service on one channel."""

    def __init__(self, target: str) -> None:
        self.channel = grpc.insecure_channel(target, options=[("grpc.max_receive_message_length", -1)])
        self.poses = pose_service_pb2_grpc.PoseServiceStub(self.channel)
        self.supports = support_service_pb2_grpc.SupportServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)


class LiveServer(Client):
    """A server in a thread of its own, so that tests may block; a context manager."""

    server: RunningServer

    def __init__(self, settings: Settings, engine: Engine | None = None, tracer: Tracer | None = None) -> None:
        self._settings = settings
        self._engine = engine
        self._tracer = tracer
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        try:
            async with running_server(self._settings, self._engine, self._tracer) as self.server:
                self._ready.set()
                await self._stop.wait()
        finally:
            self._ready.set()

    def __enter__(self) -> LiveServer:
        self._thread.start()
        self._ready.wait()
        assert self._thread.is_alive(), "the server did not start"
        Client.__init__(self, self.server.target)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.channel.close()

    def stop(self) -> None:
        """Does what SIGTERM does, and waits until the server is gone."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(timeout=60)
        assert not self._thread.is_alive(), "the server does not stop"

    def metric(self, name: str, **labels: str) -> float:
        """A sample of the server's metrics; 0 where there is none yet."""
        return self.server.application.metrics.registry.get_sample_value(name, labels) or 0.0

    def wait_for(self, name: str, value: float, **labels: str) -> None:
        """Waits until a metric has a value."""
        while self.metric(name, **labels) != value:
            time.sleep(0.001)


START = "from cli.main import main; main()"
"""What the command `capeserve` runs."""


class ServerProcess(Client):
    """`capeserve serve` as a process; a context manager that kills what is left of it."""

    def __init__(self, *flags: object, prologue: str = "") -> None:
        """Starts it; `prologue` is Python to run first."""
        command = [sys.executable, "-c", f"{prologue}\n{START}", "serve", *(str(flag) for flag in flags)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> ServerProcess:
        assert self.process.stderr is not None
        self.log = ""
        for line in self.process.stderr:
            self.log += line
            if address := re.search(r"serving .* on ([\w.]+:\d+)", line):
                Client.__init__(self, address[1])
                return self
        raise AssertionError(f"the server did not start:\n{self.log}")

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

"""Backup, restore and memory limits of the Redis manifests, on a real Redis."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.k8s.kubernetes_objects import named, pod_of
from tests.k8s.manifest_files import K8S

pytestmark = pytest.mark.skipif(
    shutil.which("redis-server") is None or shutil.which("redis-check-rdb") is None,
    reason="redis-server is missing: apt-get install redis-server redis-tools",
)

RESTORE = K8S / "components" / "redis-backup" / "restore_job.yaml"


def script_of(container: dict) -> str:
    """The shell script that a container runs."""
    return container["command"][-1]


@contextmanager
def redis_server(folder: Path, port: int) -> Iterator[None]:
    """A Redis with an append-only file in `folder`."""
    command = ["redis-server", "--dir", str(folder), "--port", str(port), "--appendonly", "yes", "--bind", "127.0.0.1"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 20
        while "PONG" not in ask(port, "ping") and time.monotonic() < end:
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        server.wait(20)


def ask(port: int, *words: str) -> str:
    """Output of redis-cli."""
    command = ["redis-cli", "-p", str(port), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_backup_restores_a_registry_whose_volume_is_lost(built: dict[str, list[dict]], tmp_path: Path) -> None:
    (backup,) = pod_of(named(built["cpu"], "CronJob", "capeserve-redis-backup"))["containers"]
    (restore,) = yaml.safe_load(RESTORE.read_text())["spec"]["template"]["spec"]["containers"]
    before, backups, after = (tmp_path / name for name in ("before", "backups", "after"))
    for folder in (before, backups, after):
        folder.mkdir()
    port = free_port()
    environment = os.environ | {"BACKUPS": str(backups), "REDIS_HOST": "127.0.0.1", "KEEP": "2"}
    with redis_server(before, port):
        ask(port, "hset", "support:1", "outline", "cat")
        for number in range(4):
            (backups / f"capeserve-2020010{number}T000000Z.rdb").touch()
        run = environment | {"REDIS_OPTIONS": f"-p {port}"}
        subprocess.run(["sh", "-c", script_of(backup)], env=run, check=True, capture_output=True)
    kept = sorted(path.name for path in backups.iterdir())
    assert len(kept) == 2, "old copies are deleted"
    run = environment | {"BACKUP": kept[-1], "DATA": str(after), "SOCKET": str(tmp_path / "s.sock")}
    finished = subprocess.run(["sh", "-c", script_of(restore)], env=run, check=True, capture_output=True, text=True)
    assert "supports restored: 1" in finished.stdout
    with redis_server(after, port):
        assert ask(port, "hget", "support:1", "outline") == "cat"


def test_the_memory_limit_holds_the_data_the_replies_and_a_rewrite_of_the_file(built: dict[str, list[dict]]) -> None:
    (container,) = pod_of(named(built["cpu"], "StatefulSet", "capeserve-redis"))["containers"]
    lines = dict(line.split(" ", 1) for line in map(str.strip, script_of(container).splitlines()) if " " in line)
    data, replies = (int(lines[name].removesuffix("mb")) for name in ("maxmemory", "maxmemory-clients"))
    assert container["resources"]["limits"]["memory"] == "2Gi"
    assert 2 * data + replies <= 2048

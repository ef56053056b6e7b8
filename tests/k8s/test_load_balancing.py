"""What k8s/README.md tells clients to write spreads their calls over replicas, and goes round one that stops."""

from __future__ import annotations

import re
from pathlib import Path

import grpc

from cape.v1 import model_service_pb2, model_service_pb2_grpc
from tests.k8s.kubernetes_objects import named, of_kind
from tests.k8s.manifest_files import K8S, OVERLAYS
from tests.service.live_server import LiveServer, settings_for

README = (K8S / "README.md").read_text()
CALLS = 40


def balanced(*targets: str) -> grpc.Channel:
    """A channel with the options that the guide gives."""
    options = re.search(r"options=(\[\(.+?\)\])", README)[1]
    return grpc.insecure_channel(f"ipv4:{','.join(targets)}", options=eval(options))


def answered(server: LiveServer) -> float:
    return server.metric("capeserve_requests_total", method="ListModels", code="OK")


def test_calls_are_spread_and_go_on_when_a_replica_stops(tiny_repository: Path) -> None:
    first, second = (LiveServer(settings_for(tiny_repository)) for _ in range(2))
    with first, second, balanced(first.server.target, second.server.target) as channel:
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        grpc.channel_ready_future(channel).result(timeout=10)
        for _ in range(CALLS):
            models.ListModels(model_service_pb2.ListModelsRequest(), wait_for_ready=True)
        assert answered(first) + answered(second) == CALLS
        assert min(answered(first), answered(second)) > CALLS / 4
        before = answered(second)
        first.stop()
        for _ in range(CALLS):
            models.ListModels(model_service_pb2.ListModelsRequest(), wait_for_ready=True)
        assert answered(second) == before + CALLS


def test_the_guide_names_the_service_and_the_label_that_there_are(built: dict[str, list[dict]]) -> None:
    host, port = re.search(r"dns:///([\w.]+):(\d+)", README).groups()
    name, namespace = host.split(".")[:2]
    assert "cpu" in OVERLAYS
    service = named(built["cpu"], "Service", name)
    assert service["metadata"]["namespace"] == namespace
    assert int(port) in {item["port"] for item in service["spec"]["ports"]}
    admitted = [
        peer["podSelector"]["matchLabels"]
        for policy in of_kind(built["cpu"], "NetworkPolicy")
        for rule in policy["spec"].get("ingress", [])
        for peer in rule["from"]
        if "namespaceSelector" in peer and "podSelector" in peer
    ]
    assert [f'`{key}: "{value}"`' in README for labels in admitted for key, value in labels.items()] == [True]

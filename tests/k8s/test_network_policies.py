"""The network policies, evaluated against the connections that must and must not be possible."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

import pytest

from tests.k8s.kubernetes_objects import labels_of, matches, named, of_kind, port_numbers

NAME = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod, or an address outside the cluster."""

    namespace: dict = field(default_factory=dict)
    labels: dict = field(default_factory=dict)
    address: str = ""


def selects(rule_peer: dict, peer: Peer, own: str) -> bool:
    """Whether an entry of `from` or `to` selects a peer; `own`: namespace of the policy."""
    if "ipBlock" in rule_peer:
        block = rule_peer["ipBlock"]
        address = ipaddress.ip_address(peer.address or "10.9.9.9")
        excluded = any(address in ipaddress.ip_network(part) for part in block.get("except", []))
        return address in ipaddress.ip_network(block["cidr"]) and not excluded
    if peer.address:
        return False
    if "namespaceSelector" in rule_peer:
        if not matches(rule_peer["namespaceSelector"].get("matchLabels", {}), peer.namespace):
            return False
    elif peer.namespace.get(NAME) != own:
        return False
    return matches(rule_peer.get("podSelector", {}).get("matchLabels", {}), peer.labels)


def allowed(objects: list[dict], workload: dict, direction: str, peer: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether the policies allow a connection to ('Ingress') or from ('Egress') the pods of a workload."""
    names = port_numbers(workload)
    policies = [
        policy
        for policy in of_kind(objects, "NetworkPolicy")
        if matches(policy["spec"]["podSelector"].get("matchLabels", {}), labels_of(workload))
        and direction in policy["spec"]["policyTypes"]
    ]
    side = "from" if direction == "Ingress" else "to"
    return not policies or any(
        (side not in rule or any(selects(entry, peer, policy["metadata"]["namespace"]) for entry in rule[side]))
        and (
            "ports" not in rule
            or any(
                names.get(entry["port"], entry["port"]) == port and entry.get("protocol", "TCP") == protocol
                for entry in rule["ports"]
            )
        )
        for policy in policies
        for rule in policy["spec"].get(direction.lower(), [])
    )


OURS = {NAME: "capeserve"}
SERVICE = {"app.kubernetes.io/name": "capeserve", "app.kubernetes.io/component": "service"}
CLIENT = Peer({NAME: "shop"}, {"capeserve/client": "true"})
STRANGER = Peer({NAME: "shop"}, {"app": "web"})
GATEWAY = Peer({NAME: "ingress", "capeserve/gateway": "true"}, {"app": "envoy"})
MONITORING = Peer({NAME: "monitoring"}, {"app": "prometheus"})
DNS = Peer({NAME: "kube-system"}, {"k8s-app": "kube-dns"})
MESH = Peer({NAME: "istio-system", "capeserve/mesh-control-plane": "true"}, {"app": "istiod"})
NODE_DNS = Peer(address="169.254.20.10")
INTERNET = Peer(address="203.0.113.9")
REDIS = Peer(OURS, {**SERVICE, "app.kubernetes.io/component": "redis"})
BACKUP = Peer(OURS, {**SERVICE, "app.kubernetes.io/component": "redis-backup"})


@pytest.mark.parametrize(
    ("name", "direction", "peer", "port", "expected"),
    [
        ("Deployment/capeserve", "Ingress", CLIENT, 50051, True),
        ("Deployment/capeserve", "Ingress", GATEWAY, 50051, True),
        ("Deployment/capeserve", "Ingress", STRANGER, 50051, False),
        ("Deployment/capeserve", "Ingress", CLIENT, 9464, False),
        ("Deployment/capeserve", "Ingress", GATEWAY, 50052, False),
        ("Deployment/capeserve", "Ingress", MONITORING, 9464, True),
        ("Deployment/capeserve", "Ingress", MONITORING, 50051, False),
        ("Deployment/capeserve", "Egress", DNS, 53, True),
        ("Deployment/capeserve", "Egress", NODE_DNS, 53, True),
        ("Deployment/capeserve", "Egress", MESH, 15012, True),
        ("Deployment/capeserve", "Egress", REDIS, 6379, True),
        ("Deployment/capeserve", "Egress", STRANGER, 443, False),
        ("Deployment/capeserve", "Egress", INTERNET, 443, False),
        ("StatefulSet/capeserve-redis", "Ingress", Peer(OURS, SERVICE), 6379, True),
        ("StatefulSet/capeserve-redis", "Ingress", BACKUP, 6379, True),
        ("StatefulSet/capeserve-redis", "Ingress", CLIENT, 6379, False),
        ("StatefulSet/capeserve-redis", "Ingress", Peer({NAME: "other"}, SERVICE), 6379, False),
        ("StatefulSet/capeserve-redis", "Egress", INTERNET, 443, False),
        ("CronJob/capeserve-redis-backup", "Egress", REDIS, 6379, True),
        ("CronJob/capeserve-redis-backup", "Egress", INTERNET, 443, False),
        ("Job/capeserve-export", "Egress", DNS, 53, False),
    ],
)
@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_policies_allow_these_connections_and_no_others(
    built: dict[str, list[dict]], overlay: str, name: str, direction: str, peer: Peer, port: int, expected: bool
) -> None:
    workload = named(built[overlay], *name.split("/"))
    assert allowed(built[overlay], workload, direction, peer, port) is expected


def test_nobody_reaches_triton_but_prometheus_its_metrics(built: dict[str, list[dict]]) -> None:
    workload = named(built["gpu"], "Deployment", "capeserve")
    for peer in (CLIENT, GATEWAY, STRANGER, Peer(OURS, SERVICE)):
        assert not any(allowed(built["gpu"], workload, "Ingress", peer, port) for port in (8000, 8001, 8002))
    assert allowed(built["gpu"], workload, "Ingress", MONITORING, 8002)
    assert not allowed(built["gpu"], workload, "Ingress", MONITORING, 8001)

"""The ports that a server listens on, and who is let in there."""

from __future__ import annotations

import ipaddress
import logging

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from service.access.api_tokens import TokenFileError
from service.access.certificates import CertificateError, Certificates
from service.errors import StartError
from service.handlers.authentication import AuthenticationInterceptor
from service.settings import Settings
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


def address_of(host: str, port: int) -> str:
    """'host:port', an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def access_of(settings: Settings, metrics: Metrics) -> AuthenticationInterceptor | None:
    """What lets callers in by their tokens; None where the settings name no tokens.

    Raises:
        StartError: the token file cannot be used.
    """
    if settings.tokens is None:
        return None
    if settings.tls_certificate is None and not _is_loopback(settings.host):
        logger.warning("tokens without TLS on %s: whoever can listen to the network can read them", settings.host)
    try:
        return AuthenticationInterceptor(settings.tokens, metrics)
    except TokenFileError as error:
        raise StartError(f"tokens: {error}") from None


def listen(server: grpc.aio.Server, settings: Settings) -> int:
    """Makes a server listen, with TLS where the settings name a certificate; returns the port.

    Raises:
        StartError: the port is taken, the host is not ours, or the certificates cannot be used.
    """
    address = address_of(settings.host, settings.port)
    try:
        if settings.tls_certificate is None or settings.tls_key is None:
            return server.add_insecure_port(address)
        certificates = Certificates(settings.tls_certificate, settings.tls_key, settings.tls_client_authority)
        return server.add_secure_port(address, certificates.credentials())
    except CertificateError as error:
        raise StartError(f"TLS: {error}") from None
    except RuntimeError:
        raise StartError(f"cannot listen on {address}: is the port taken, or the host not ours?") from None


async def health_server(settings: Settings, probes: health.aio.HealthServicer) -> grpc.aio.Server:
    """Starts a server of nothing but health, without TLS: Kubernetes' own probes speak none.

    Raises:
        StartError: the port is taken, or the host is not ours.
    """
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 4096)))
    health_pb2_grpc.add_HealthServicer_to_server(probes, server)
    address = address_of(settings.host, settings.health_port)
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        raise StartError(f"cannot listen on {address} for health: is the port taken?") from None
    await server.start()
    return server


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

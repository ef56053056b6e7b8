"""The ports that a server listens on, and the authentication of their callers."""

from __future__ import annotations

import ipaddress
import logging

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from service.access.api_tokens import TokenFileError
from service.access.certificates import CertificateError, Certificates
from service.errors import StartError
from service.grpc_options import health_options
from service.handlers.authentication import AuthenticationInterceptor
from service.handlers.stream_limits import StreamLimitInterceptor
from service.settings import Settings
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


def address_of(host: str, port: int) -> str:
    """'host:port', an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def access_of(settings: Settings, metrics: Metrics) -> AuthenticationInterceptor | None:
    """Authentication by tokens; None where the settings name no token file.

    Raises:
        StartError: the token file cannot be used.
    """
    if settings.tokens is None:
        return None
    if settings.tls_certificate is None and not _is_loopback(settings.host):
        logger.warning("tokens without TLS on %s: anyone who can read the network traffic can use them", settings.host)
    try:
        return AuthenticationInterceptor(settings.tokens, metrics)
    except TokenFileError as error:
        raise StartError(f"tokens: {error}") from None


def listen(server: grpc.aio.Server, settings: Settings) -> int:
    """Makes a server listen, with TLS where the settings name a certificate; returns the port.

    Raises:
        StartError: the port is taken, the host is not one of this machine, or the certificates cannot be used.
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
        raise StartError(
            f"cannot listen on {address}: is the port taken, or the host not one of this machine?"
        ) from None


async def health_server(settings: Settings, probes: health.aio.HealthServicer) -> grpc.aio.Server:
    """Starts a server that answers health checks only, without TLS, which Kubernetes' probes do not support.

    Raises:
        StartError: the port is taken, or the host is not one of this machine.
    """
    server = grpc.aio.server(interceptors=(StreamLimitInterceptor(),), options=health_options())
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

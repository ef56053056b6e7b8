"""TLS certificates of the gRPC port, read again when they are replaced."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import grpc

from service.access.certificate_dates import earliest_expiry
from service.access.file_changes import FileChanges

logger = logging.getLogger(__name__)


class CertificateError(Exception):
    """Certificates that cannot be used. The message is one line."""


class Certificates:
    """The server's certificate and key, and the authority that client certificates are checked against.

    gRPC asks for them with every new connection, from a thread of its own. Open connections keep the certificate that
    they were made with.
    """

    def __init__(self, certificate: Path, key: Path, client_authority: Path | None) -> None:
        """Reads the files, all PEM.

        Args:
            certificate: the server's, followed by those that link it to its authority.
            key: its private key.
            client_authority: authority whose certificates clients must present (mutual TLS); None: clients need none.

        Raises:
            CertificateError: a file cannot be read, certificate and key are not a pair, or the certificate has expired.
        """
        self._certificate = certificate
        self._key = key
        self._authority = client_authority
        self._lock = threading.Lock()
        try:
            self._files = FileChanges([path for path in (certificate, key, client_authority) if path is not None])
            self._current = self._read()
        except OSError as error:
            raise CertificateError(f"{error.filename}: {error.strerror}") from None

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials for `grpc.Server.add_secure_port`."""
        # gRPC's documentation lets the function return None; its types do not.
        fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", self._fetch)
        return grpc.dynamic_ssl_server_credentials(
            self._current, fetch, require_client_authentication=self._authority is not None
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC for every connection: the certificates if they have changed, else None."""
        with self._lock:
            if not self._files.changed():
                return None
            try:
                self._current = self._read()
            except (OSError, CertificateError) as error:
                logger.error("the new certificates are refused, the old ones stay in use: %s", error)
                return None
        logger.info("new certificates are in use")
        return self._current

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """Reads and checks the files: with bad ones gRPC would only refuse every connection.

        Raises:
            OSError: a file cannot be read.
            CertificateError: the files do not belong together, or the certificate has expired.
        """
        chain, key = self._certificate.read_bytes(), self._key.read_bytes()
        authority = None if self._authority is None else self._authority.read_bytes()
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            pair = f"{self._certificate} and {self._key}"
            raise CertificateError(f"{pair}: not a certificate and its key: {reason}") from None
        if authority is not None:
            try:
                ssl.create_default_context(cadata=authority.decode("ascii"))
            except (ssl.SSLError, ValueError):
                raise CertificateError(f"{self._authority}: not a certificate") from None
        expiry = earliest_expiry([self._certificate])
        if expiry <= time.time():
            raise CertificateError(
                f"{self._certificate}: expired on {datetime.fromtimestamp(expiry, UTC):%Y-%m-%d %H:%M} UTC"
            )
        return grpc.ssl_server_certificate_configuration([(key, chain)], authority)


def _no_password() -> str:
    """Keeps OpenSSL from asking at the terminal for the password of an encrypted key."""
    raise ValueError("the key is encrypted")

"""Authentication: on a server with API tokens, every method except health needs one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health
from grpc_status import rpc_status

from service.access.api_tokens import TokenFile, TokenFileError, Tokens, read_tokens, utc_now
from service.access.audit import Audit
from service.access.callers import set_caller
from service.access.file_changes import FileChanges
from service.errors import UnauthenticatedError
from service.handlers.error_statuses import status_of
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

OPEN = f"/{health.SERVICE_NAME}/"
"""Methods that need no token: probes have none."""

SCHEME = "bearer "

RELOAD_SECONDS = 1.0
"""How often the token file is checked."""

MISSING_SECONDS = 0.25
"""How long the file may be missing, as while an editor replaces it, before no token is accepted any more."""

MAX_TOKEN = 200
"""Characters of the header; a valid one has 64."""


class AuthenticationInterceptor(grpc.aio.ServerInterceptor):
    """Identifies callers by their token, and refuses all others before reading a message of theirs."""

    def __init__(self, path: Path, metrics: Metrics) -> None:
        """Reads the token file.

        Raises:
            TokenFileError: it cannot be used.
        """
        self._path = path
        self._metrics = metrics
        self._audit = Audit()
        self._tokens = Tokens(read_tokens(path))
        self._file = FileChanges([path])
        self._missing = False

    async def watch(self) -> None:
        """Reads the token file again whenever it has changed, until cancelled.

        A file that cannot be read or is invalid changes nothing. A deleted file revokes every token: whoever deletes
        it wants to lock callers out.
        """
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            if self._file.missing:
                await asyncio.sleep(MISSING_SECONDS)
            if self._file.missing:
                self._revoke_all()
            elif self._file.changed() or self._missing:
                self._missing = False
                self._reload()
            self._tokens.end_expired(utc_now())

    def _revoke_all(self) -> None:
        if not self._missing:
            logger.error("%s is gone: no token is accepted until it is back", self._path)
            self._tokens = self._tokens.updated(TokenFile(tokens=()))
            self._metrics.tokens_loaded(False)
        self._missing = True

    def _reload(self) -> None:
        try:
            self._tokens = self._tokens.updated(read_tokens(self._path))
        except TokenFileError as error:
            self._metrics.tokens_loaded(False)
            logger.error("the tokens stay as they were: %s", error)
            return
        self._metrics.tokens_loaded(True)
        logger.info("%d tokens read from %s", len(self._tokens), self._path)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        if not handler_call_details.method.startswith(OPEN):
            try:
                # gRPC looks the handler up and runs it in the same task, so the caller is set for the whole call.
                set_caller(self._tokens.caller(_token(handler_call_details.invocation_metadata), utc_now()))
            except UnauthenticatedError as error:
                self._metrics.caller_refused("token")
                return grpc.stream_stream_rpc_method_handler(self._refusal(handler_call_details.method, error))
        return await continuation(handler_call_details)

    def _refusal(self, method: str, error: UnauthenticatedError) -> Callable[[Any, Any], Awaitable[None]]:
        """A handler that fails any call without waiting for its first message."""

        async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            self._audit.refused(method, context.peer(), error)
            answer = rpc_status.to_status(status_of(error))
            await context.abort(answer.code, answer.details, answer.trailing_metadata)

        return refuse


def _token(metadata: Any) -> str:
    """The bearer token of a call.

    Raises:
        UnauthenticatedError: the call has none, or several.
    """
    found = [value for key, value in metadata or () if key == "authorization"]
    if not found:
        raise UnauthenticatedError("a token is needed: send 'authorization: Bearer …'")
    value = found[0] if isinstance(found[0], str) else ""
    if len(found) > 1 or value[: len(SCHEME)].lower() != SCHEME or len(value) > MAX_TOKEN:
        raise UnauthenticatedError("authorization is not 'Bearer' and one token")
    return value[len(SCHEME) :].strip()

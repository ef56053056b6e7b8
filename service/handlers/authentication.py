"""Who may call: every method but health wants a token, where the server has tokens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health
from grpc_status import rpc_status

from service.access.api_tokens import TokenFileError, Tokens, read_tokens, utc_now
from service.access.audit import Audit
from service.access.callers import set_caller
from service.access.watched_files import WatchedFiles
from service.errors import UnauthenticatedError
from service.handlers.error_statuses import status_of
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

OPEN = f"/{health.SERVICE_NAME}/"
"""Methods that need no token: whoever looks after the server has none to show."""

SCHEME = "bearer "

RELOAD_SECONDS = 1.0
"""How often the token file is looked at."""

MAX_TOKEN = 200
"""Characters of the header; a good one has 64."""


class AuthenticationInterceptor(grpc.aio.ServerInterceptor):
    """Lets callers with a token in, and says who they are; refuses everybody else before reading a byte of theirs."""

    def __init__(self, path: Path, metrics: Metrics) -> None:
        """Reads the token file.

        Raises:
            TokenFileError: it cannot be used.
        """
        self._path = path
        self._metrics = metrics
        self._audit = Audit()
        self._tokens = Tokens(read_tokens(path))
        self._file = WatchedFiles([path])

    async def watch(self) -> None:
        """Reads the token file again whenever it has changed, until cancelled. A bad one changes nothing."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            if self._file.changed():
                try:
                    self._tokens = self._tokens.updated(read_tokens(self._path))
                except TokenFileError as error:
                    logger.error("the tokens stay as they were: %s", error)
                else:
                    logger.info("%d tokens read from %s", len(self._tokens), self._path)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        if not handler_call_details.method.startswith(OPEN):
            try:
                # gRPC finds the handler and runs it in one task: what is said here holds for the whole call.
                set_caller(self._tokens.caller(_token(handler_call_details.invocation_metadata), utc_now()))
            except UnauthenticatedError as error:
                self._metrics.caller_refused("token")
                return grpc.stream_stream_rpc_method_handler(self._refusal(handler_call_details.method, error))
        return await continuation(handler_call_details)

    def _refusal(self, method: str, error: UnauthenticatedError) -> Callable[[Any, Any], Awaitable[None]]:
        """What answers a call of any kind with an error, without waiting for its first message."""

        async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            self._audit.refused(method, context.peer(), error)
            answer = rpc_status.to_status(status_of(error))
            await context.abort(answer.code, answer.details, answer.trailing_metadata)

        return refuse


def _token(metadata: Any) -> str:
    """The bearer token that came with a call.

    Raises:
        UnauthenticatedError: none, or several.
    """
    found = [value for key, value in metadata or () if key == "authorization"]
    if not found:
        raise UnauthenticatedError("a token is needed: send 'authorization: Bearer …'")
    value = found[0] if isinstance(found[0], str) else ""
    if len(found) > 1 or value[: len(SCHEME)].lower() != SCHEME or len(value) > MAX_TOKEN:
        raise UnauthenticatedError("authorization is not 'Bearer' and one token")
    return value[len(SCHEME) :].strip()

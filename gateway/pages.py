"""Headers that keep the pages to themselves, and other sites away from a gateway that needs no token."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.rest.problems import plain_problem

_PLAYGROUND_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'self'"
)
# The documentation site's theme has inline scripts and styles.
_DOCUMENTATION_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "worker-src 'self' blob:; object-src 'none'"
)


class PageHeaders:
    """Middleware that adds a content security policy and forbids guessing media types."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a connection (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        policy = _DOCUMENTATION_POLICY if scope["path"].startswith("/docs") else _PLAYGROUND_POLICY

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-content-type-options"] = "nosniff"
                headers["content-security-policy"] = policy
                # Pages change with the version that is installed: a browser asks whether they have.
                headers.setdefault("cache-control", "no-cache")
            await send(message)

        await self._app(scope, receive, with_headers)


class ProtectFromOtherSites:
    """Middleware that rejects changes and queries which another site's page makes a browser send.

    A gateway on a developer's machine needs no token; without this any page in the same browser could use it.
    """

    def __init__(self, app: ASGIApp, allowed_origins: Collection[str]) -> None:
        self._app = app
        self._allowed = frozenset(allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a connection (ASGI)."""
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
            if foreign and not ({origin, "*"} & self._allowed):
                answer = plain_problem(403, f"pages of {origin} may not call this gateway; see --allow-origin")
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)

"""The gateway as an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from cape.client import AsyncClient, CapeError
from gateway.examples import list_examples
from gateway.labelling.label_studio import LabelStudioBackend
from gateway.pages import PageHeaders, ProtectFromOtherSites
from gateway.rest import endpoints, openapi
from gateway.rest.problems import TITLES, plain_problem, problem_response
from gateway.rest.upstream import Upstream
from gateway.settings import GatewaySettings

STATIC = Path(__file__).resolve().parent / "playground"


def create_application(settings: GatewaySettings) -> Starlette:
    """The gateway: playground at /, REST API under /v1 with its page at /api, documentation site under /docs, Label
    Studio back end under /label-studio.

    Args:
        settings: the server to call, and what to offer.
    """
    upstream: list[Upstream] = []
    client: list[AsyncClient] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        # Channels belong to the event loop that runs while they are made.
        upstream.append(Upstream(settings.target, settings.connection))
        client.append(AsyncClient(settings.target, settings.connection))
        try:
            yield
        finally:
            await upstream.pop().close()
            await client.pop().close()

    async def ready(_: Request) -> Response:
        try:
            await client[-1].wait_ready(timeout=2.0)
        except CapeError as error:
            return problem_response(error)
        return PlainTextResponse("ready\n")

    async def offers(_: Request) -> Response:
        """What the playground offers beside the server's own."""
        found = await asyncio.to_thread(list_examples, settings.examples)
        return JSONResponse(found | {"documentation": settings.documentation is not None})

    routes: list[BaseRoute] = [
        *endpoints.routes(lambda: upstream[-1], settings.max_body_bytes),
        *LabelStudioBackend(lambda: client[-1], settings.state).routes(),
        Route("/openapi.json", _openapi),
        Route("/api", lambda _: RedirectResponse("api.html")),
        Route("/problems/{name}", _problem_type),
        Route("/healthz", lambda _: PlainTextResponse("alive\n")),
        Route("/readyz", ready),
        Route("/playground.json", offers),
    ]
    if settings.examples is not None and settings.examples.is_dir():
        routes.append(Mount("/examples", StaticFiles(directory=settings.examples)))
    if settings.documentation is not None:
        routes.append(Mount("/docs", StaticFiles(directory=settings.documentation, html=True)))
    routes.append(Mount("/", StaticFiles(directory=STATIC, html=True)))
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error, Exception: _unexpected},
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=settings.allowed_origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["authorization", "content-type", "prefer"],
                expose_headers=["retry-after"],
            ),
            Middleware(ProtectFromOtherSites, allowed_origins=settings.allowed_origins),
            Middleware(PageHeaders),
        ],
    )


async def _openapi(_: Request) -> Response:
    return JSONResponse(openapi.document())


async def _problem_type(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in TITLES:
        return plain_problem(404, "There is no such kind of problem.")
    return PlainTextResponse(f"{TITLES[name]}.\n")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return plain_problem(error.status_code, f"{request.method} {request.url.path}: {error.detail}", error.headers)  # type: ignore[arg-type]


async def _unexpected(_: Request, __: Exception) -> Response:
    return plain_problem(500, "The gateway failed; its log says why.")

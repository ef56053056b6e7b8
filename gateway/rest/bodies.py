"""Request bodies, read within a limit."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from gateway.rest.problems import RequestError

MAX_FORM_PARTS = 2_000
"""Most parts of a form: more than any request needs."""


def media_type(request: Request) -> str:
    """Media type of the body without its parameters, in lower case; empty where the caller names none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def limited(receive: Receive, limit: int) -> Receive:
    """`receive` that raises RequestError once a body is longer than `limit` bytes."""
    received = 0

    async def counting() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise RequestError(f"the body is over the limit of {limit:,} bytes", status=413)
        return message

    return counting


def check_length(request: Request, limit: int) -> None:
    """Rejects a body that says itself that it is too long, before any of it is read."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise RequestError(f"the body is over the limit of {limit:,} bytes", status=413)


async def drain(receive: Receive, limit: int) -> None:
    """Reads and drops what is left of a rejected body, up to `limit` bytes.

    A caller that is still sending when the connection closes never reads the answer that says why.
    """
    dropped = 0
    with contextlib.suppress(ClientDisconnect):
        async for chunk in body_chunks(receive):
            dropped += len(chunk)
            if dropped > limit:
                return


async def form_parts(request: Request) -> list[tuple[str, str | bytes]]:
    """Parts of a multipart form: names, and text or a file's content.

    Raises:
        RequestError: it is not a form, or has too many parts.
    """
    try:
        async with request.form(max_files=MAX_FORM_PARTS, max_fields=MAX_FORM_PARTS, max_part_size=16 * 2**20) as form:
            return [
                (name, await value.read() if isinstance(value, UploadFile) else value)
                for name, value in form.multi_items()
            ]
    except MultiPartException as error:
        raise RequestError(f"the form cannot be read: {error.message}") from None


async def lines(chunks: AsyncIterator[bytes], longest: int) -> AsyncIterator[bytes]:
    """Lines of a body that arrives in pieces, without the empty ones.

    Raises:
        RequestError: a line is longer than `longest` bytes.
    """
    rest = bytearray()
    async for chunk in chunks:
        rest += chunk
        if b"\n" in chunk:
            *whole, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
            for line in whole:
                if line.strip():
                    yield line
        if len(rest) > longest:
            raise RequestError(f"a line is over the limit of {longest:,} bytes", status=413)
    if rest.strip():
        yield bytes(rest)


async def body_chunks(receive: Receive) -> AsyncIterator[bytes]:
    """The body as it arrives.

    Raises:
        ClientDisconnect: the caller left before its end.
    """
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return

"""`capeserve token`: creates, lists and revokes API tokens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from cli.consoles import console

if TYPE_CHECKING:
    from service.access.api_tokens import TokenFile

_file = click.option(
    "--file",
    "path",
    required=True,
    envvar="CAPESERVE_TOKENS",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Token file; servers reload it within a second or two.",
)


@click.group()
def token() -> None:
    """Create, list and revoke the API tokens of a server.

    A server started with --tokens FILE answers only calls with one of the file's tokens. The file holds their
    digests and limits; the token itself is shown once.
    """


@token.command()
@_file
@click.option("--tenant", required=True, help="Tenant of the token; its supports are visible to this tenant only.")
@click.option(
    "--requests-per-second", type=float, help="Limit of calls and of items of batches and streams per second."
)
@click.option("--burst", type=int, help="Burst allowed after a pause.  [default: a second's worth]")
@click.option("--max-in-flight", type=int, help="Limit of concurrent calls and streams.")
@click.option("--max-message-bytes", metavar="SIZE", help="Largest message, such as 8MiB.")
@click.option(
    "--days", type=click.FloatRange(min=0, min_open=True), help="Lifetime of the token.  [default: unlimited]"
)
def create(
    path: Path,
    tenant: str,
    requests_per_second: float | None,
    burst: int | None,
    max_in_flight: int | None,
    max_message_bytes: str | None,
    days: float | None,
) -> None:
    """Create a token and print it. It is shown only once; standard output has nothing else."""
    from pydantic import ValidationError

    from service.access.api_tokens import TokenFile, digest, new_token

    known = _read(path) if path.exists() else TokenFile(tokens=())
    number, secret = new_token()
    fields = {
        "id": number,
        "tenant": tenant,
        "sha256": digest(secret),
        "requests_per_second": requests_per_second,
        "burst": burst,
        "max_in_flight": max_in_flight,
        "max_message_bytes": max_message_bytes,
        "expires": None if days is None else datetime.now(UTC) + timedelta(days=days),
    }
    try:
        changed = TokenFile.model_validate({"tokens": [*known.tokens, fields]})
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise click.UsageError(f"--{str(first['loc'][-1]).replace('_', '-')}: {first['msg']}") from None
    _write(path, changed)
    console(stderr=True).print(f"token {number} of tenant {tenant}; keep it, {path} holds only its digest")
    click.echo(secret)


@token.command("list")
@_file
def show(path: Path) -> None:
    """List tokens: ids, tenants and limits."""
    table = Table("id", "tenant", "requests/s", "burst", "in flight", "message bytes", "expires", box=None)
    for entry in _read(path).tokens:
        limits = (entry.requests_per_second, entry.burst, entry.max_in_flight, entry.max_message_bytes)
        expires = "never" if entry.expires is None else f"{entry.expires:%Y-%m-%d %H:%M}"
        table.add_row(entry.id, entry.tenant, *("-" if limit is None else f"{limit:g}" for limit in limits), expires)
    console().print(table)


@token.command()
@_file
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
def revoke(path: Path, ids: tuple[str, ...]) -> None:
    """Revoke tokens: remove them from the file, after which servers refuse them."""
    from service.access.api_tokens import TokenFile

    known = _read(path)
    missing = set(ids) - {entry.id for entry in known.tokens}
    if missing:
        raise click.ClickException(f"{path} has no token {', '.join(sorted(missing))}")
    _write(path, TokenFile(tokens=tuple(entry for entry in known.tokens if entry.id not in ids)))
    for number in ids:
        click.echo(f"revoked {number}")


def _read(path: Path) -> TokenFile:
    from service.access.api_tokens import TokenFileError, read_tokens

    try:
        return read_tokens(path)
    except TokenFileError as error:
        raise click.ClickException(str(error)) from None


def _write(path: Path, content: TokenFile) -> None:
    from service.access.api_tokens import TokenFileError, write_tokens

    try:
        write_tokens(path, content)
    except TokenFileError as error:
        raise click.ClickException(str(error)) from None

"""`capeserve registry`: backs up and restores registered supports."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from service.supports.registry import SupportRegistry

_registry = click.option(
    "--registry",
    "url",
    required=True,
    envvar="CAPESERVE_REGISTRY",
    help="Registry of the servers: sqlite:////FILE, redis://HOST, or redis+sentinel://HOST,HOST/SERVICE.",
)


@click.group()
def registry() -> None:
    """Back up and restore registered supports.

    A backup is an SQLite file with every tenant's supports, images included, which only its owner can read. It can be
    restored into either kind of registry, also to move from one to the other. Servers may run meanwhile.
    """


@registry.command()
@_registry
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def backup(url: str, file: Path) -> None:
    """Write all supports of a registry to FILE. An existing backup is brought up to date."""
    copied, skipped = _copy(url, f"sqlite:///{file.absolute()}")
    click.echo(f"{copied} supports written to {file}, {skipped} were there already")


@registry.command()
@_registry
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def restore(url: str, file: Path) -> None:
    """Store the supports of FILE that a registry lacks. Existing supports are not changed."""
    copied, skipped = _copy(f"sqlite:///{file.absolute()}", url)
    click.echo(f"{copied} supports restored from {file}, {skipped} were there already")


def _copy(source: str, target: str) -> tuple[int, int]:
    """Copies supports between registries; returns how many were missing, and how many were not."""
    from service.errors import ServiceError
    from service.supports.registry import RegistryError

    try:
        return asyncio.run(_copied(source, target))
    except (RegistryError, ServiceError) as error:
        raise click.ClickException(str(error)) from None


async def _copied(source: str, target: str) -> tuple[int, int]:
    old = await _opened(source)
    try:
        new = await _opened(target)
        try:
            stored = [await new.restore(owner, support) async for owner, support in old.everything()]
        finally:
            await new.close()
    finally:
        await old.close()
    return sum(stored), len(stored) - sum(stored)


async def _opened(url: str) -> SupportRegistry:
    from service.application import open_registry

    opened = open_registry(url)
    await opened.open(lambda supports: None, lambda: (), lambda health: None)
    return opened

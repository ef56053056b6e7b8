"""Shared by subcommands that call a server: connection options, and errors as one line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from cape.client import Client, ConnectionOptions
from cape.client.errors import CapeError

_FILE = click.Path(exists=True, dir_okay=False)


@dataclass(frozen=True, slots=True)
class Connection:
    """Target and options of the connection."""

    target: str
    options: ConnectionOptions

    def client(self) -> Client:
        """Opens a client; close it after use."""
        return Client(self.target, self.options)


def connects(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the connection options to a command, which gets a `Connection` as the argument `connection`.

    Errors of calls, files and annotations end the command with one line and exit code 1.
    """

    @click.option("--target", default="localhost:50051", show_default=True, envvar="CAPESERVE_TARGET", help="Server.")
    @secures
    @functools.wraps(command)
    def connected(*, target: str, options: ConnectionOptions, **arguments: object) -> object:
        try:
            return command(connection=Connection(target, options), **arguments)
        except CapeError as error:
            raise click.ClickException(f"{target}: {_one_line(error)}") from None
        except (OSError, ValueError) as error:
            raise click.ClickException(_one_line(error)) from None

    return connected


def secures(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the connection options without the server's address; the command gets `ConnectionOptions` as `options`."""

    @click.option("--timeout", type=float, default=30.0, show_default=True, help="Timeout of a call, in seconds.")
    @click.option("--tls", is_flag=True, help="Encrypt, trusting the system's root certificates.")
    @click.option("--root-certificates", type=_FILE, help="PEM file of root certificates to trust instead.")
    @click.option("--client-certificate", type=_FILE, help="PEM file of this client's certificate.")
    @click.option("--client-key", type=_FILE, help="PEM file of its private key.")
    @click.option("--token", envvar="CAPESERVE_TOKEN", help="API token; preferably set CAPESERVE_TOKEN.")
    @functools.wraps(command)
    def secured(
        *,
        timeout: float,
        tls: bool,
        root_certificates: str | None,
        client_certificate: str | None,
        client_key: str | None,
        token: str | None,
        **arguments: object,
    ) -> object:
        try:
            options = ConnectionOptions(
                timeout=timeout,
                tls=tls,
                root_certificates=root_certificates,
                client_certificate=client_certificate,
                client_key=client_key,
                token=token,
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        return command(options=options, **arguments)

    return secured


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

"""`capeserve serve`: one flag per field of `service.settings.Settings`."""

from __future__ import annotations

import asyncio
import logging
import os
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pydantic import ByteSize
from pydantic.fields import FieldInfo

from service.settings import ENVIRONMENT_PREFIX, Settings, SettingsError, load_settings

METAVARS: dict[Any, str] = {
    int: "N",
    int | None: "N",
    float: "SECONDS",
    Path: "PATH",
    Path | None: "PATH",
    ByteSize: "SIZE",
}


def _flag(name: str, field: FieldInfo) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option that sets a field. Values stay text: the settings parse them, wherever they came from."""
    flag = f"--{name.replace('_', '-')}"
    text = f"{field.description}{_default(field)}"
    if field.annotation is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
    if typing.get_origin(field.annotation) is typing.Literal:
        return click.option(flag, name, type=click.Choice(typing.get_args(field.annotation)), help=text)
    several = typing.get_origin(field.annotation) is tuple
    metavar = "SHARE" if name.endswith("_ratio") else METAVARS.get(field.annotation, "TEXT")
    return click.option(flag, name, metavar=metavar, multiple=several, help=text)


def _default(field: FieldInfo) -> str:
    """The default shown in the help; empty if the description states it."""
    default = field.default
    if field.is_required() or field.default_factory or default in (None, "", ()):
        return ""
    if isinstance(default, bool):
        default = "on" if default else "off"
    return f" [default: {default.human_readable() if isinstance(default, ByteSize) else default}]"


def _flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of every field, in the order of `Settings`."""
    for name, field in reversed(Settings.model_fields.items()):
        command = _flag(name, field)(command)
    return command


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar=f"{ENVIRONMENT_PREFIX}CONFIG",
    help="YAML or TOML file with settings; the environment and flags win over it.",
)
@_flags
def serve(config: Path | None, **flags: object) -> None:
    """Serve a model repository over gRPC, until SIGTERM or Ctrl-C.

    Every flag is an environment variable too (--max-queue: CAPESERVE_MAX_QUEUE), and a field of the file of
    --config (max_queue).
    """
    from service.server import StartError, serve
    from service.telemetry.logs import configure_logs

    try:
        settings = load_settings(config, {name: value for name, value in flags.items() if value != ()})
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    configure_logs(settings.log_level, settings.log_format)
    try:
        ended = asyncio.run(serve(settings))
    except StartError as error:
        raise click.ClickException(str(error)) from None
    if not ended:
        # Python waits for threads before it exits, and a hanging engine's thread may never end.
        logging.shutdown()
        os._exit(1)

"""Options and records shared by the benchmark subcommands."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from cli.consoles import console

if TYPE_CHECKING:
    from benchmarks.harness.tables import ReportTable

Command = TypeVar("Command", bound=Callable[..., Any])

REPOSITORY = click.Path(exists=True, file_okay=False, path_type=Path)


def one_repository(command: Command) -> Command:
    """Adds --repository."""
    return click.option("--repository", required=True, type=REPOSITORY, help="Exported repository.")(command)


def several_repositories(command: Command) -> Command:
    """Adds --repository, repeatable, as `repositories`."""
    return click.option(
        "--repository",
        "repositories",
        multiple=True,
        required=True,
        type=REPOSITORY,
        help="Exported repository; repeatable.",
    )(command)


def serves(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the server settings that affect speed; the command gets those that were given as `settings`."""

    @click.option("--engine", type=click.Choice(["auto", "onnxruntime", "openvino"]), help="[default: auto]")
    @click.option("--precision", type=click.Choice(["float32", "bfloat16", "float16"]), help="Of the arithmetic.")
    @click.option("--provider", help="ONNX Runtime execution provider.  [default: the best that is installed]")
    @click.option("--threads", type=click.IntRange(min=1), help="CPU threads of the engine.  [default: one per CPU]")
    @functools.wraps(command)
    def serving(*, provider: str | None, **arguments: Any) -> Any:
        given = {name: arguments.pop(name) for name in ("engine", "precision", "threads")}
        settings = {name: value for name, value in given.items() if value is not None}
        if provider is not None:
            settings["providers"] = (provider,)
        return command(settings=settings, **arguments)

    return serving


def recorded(name: str, title: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds --output and --name; the command gets a `Record` as `record`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.option(
            "--output",
            type=click.Path(file_okay=False, path_type=Path),
            help="Folder for JSON, Markdown and plot.  [default: benchmarks/results]",
        )
        @click.option("--name", default=name, show_default=True, help="Name of those files.")
        @functools.wraps(command)
        def recording(*, output: Path | None, name: str, **arguments: Any) -> Any:
            from benchmarks.harness.records import RESULTS, Record

            return command(record=Record(name, title, typed_command(), output or RESULTS), **arguments)

        return recording

    return decorate


def quick(command: Command) -> Command:
    """Adds --quick."""
    return click.option("--quick", is_flag=True, help="Fewer and shorter runs, as a smoke test.")(command)


def typed_command() -> str:
    """The running command with its given options; absolute paths are shortened to their last part."""
    context = click.get_current_context()
    parts = context.command_path.split()[1:]
    for parameter in context.command.params:
        if parameter.name is None or context.get_parameter_source(parameter.name) is not ParameterSource.COMMANDLINE:
            continue
        value, flag = context.params[parameter.name], parameter.opts[0]
        if isinstance(value, bool):
            parts.append(flag if value else parameter.secondary_opts[0])
            continue
        for one in value if isinstance(value, tuple) else (value,):
            shown = one.name if isinstance(one, Path) and one.is_absolute() else one
            parts += [flag, shlex.quote(str(shown))]
    return " ".join(("capeserve", *parts))


def show(tables: Iterable[ReportTable], paths: Iterable[Path]) -> None:
    """Prints tables with their notes, and what was written."""
    from benchmarks.harness.tables import terminal_table

    out = console()
    for table in tables:
        out.print(terminal_table(table))
        for note in table.notes:
            out.print(note)
        out.print()
    for path in paths:
        out.print(f"wrote {path}")


def progress_line(text: str) -> None:
    """Prints progress on the error stream."""
    console(stderr=True).print(text)

"""The command `capeserve`: one module per subcommand, imported when the subcommand runs."""

from __future__ import annotations

import importlib
from typing import Any

import click

from cape import __version__

COMMANDS = {
    "bench": "Measure what systems cost.",
    "data": "Show training and evaluation data.",
    "demo": "Export, serve, register and estimate: images and a latency table.",
    "estimate": "Find the keypoints of a support in images.",
    "evaluate": "Measure accuracy on test pairs.",
    "explain": "Draw similarity maps and attention behind a prediction.",
    "export": "Turn a checkpoint into a model repository.",
    "pack": "Store a checkpoint in half precision, for distribution.",
    "playground": "Serve a playground page, a JSON API and labelling back ends.",
    "quantise": "Quantise a repository's image backbone to int8, with an accuracy gate.",
    "registry": "Back up and restore registered supports.",
    "serve": "Serve a model repository over gRPC.",
    "soak": "Send mixed traffic under injected faults, and count the outcomes.",
    "support": "Register, list, show and delete supports.",
    "token": "Create, list and revoke API tokens.",
    "train": "Train a model on episodes of support and query.",
    "triton": "Serve a model repository with a local Triton server.",
}
"""Subcommands and their help, kept here so that listing them imports none."""

PACKAGES = ("cape", "export", "service", "gateway", "benchmarks", "cli")

EXTRAS = {
    "bench": "bench,serve",
    "data": "train",
    "demo": "demo,export,serve",
    "evaluate": "models",
    "explain": "models",
    "export": "export",
    "pack": "models",
    "playground": "gateway",
    "quantise": "export",
    "registry": "serve",
    "serve": "serve",
    "soak": "serve",
    "train": "train",
    "triton": "serve",
}
"""Subcommands that need more than the base install → the extras that bring it."""

LIBRARIES = {"litserve": "bench", "peft": "llm", "tritonclient": "triton"}
"""Libraries that only some uses of a subcommand need → their extra."""


def missing_extra(command: str, error: ModuleNotFoundError) -> click.ClickException | None:
    """The message for a library that is not installed; None if no extra is known to bring it."""
    library = (error.name or "").partition(".")[0]
    if library in PACKAGES:
        return click.ClickException(
            f"{command} needs {error.name}, which this installation leaves out, as the container images do with what "
            "they do not run: use `pip install capeserve`"
        )
    extra = LIBRARIES.get(library) or EXTRAS.get(command)
    if extra is None:
        return None
    return click.ClickException(
        f"{command} needs {error.name}, which is not installed: pip install 'capeserve[{extra}]'"
    )


class LazyGroup(click.Group):
    """A group that imports a subcommand's module when it is used."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Names of the subcommands."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Imports a subcommand; None if there is none of that name."""
        if name not in COMMANDS:
            return None
        try:
            command: click.Command = getattr(importlib.import_module(f"cli.{name}"), name)
        except ModuleNotFoundError as error:
            failure = missing_extra(name, error)
            if failure is None:
                raise
            raise failure from None
        return command

    def invoke(self, context: click.Context) -> Any:
        """Runs a subcommand; libraries that it imports only then are named with their extra, too."""
        try:
            return super().invoke(context)
        except ModuleNotFoundError as error:
            failure = missing_extra(context.invoked_subcommand or "", error)
            if failure is None:
                raise
            raise failure from None

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="capeserve")
def main() -> None:
    """Category-agnostic pose estimation as a service."""


if __name__ == "__main__":
    main()

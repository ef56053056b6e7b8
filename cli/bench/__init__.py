"""`capeserve bench`: cost and speed of the systems; one file per subcommand."""

from __future__ import annotations

import importlib

import click

COMMANDS = {
    "capellm": "Measure CapeLLM's batched decoding against one prompt per keypoint.",
    "cost": "Count parameters and multiply-adds beside the paper's Table 5.",
    "systems": "Measure every system in every form: counted, exported, served.",
    "engine": "Measure an engine alone.",
    "gpu": "Measure engine and service on a GPU, within a time limit.",
    "ablation": "Train every system alike and compare them on unseen categories.",
    "latency": "Reproduce Table 5: cold and warm, engine alone and over gRPC.",
    "accuracy": "Measure PCK lost between PyTorch float32 and what is served.",
    "roofline": "Compare the backbone with this machine's peak.",
    "load": "Measure a server under load: throughput, latency, batch sizes, overload.",
    "compare": "Compare with PyTorch and LitServe on the same weights.",
    "scaling": "Measure what keypoints, shots, boxes, image sizes, cores and processes cost.",
    "front-end": "Measure the service around an engine that answers at once.",
    "start": "Measure the time from start to the first answer.",
    "memory": "Measure whether memory grows with requests.",
}
"""Subcommands and their help, kept here so that listing them imports none."""


class BenchGroup(click.Group):
    """A group that imports a subcommand's module when it is used."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Names of the subcommands."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Imports a subcommand; None if there is none of that name."""
        if name not in COMMANDS:
            return None
        module = name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"cli.bench.{module}"), module)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=BenchGroup)
def bench() -> None:
    """Measure what systems cost and how fast they are."""

"""`capeserve bench`: what the systems cost, and how fast engines are."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from cli.capellm_bench import capellm
from cli.consoles import console
from cli.server_process import server_process

if TYPE_CHECKING:
    from cape.configuration import SystemName


@click.group()
def bench() -> None:
    """Measure what systems cost."""


bench.add_command(capellm)


@bench.command()
@click.option("--keypoints", type=click.IntRange(1, 100), default=17, show_default=True, help="Keypoints of a support.")
@click.option(
    "--tokens",
    type=click.IntRange(2, 77),
    default=6,
    show_default=True,
    help="Tokens of a keypoint's text, start and end mark included.",
)
@click.option("--shots", type=click.IntRange(1, 16), default=1, show_default=True, help="Support images.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the tables here, as Markdown.")
def cost(keypoints: int, tokens: int, shots: int, as_json: bool, output: Path | None) -> None:
    """Count parameters and multiply-adds of every system, beside the paper's Table 5.

    Nothing is computed and no weights are needed: shapes alone are followed through the graphs that are exported.
    """
    try:
        from benchmarks.cost import Sizes
        from benchmarks.cost_report import document, markdown, measure_report, report_tables
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; install it: pip install 'capeserve[export]'") from None

    report = measure_report(Sizes(keypoints, tokens, shots))
    tables = report_tables(report)
    if output is not None:
        output.write_text(markdown(tables), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(document(report), indent=2))
        return
    out = console()
    for table in tables:
        shown = Table(title=table.title, title_justify="left", box=None)
        for index, name in enumerate(table.header):
            shown.add_column(name, justify="right" if index else "left")
        for row in table.rows:
            shown.add_row(*row)
        out.print(shown)
        for note in table.notes:
            out.print(note)
        out.print()
    if output is not None:
        out.print(f"wrote {output}")


@bench.command()
@click.option(
    "--system",
    "systems",
    multiple=True,
    type=click.Choice(["flf", "dlf", "capex", "graphcape", "visual_only", "textual_only", "capeformer"]),
    help="Measure this one; repeatable.  [default: all]",
)
@click.option(
    "--examples",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(__file__).resolve().parents[1] / "examples",
    help="Folder of the photographs and their annotations.",
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the table here, as Markdown.")
def systems(systems: tuple[SystemName, ...], examples: Path, output: Path | None) -> None:
    """Measure every system in every form: counted, exported, served, against PyTorch and the published code.

    Each is built at the published size and exported: some minutes a system.
    """
    from benchmarks.cost import SYSTEMS
    from benchmarks.systems import measure_system, systems_table

    @contextlib.contextmanager
    def serve(repository: Path) -> Iterator[str]:
        with server_process(repository) as (_, target):
            yield target

    rows = []
    for system in systems or SYSTEMS:
        click.echo(f"measuring {system}", err=True)
        rows.append(measure_system(system, examples / "astronaut.yaml", examples / "grace_hopper.jpg", serve))
        table = systems_table(rows)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(table, encoding="utf-8")
    click.echo(table)


@bench.command()
@click.option(
    "--repository",
    "repositories",
    multiple=True,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Exported repository; repeatable.",
)
@click.option(
    "--provider",
    "providers",
    multiple=True,
    help="ONNX Runtime execution provider, CUDAExecutionProvider; repeatable, measured one after the other.  "
    "[default: the best that is installed]",
)
@click.option("--runs", type=click.IntRange(min=3), default=100, show_default=True, help="Measured runs of each kind.")
@click.option("--keypoints", type=click.IntRange(1, 100), default=17, show_default=True, help="Keypoints of a support.")
@click.option("--batch", "batches", multiple=True, type=click.IntRange(min=1), default=(1, 2, 4, 8, 16))
@click.option("--device", default="CPU", show_default=True, help="What the report calls the device: the card's name.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for JSON, Markdown and plot.")
@click.option("--name", default="engine", show_default=True, help="Name of those files.")
def engine(
    repositories: tuple[Path, ...],
    providers: tuple[str, ...],
    runs: int,
    keypoints: int,
    batches: tuple[int, ...],
    device: str,
    output: Path | None,
    name: str,
) -> None:
    """Measure engines by themselves, beside the paper's RTX 3060: latency cold and warm, throughput by batch size."""
    from benchmarks.engine import measure_system
    from benchmarks.engine_report import HEADER, rows, write_results
    from cape.manifest import ManifestError, read_manifest
    from cli.consoles import step_progress
    from service.errors import EngineError
    from service.onnx_engine import OnnxRuntimeEngine

    speeds, backbones = [], []
    try:
        with step_progress() as progress:
            for folder in repositories:
                manifest = read_manifest(folder)
                for provider in providers or (None,):
                    loaded = OnnxRuntimeEngine(folder, manifest, providers=None if provider is None else (provider,))
                    for system, described in manifest.systems.items():
                        speeds.append(
                            measure_system(
                                loaded,
                                manifest,
                                system,
                                keypoints=keypoints,
                                runs=runs,
                                batches=batches,
                                progress=progress,
                            )
                        )
                        backbones.append(f"{system}: {described.backbone}, {described.parameters / 1e6:.1f} M")
                    loaded.close()
    except (EngineError, ManifestError) as error:
        raise click.ClickException(str(error)) from None
    out = console()
    shown = Table(title=f"{device}, milliseconds", title_justify="left", box=None)
    for index, heading in enumerate(HEADER):
        shown.add_column(heading, justify="right" if index > 1 else "left")
    for row in rows(speeds):
        shown.add_row(*row)
    out.print(shown)
    if output is not None:
        command = f"capeserve bench engine --runs {runs} --keypoints {keypoints}"
        described_repository = {"backbones": list(dict.fromkeys(backbones))}
        for path in write_results(output, name, speeds, described_repository, command, device):
            out.print(f"wrote {path}")

"""`capeserve bench engine`: an engine alone."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from cli.consoles import console


@click.command()
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
    help="ONNX Runtime execution provider, CUDAExecutionProvider; repeatable, measured one after the other. Of "
    "several, those that do not work here are left out, with the reason.  [default: the best that is installed]",
)
@click.option("--runs", type=click.IntRange(min=3), default=100, show_default=True, help="Measured runs of each kind.")
@click.option("--keypoints", type=click.IntRange(1, 100), default=17, show_default=True, help="Keypoints of a support.")
@click.option("--batch", "batches", multiple=True, type=click.IntRange(min=1), default=(1, 2, 4, 8, 16))
@click.option("--device", default="CPU", show_default=True, help="Name of the device in the report.")
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
    """Measure engines alone, beside the paper's RTX 3060: cold and warm latency, throughput by batch size."""
    from benchmarks.engine.measurement import measure_system
    from benchmarks.engine.report import HEADER, rows, write_results
    from cape.manifest import ManifestError, read_manifest
    from cli.consoles import step_progress
    from service.engines.onnx_runtime import OnnxRuntimeEngine
    from service.errors import EngineError

    speeds, backbones = [], []
    working: list[str | None] = list(providers) or [None]
    try:
        with step_progress() as progress:
            for folder in repositories:
                manifest = read_manifest(folder)
                if not manifest.support_systems:
                    raise click.ClickException(f"{folder}: a language model: use `capeserve bench capellm`")
                for provider in tuple(working):
                    try:
                        loaded = OnnxRuntimeEngine(
                            folder, manifest, providers=None if provider is None else (provider,)
                        )
                    except EngineError as error:
                        working.remove(provider)
                        if not working:
                            raise
                        console(stderr=True).print(f"left out: {error}")
                        continue
                    for system, described in manifest.support_systems.items():
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

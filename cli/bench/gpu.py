"""`capeserve bench gpu`: one GPU, within a time limit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.bench.options import one_repository, recorded, show

if TYPE_CHECKING:
    from benchmarks.harness.records import Record


@click.command()
@one_repository
@click.option(
    "--configuration",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Configuration of the model (JSON), to measure PyTorch beside it.",
)
@click.option("--seconds", type=click.FloatRange(min=10), default=300, show_default=True, help="Time limit.")
@click.option("--runs", type=click.IntRange(min=3), default=60, show_default=True, help="Measured runs of each kind.")
@click.option("--keypoints", type=click.IntRange(1, 100), default=17, show_default=True, help="Keypoints of a support.")
@click.option("--callers", type=click.IntRange(min=1), default=64, show_default=True, help="Callers of the load.")
@click.option("--provider", default="CUDAExecutionProvider", show_default=True, help="ONNX Runtime's, to measure.")
@recorded("gpu", "On a GPU")
def gpu(
    repository: Path,
    configuration: Path | None,
    seconds: float,
    runs: int,
    keypoints: int,
    callers: int,
    provider: str,
    record: Record,
) -> None:
    """Measure engine and service on a GPU: cold and warm, per precision, with and without CUDA graphs, under load.

    The repository is best exported with --gpu-graphs. Results are written after every step; steps for which too little
    time is left are left out.
    """
    from benchmarks.gpu.measurement import measure_gpu
    from benchmarks.gpu.report import document, tables
    from benchmarks.gpu.results import Results
    from benchmarks.harness.machine import gpu_name
    from cli.bench.serving import serve

    def write(now: Results) -> None:
        record.write(document(now), tables(now))

    results = Results(gpu_name() or "no GPU", seconds, write)
    measure_gpu(
        repository,
        serve,
        results,
        provider=provider,
        configuration=configuration,
        keypoints=keypoints,
        runs=runs,
        callers=callers,
    )
    show(tables(results), record.write(document(results), tables(results)))

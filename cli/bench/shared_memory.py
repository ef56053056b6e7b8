"""`capeserve bench shared-memory`: what shared memory between client and Triton saves on one host."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.bench.options import one_repository, progress_line, quick, recorded, show

if TYPE_CHECKING:
    from benchmarks.harness.records import Record
    from benchmarks.shared_memory import Transport


@click.command()
@one_repository
@click.option(
    "--runs", type=click.IntRange(min=3), help="Measured requests of each kind.  [default: 100; with --quick 20]"
)
@click.option("--batch", "batches", multiple=True, type=click.IntRange(min=1), default=(1, 4, 16), show_default=True)
@click.option("--keypoints", type=click.IntRange(1, 100), default=17, show_default=True, help="Keypoints of a support.")
@quick
@recorded("shared_memory", "Tensors in messages and in shared memory")
def shared_memory(
    repository: Path, runs: int | None, batches: tuple[int, ...], keypoints: int, quick: bool, record: Record
) -> None:
    """Measure requests to a local Triton with their tensors in messages and in shared memory.

    Starts the Triton that `capeserve triton` starts. Some minutes.
    """
    import tempfile

    import grpc

    from benchmarks.shared_memory import measure_transports, tables
    from cape.manifest import ManifestError, read_manifest
    from export.triton.local.environment import TritonSetupError, default_home, install
    from export.triton.local.server import Ports, TritonStartError, triton_server

    def step(results: list[Transport]) -> None:
        last = results[-1]
        progress_line(f"{last.model} × {last.batch}: {1000 * last.messages.p50:.2f} | {1000 * last.shared.p50:.2f} ms")
        record.write({"requests": [asdict(one) for one in results]}, tables(results))

    try:
        manifest = read_manifest(repository)
        with (
            tempfile.TemporaryFile() as log,
            triton_server(install(default_home()), repository, log=log, ports=Ports(0, 0, 0)) as server,
        ):
            results = measure_transports(
                server.grpc,
                manifest,
                next(iter(manifest.systems)),
                keypoints=keypoints,
                batches=batches,
                runs=runs or (20 if quick else 100),
                step=step,
            )
    except (ManifestError, TritonSetupError, TritonStartError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except grpc.RpcError as error:
        raise click.ClickException(f"Triton: {error}") from None
    show(tables(results), record.write({"requests": [asdict(one) for one in results]}, tables(results)))

"""`capeserve soak`: mixed traffic under injected faults, with a count of the outcomes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from cli.consoles import console


@click.command()
@click.option(
    "--repository",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Exported repository; its default system must take images and texts.",
)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=20.0, show_default=True)
@click.option("--callers", type=click.IntRange(min=1), default=12, show_default=True, help="Number of client threads.")
@click.option(
    "--replicas",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of servers; several need --redis.",
)
@click.option(
    "--redis", is_flag=True, help="Keep supports in a private Redis (needs redis-server), and disturb it too."
)
@click.option(
    "--fault-rate",
    type=click.FloatRange(0, 1),
    default=0.002,
    show_default=True,
    help="Fraction of engine runs that raise, hang or answer nonsense.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of supports, images and traffic.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("benchmarks/results"),
    show_default=True,
    help="Folder for JSON and Markdown.",
)
@click.option("--name", default="soak", show_default=True, help="Name of those files.")
def soak(
    repository: Path,
    minutes: float,
    callers: int,
    replicas: int,
    redis: bool,
    fault_rate: float,
    seed: int,
    output: Path,
    name: str,
) -> None:
    """Send mixed traffic to real servers while they are killed, stopped and starved, and count the outcomes.

    The exit code is 0 only if no answer was wrong and nothing was lost.
    """
    from benchmarks.harness.machine import describe_machine
    from benchmarks.soak.report import document, write_results
    from benchmarks.soak.run import SoakError
    from benchmarks.soak.run import soak as run

    errors = console(stderr=True)
    try:
        outcome = run(
            repository,
            minutes=minutes,
            callers=callers,
            replicas=replicas,
            redis=redis,
            fault_rate=fault_rate,
            seed=seed,
            progress=errors.print,
        )
    except SoakError as error:
        raise click.ClickException(str(error)) from None
    command = f"capeserve soak --minutes {minutes:g} --callers {callers} --replicas {replicas}{' --redis' * redis}"
    found = document(
        outcome,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        machine=describe_machine(),
        command=f"{command} --fault-rate {fault_rate:g} --seed {seed}",
        repository=repository.name,
        callers=callers,
        replicas=replicas,
        redis=redis,
        fault_rate=fault_rate,
    )
    out = console()
    for count in ("sent", "right", "refused", "wrong", "lost"):
        out.print(f"{count:8} {found[count]}")
    for trouble in found["troubles"]:
        out.print(trouble)
    for path in write_results(output, name, found):
        out.print(f"wrote {path}")
    if found["wrong"] or found["lost"]:
        raise SystemExit(1)

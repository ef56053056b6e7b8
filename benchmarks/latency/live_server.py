"""Latency of a running server by stage, beside the paper's figures: the table of `capeserve demo`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

from rich.table import Table

from cape.client import Box, Client, ImageSource, KeypointDefinition, PaperFigures, PoseEstimate, SupportDefinition

STAGES = {
    "decode": "decode the photograph",
    "prepare": "crop and resize",
    "support": "support: look up, or encode",
    "backbone": "image backbone",
    "decoder": "pose decoder",
    "queue": "of these: waiting",
    "total": "total on the server",
    "round_trip": "round trip, as the client sees it",
}
"""Stages in the order of the table; all but the last are fields of `cape.client.Timing`."""

_HEADINGS = ("warm", "cold", "paper, RTX 3060")

_WARM_UP = 3
"""Requests before the measured ones."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Medians over sequential requests, in seconds.

    Attributes:
        requests: number of measured requests of each kind.
        warm: stage → median, with a cached support.
        cold: stage → median, with a new support in every request.
    """

    requests: int
    warm: dict[str, float]
    cold: dict[str, float]


def measure_latency(
    client: Client, image: ImageSource, box: Box, support: SupportDefinition, requests: int = 20
) -> Latency:
    """Measures one caller's latency, warm and cold.

    Args:
        client: connected to the server.
        image: the query.
        box: of the object in it.
        support: registered for warm requests; sent inline with changed texts for each cold one.
        requests: number of each kind, after the warm-up.
    """
    name = client.create_support(support).name
    # Texts contain the time of day, so that the server has no earlier measurement's texts cached.
    start = time.time_ns()
    return Latency(
        requests,
        warm=_medians(requests, lambda number: client.estimate(image, name, boxes=[box])),
        cold=_medians(
            requests, lambda number: client.estimate(image, _never_seen(support, start + number), boxes=[box])
        ),
    )


def _never_seen(support: SupportDefinition, number: int) -> SupportDefinition:
    """The support with new texts, so that neither its tokens nor its embeddings are cached."""
    return replace(
        support,
        keypoints=tuple(
            KeypointDefinition(keypoint.name, f"{keypoint.description or keypoint.name} {number}")
            for keypoint in support.keypoints
        ),
    )


def _medians(requests: int, estimate: Callable[[int], PoseEstimate]) -> dict[str, float]:
    measured: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for number in range(_WARM_UP + requests):
        start = time.perf_counter()
        timing = estimate(number).timing
        round_trip = time.perf_counter() - start
        if number >= _WARM_UP:
            for stage, seconds in measured.items():
                seconds.append(round_trip if stage == "round_trip" else getattr(timing, stage))
    return {stage: median(seconds) for stage, seconds in measured.items()}


def latency_rows(latency: Latency, paper: PaperFigures | None) -> Iterator[tuple[str, str, str, str]]:
    """Rows of the table: stage, warm, cold, paper."""
    for stage, label in STAGES.items():
        theirs = f"{paper.time * 1000:.2f}" if paper is not None and stage == "total" else ""
        yield label, f"{latency.warm[stage] * 1000:.2f}", f"{latency.cold[stage] * 1000:.2f}", theirs
    warm, cold = latency.warm["total"], latency.cold["total"]
    theirs = f"{paper.frames_per_second:.2f}" if paper is not None else ""
    yield "queries per second, one caller", f"{1 / warm:.2f}", f"{1 / cold:.2f}", theirs
    if paper is not None:
        yield "times the paper's speed", f"{paper.time / warm:.2f}", f"{paper.time / cold:.2f}", "1.00"


def latency_table(latency: Latency, paper: PaperFigures | None, notes: Sequence[str]) -> Table:
    """The table for a terminal."""
    table = Table(
        title=f"Median latency of {latency.requests} requests, ms", caption="\n".join(notes), caption_justify="left"
    )
    table.add_column("stage")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    for row in latency_rows(latency, paper):
        table.add_row(*row)
    return table


def latency_markdown(latency: Latency, paper: PaperFigures | None, notes: Sequence[str]) -> str:
    """The table as Markdown."""
    headings = ("stage", *_HEADINGS)
    lines = [
        f"# Median latency of {latency.requests} requests, in milliseconds",
        "",
        f"| {' | '.join(headings)} |",
        f"|{'---|' * len(headings)}",
        *(f"| {' | '.join(row)} |" for row in latency_rows(latency, paper)),
        "",
        *(f"- {note}" for note in notes),
        "",
    ]
    return "\n".join(lines)

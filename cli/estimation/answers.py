"""Sends images, and collects answers into records."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cape.client import Client, PoseEstimate, Query
from cape.client.errors import CapeError, InvalidRequestError
from cli.estimation.inputs import Job
from cli.estimation.records import RecordWriter, continue_file


def answer_jobs(
    client: Client, jobs: Sequence[Job], options: Query
) -> Iterator[tuple[int, PoseEstimate | CapeError | OSError]]:
    """Estimates images, one by a call with its retries, several by a stream, which also carries partial answers.

    Args:
        client: connection to the server.
        jobs: images and boxes.
        options: everything else of the queries.

    Yields:
        Position of an image and its answer, or why it has none, in the order of completion.

    Raises:
        CapeError: the server fails for all images.
    """
    if not jobs:
        return
    if len(jobs) == 1 and not options.partial_answers:
        try:
            yield (
                0,
                client.estimate(
                    jobs[0].image, options.support, boxes=jobs[0].boxes, model=options.model, find_box=options.find_box
                ),
            )
        except InvalidRequestError as error:
            yield 0, error
        return
    unreadable: list[tuple[int, OSError]] = []
    sent: list[int] = []

    def queries() -> Iterator[Query]:
        for index, job in enumerate(jobs):
            try:
                content = job.image.read_bytes()
            except OSError as error:
                # One file that cannot be read must not end a stream of thousands.
                unreadable.append((index, error))
                continue
            sent.append(index)
            yield replace(options, image=content, boxes=job.boxes)

    for position, answer in client.estimate_stream(queries()):
        yield sent[position], answer
    yield from unreadable


@contextmanager
def open_records(
    format_: str, path: Path | None, jobs: Sequence[Job], names: Sequence[str], *, overwrite: bool
) -> Iterator[tuple[RecordWriter, list[Job]]]:
    """Opens the records of a run.

    Args:
        format_: one of `FORMATS`.
        path: file to write or to continue; None for standard output.
        jobs: images to estimate.
        names: names of the support's keypoints.
        overwrite: start the file again.

    Yields:
        A writer, and the images that have no record yet.

    Raises:
        ResumeError: the file cannot be continued.
        OSError: it cannot be written.
    """
    if path is None:
        writer = RecordWriter(sys.stdout.buffer, format_)
        yield writer, list(jobs)
        writer.finish()
        return
    answered, begun = (set(), False) if overwrite else continue_file(path, format_, jobs, names)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if begun else "w+b") as stream:
        stream.seek(0, 2)
        yield (
            RecordWriter(stream, format_, empty=not begun, seekable=True),
            [job for job in jobs if str(job.image) not in answered],
        )

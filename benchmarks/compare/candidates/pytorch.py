"""The PyTorch model in this process: eager, as research code runs it, and with torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.compare.candidates import AbsentError, Candidate, Points
from benchmarks.harness.workloads import Workload
from cape.checkpoints import Checkpoint, load_checkpoint, untrained_checkpoint
from cape.predictor import Predictor

COMPILED = ("encode_image", "encode_text", "fuse_support", "decode_pose")
"""Methods of the system that are compiled, one graph each."""


def load_source(source: str, path: Path) -> Checkpoint:
    """Loads a checkpoint; if `source` is 'untrained', builds one with random weights from a configuration.

    Raises:
        CheckpointError, ConfigurationError: see `cape.checkpoints`.
    """
    return load_checkpoint(path) if source == "checkpoint" else untrained_checkpoint(path)


@contextmanager
def eager(checkpoint: Checkpoint, asked: Sequence[Workload]) -> Iterator[Candidate]:
    """PyTorch eager in float32: text encoder, support pass, query pass and head with every request.

    Args:
        checkpoint: the model.
        asked: the queries, each with the support.
    """
    yield Candidate("PyTorch eager", "computed", "float32", _ask(Predictor(checkpoint), asked), 1)


@contextmanager
def compiled(load: Callable[[], Checkpoint], asked: Sequence[Workload]) -> Iterator[Candidate]:
    """The same with torch.compile in its default mode; compiled before it is measured.

    Args:
        load: loads the model; compiling changes it, so this must be a separate copy.
        asked: as for `eager`.

    Raises:
        AbsentError: torch.compile fails here.
    """
    checkpoint = load()
    for name in COMPILED:
        setattr(checkpoint.system, name, torch.compile(getattr(checkpoint.system, name)))
    ask = _ask(Predictor(checkpoint), asked)
    try:
        # A second text length makes torch.compile generalise over lengths.
        for number in (0, 10**15, 10**16):
            ask(0, number)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AbsentError(f"torch.compile: {type(error).__name__}: {reason}") from None
    yield Candidate("torch.compile", "computed", "float32", ask, 1)
    torch.compiler.reset()


def _ask(predictor: Predictor, asked: Sequence[Workload]) -> Callable[[int, int], Points]:
    def ask(index: int, number: int) -> Points:
        work = asked[index]
        support = work.unseen(number) if number else work.support
        (prediction,) = predictor.estimate(work.image, support, work.boxes)
        return prediction.keypoints

    return ask

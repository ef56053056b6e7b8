"""The model in PyTorch, in this process: as research code runs it, and the same through torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.compare.contestants import AbsentError, Contestant, Points
from benchmarks.harness.workloads import Workload
from cape.checkpoints import Checkpoint, load_checkpoint, untrained_checkpoint
from cape.predictor import Predictor

COMPILED = ("encode_image", "encode_text", "fuse_support", "decode_pose")
"""Methods of the system that are compiled, each as a graph of its own."""


def load_source(source: str, path: Path) -> Checkpoint:
    """Reads a checkpoint, or, where `source` is 'untrained', makes one of random weights from a configuration.

    Raises:
        CheckpointError, ConfigurationError: see `cape.checkpoints`.
    """
    return load_checkpoint(path) if source == "checkpoint" else untrained_checkpoint(path)


@contextmanager
def eager(checkpoint: Checkpoint, asked: Sequence[Workload]) -> Iterator[Contestant]:
    """PyTorch eager in float32: text encoder, support pass, query pass and head with every request.

    Args:
        checkpoint: the model.
        asked: the queries, each with the support.
    """
    yield Contestant("PyTorch eager", "computed", "float32", _ask(Predictor(checkpoint), asked), 1)


@contextmanager
def compiled(load: Callable[[], Checkpoint], asked: Sequence[Workload]) -> Iterator[Contestant]:
    """The same through torch.compile, with its default mode; compiled before it is measured.

    Args:
        load: reads the model: a copy of its own, as compiling changes it.
        asked: as for `eager`.

    Raises:
        AbsentError: torch.compile fails here.
    """
    checkpoint = load()
    for name in COMPILED:
        setattr(checkpoint.system, name, torch.compile(getattr(checkpoint.system, name)))
    ask = _ask(Predictor(checkpoint), asked)
    try:
        # Another text length is met with other numbers, and compiled for lengths in general.
        for number in (0, 10**15, 10**16):
            ask(0, number)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AbsentError(f"torch.compile: {type(error).__name__}: {reason}") from None
    yield Contestant("torch.compile", "computed", "float32", ask, 1)
    torch.compiler.reset()


def _ask(predictor: Predictor, asked: Sequence[Workload]) -> Callable[[int, int], Points]:
    def ask(index: int, number: int) -> Points:
        work = asked[index]
        support = work.unseen(number) if number else work.support
        (prediction,) = predictor.estimate(work.image, support, work.boxes)
        return prediction.keypoints

    return ask

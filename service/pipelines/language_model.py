"""Keypoints by questions to a language model: a support's words, a query's image, a question a keypoint (CapeLLM).

A query's crops become image tokens beside the reading of the support's words. Then each crop's prefix runs: begin
token, image, and what all questions share. Its keys and values serve all of the crop's keypoints, whose questions are
rows of the decoder. Rows go through the runner one by one, like those of any other component: prefixes of several
requests share a run, and so do steps of questions whose prefixes and questions are of one length. Deadlines and callers
who leave are heeded before every step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from cape.capellm.sequences import OUTPUTS, AnswerSequences, Past, RowInputs, prefix_inputs
from cape.manifest import LanguageSystemManifest, Manifest
from service.batching.queues import RunTimes
from service.batching.reservations import Reservations
from service.engines.base import BatchRunner
from service.errors import TOO_LATE, DeadlineError
from service.pipelines.base import Estimate, Estimates, PartialCallback, PartialEstimate, SupportTrace
from service.pipelines.prompts import PromptCache, PromptWriter, SupportPrompts, WrittenPrompts
from service.process.tasks import all_of
from service.supports.outline import SupportOutline
from service.supports.store import SupportSource

PARTIAL_ROWS = 8
"""Keypoints that are asked for at a time where a caller wants to hear of each as early as may be."""

TOKEN_MULTIPLE = 8
"""Questions are padded to a multiple of so many tokens, so that those of several supports meet in one run."""

MAX_LOGITS_IN_LOOP = 2**17
"""Logits whose softmax is taken at once, in a millisecond. More go to a thread, so that other callers do not wait; on
the way there and back, requests that shared a run may lose each other."""

Asked: TypeAlias = tuple[int, int]
"""Index of a crop, and of a keypoint."""


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """Query crops after the vision tower.

    Attributes:
        tokens: one float32 [N, D] per crop.
        seconds: from the call to the last of them.
        queue_seconds: of those, waiting for the engine (the longest wait of a crop).
    """

    tokens: tuple[npt.NDArray[Any], ...]
    seconds: float
    queue_seconds: float


class _Served(NamedTuple):
    """A system of this pipeline.

    Attributes:
        spec: its manifest.
        writer: of its questions.
        rows: of the decoder's largest batch.
        dialogues: how long they have taken, by questions.
        budget: questions under way at a time: as many as share a run. More would gain nothing, keep everybody's keys
            and values in memory, and have all of them end late.
    """

    spec: LanguageSystemManifest
    writer: PromptWriter
    rows: int
    dialogues: RunTimes
    budget: Reservations


class LanguageEstimator:
    """Answers queries by a language model. Implements `service.pipelines.base.Pipeline`."""

    has_maps = False

    def __init__(self, repository: Path, manifest: Manifest, runner: BatchRunner, prompts: PromptCache) -> None:
        """Reads the tokenizers.

        Args:
            repository: folder of an exported repository.
            manifest: its manifest.
            runner: runs components.
            prompts: keeps the prompts of supports.

        Raises:
            ValueError: a tokenizer is missing or unreadable.
        """
        self._runner = runner
        self._served = {
            name: _Served(spec, PromptWriter(name, repository, spec), rows, RunTimes(), Reservations(rows))
            for name, spec in manifest.language_systems.items()
            for rows in [manifest.components[spec.components["capellm_decoder"]].max_batch_size]
        }
        writers = {name: served.writer for name, served in self._served.items()}
        self._prompts = SupportPrompts(writers, {name: manifest.version(name) for name in writers}, prompts)

    def check_words(self, support: SupportOutline) -> None:
        """Refuses a support whose words a system of this pipeline cannot take.

        Raises:
            InvalidFieldError: a text is too long; the field path is relative to the support.
        """
        for served in self._served.values():
            served.writer.write(support)

    async def support_tokens(
        self, system: str, source: SupportSource, deadline: float | None = None
    ) -> tuple[WrittenPrompts, SupportTrace]:
        """See `service.pipelines.base.Pipeline.support_tokens`."""
        return await self._prompts.get(system, source, deadline)

    def has_tokens(self, system: str, source: SupportSource) -> bool:
        """See `service.pipelines.base.Pipeline.has_tokens`."""
        return self._prompts.has(system, source)

    async def start_query(
        self, system: str, source: SupportSource, crops: Sequence[npt.NDArray[np.uint8]], deadline: float | None = None
    ) -> ImageTokens:
        """Runs the vision tower; see `service.pipelines.base.Pipeline.start_query`.

        The dialogue that follows takes most of a query's time. So image tokens are needed that much before the
        deadline, and a query that leaves too little time for it is not begun: under overload, a server that begins what
        it cannot finish answers next to nobody.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        served = self._served[system]
        component = served.spec.components["capellm_vision"]
        if deadline is not None:
            expected = served.dialogues.run_time(len(crops) * len(source.definition.keypoint_names), started)
            if started + expected * (1 + served.budget.waiting) > deadline:
                raise DeadlineError(TOO_LATE)
            deadline -= expected
        rows = await all_of(
            self._runner.submit(component, {"image": crop}, ["image_tokens"], deadline) for crop in crops
        )
        tokens = tuple(row.outputs["image_tokens"] for row in rows)
        return ImageTokens(tokens, loop.time() - started, max(row.waited for row in rows))

    async def estimate(
        self,
        system: str,
        support: WrittenPrompts,
        queries: ImageTokens,
        deadline: float | None = None,
        *,
        similarity: bool = False,
        proposals: bool = False,
        found: PartialCallback | None = None,
    ) -> Estimates:
        """Asks for every keypoint in every crop; see `service.pipelines.base.Pipeline.estimate`."""
        assert not (similarity or proposals), "a language model has neither"
        served = self._served[system]
        loop = asyncio.get_running_loop()
        asked = loop.time()
        crops, keypoints = len(queries.tokens), len(support.prompts.questions)
        group = served.rows if found is None else min(served.rows, PARTIAL_ROWS)
        latest = None if deadline is None else deadline - served.dialogues.run_time(crops * keypoints, asked)
        async with served.budget.reserved(min(crops * keypoints, group), latest):
            begun = loop.time()
            dialogue = _Dialogue(self._runner, served, support, deadline)
            await dialogue.begin(queries.tokens)
            estimates = await self._answers(dialogue, crops, keypoints, group, found)
        ended = loop.time()
        served.dialogues.measured(crops * keypoints, ended - begun, ended)
        return Estimates(estimates, ended - asked, begun - asked + dialogue.queue_seconds)

    async def _answers(
        self, dialogue: _Dialogue, crops: int, keypoints: int, group: int, found: PartialCallback | None
    ) -> tuple[Estimate, ...]:
        """Asks about every keypoint of every crop, `group` questions at a time."""
        places = np.zeros((crops, keypoints, 2), np.float32)
        scores = np.zeros((crops, keypoints), np.float32)
        questions = [(crop, keypoint) for crop in range(crops) for keypoint in range(keypoints)]
        # One group after the other, and each to its end: every row carries keys and values of all that came before it.
        for start in range(0, len(questions), group):
            asked = questions[start : start + group]
            where = tuple(np.array(asked).T)
            places[where], scores[where] = await dialogue.answers(asked)
            if found is not None and start + group < len(questions):
                found(_partial(asked, places, scores))
        everything = np.ones(keypoints, np.bool_)
        return tuple(Estimate(places[crop], scores[crop], everything) for crop in range(crops))

    def forget(self, key: str) -> None:
        """See `service.pipelines.base.Pipeline.forget`."""
        self._prompts.forget(key)

    def known(self) -> set[str]:
        """See `service.pipelines.base.Pipeline.known`."""
        return self._prompts.known()


class _Dialogue:
    """One query's questions and answers.

    Attributes:
        queue_seconds: waiting for the engine so far: of each run, the longest wait of a row.
    """

    def __init__(self, runner: BatchRunner, served: _Served, support: WrittenPrompts, deadline: float | None) -> None:
        self._runner, self._deadline = runner, deadline
        self._spec, self._grammar = served.spec, served.writer.grammar
        self._prompts = support.prompts
        self._prefixes: list[Past] = []
        self.queue_seconds = 0.0

    async def begin(self, images: Sequence[npt.NDArray[np.float32]]) -> None:
        """Runs the prefix of every crop."""
        cache = self._spec.cache
        nothing = Past.nothing(cache.layers, cache.heads, cache.depth)
        outputs = await self._run([prefix_inputs(image, self._prompts.opening, nothing) for image in images])
        self._prefixes = [Past.of(one) for one in outputs]

    async def answers(self, asked: Sequence[Asked]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Keypoints float32 [R, 2] and scores float32 [R] of R questions."""
        sequences = AnswerSequences(
            [self._prompts.questions[keypoint] for _, keypoint in asked],
            [self._prefixes[crop] for crop, _ in asked],
            self._grammar,
            width=self._spec.width,
            readout=self._spec.readout,
            multiple=TOKEN_MULTIPLE,
        )
        while not sequences.complete:
            outputs = await self._run(sequences.inputs())
            if len(outputs) * outputs[0]["logits"].size <= MAX_LOGITS_IN_LOOP:
                sequences.take(outputs)
            else:
                await asyncio.to_thread(sequences.take, outputs)
        return sequences.keypoints, sequences.scores

    async def _run(self, rows: Sequence[RowInputs]) -> list[dict[str, npt.NDArray[Any]]]:
        """Runs the decoder on rows of equal shapes, beside those of other requests."""
        component = self._spec.components["capellm_decoder"]
        results = await all_of(self._runner.submit(component, row, OUTPUTS, self._deadline) for row in rows)
        self.queue_seconds += max(result.waited for result in results)
        return [result.outputs for result in results]


def _partial(
    asked: Sequence[Asked], places: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]
) -> list[PartialEstimate]:
    """What a group of questions brought, by crop."""
    crops: dict[int, list[int]] = {}
    for crop, keypoint in asked:
        crops.setdefault(crop, []).append(keypoint)
    return [
        PartialEstimate(
            crop,
            tuple(keypoints),
            Estimate(places[crop, keypoints], scores[crop, keypoints], np.ones(len(keypoints), np.bool_)),
        )
        for crop, keypoints in crops.items()
    ]

"""One of many callers in a soak: sends random requests and records their outcomes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.soak.expected_answers import IMAGES, SUPPORTS, ExpectedAnswers, made_up_support
from benchmarks.soak.ledger import Disturbances, Ledger
from cape.client import (
    Box,
    CapeError,
    Client,
    ConnectionOptions,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PoseEstimate,
    Query,
    UnavailableError,
)

TIMEOUT_SECONDS = 30.0
"""Deadline of ordinary calls; far more than an undisturbed server needs."""

PAUSE_SECONDS = (0.05, 0.5)
"""Seconds between a refusal and the next call."""

ENGINE_FAILED = "the engine could not run"
"""Codes of an engine failure, which the soak may inject at any time."""

NOWHERE = "supports/00000000000000000000000000000000"


@dataclass(frozen=True, slots=True)
class Place:
    """A server's address and its disturbances."""

    target: str
    disturbances: Disturbances


class Caller:
    """Sends mixed traffic to all servers from one thread."""

    def __init__(
        self, number: int, places: list[Place], names: list[str], expected: ExpectedAnswers, ledger: Ledger
    ) -> None:
        """Connects.

        Args:
            number: seed of its traffic.
            places: the servers.
            names: of the cast's supports, registered.
            expected: what to send, and the expected answers.
            ledger: counts the outcomes.
        """
        self._random = random.Random(number)
        self._number = number
        options = ConnectionOptions(timeout=TIMEOUT_SECONDS, attempts=1)
        hurried = ConnectionOptions(timeout=self._random.uniform(0.001, 0.05), attempts=1)
        self._places = places
        self._clients = [Client(place.target, options) for place in places]
        self._hurried = [Client(place.target, hurried) for place in places]
        self._names = names
        self._expected = expected
        self._ledger = ledger
        self._actions: dict[Callable[[int], None], int] = {
            self._query: 40,
            self._inline: 10,
            self._batch: 10,
            self._stream: 10,
            self._mistake: 12,
            self._hurry: 8,
            self._abandon: 4,
            self._lifetime: 6,
        }

    def run(self, until: float) -> None:
        """Sends calls until a monotonic time."""
        while time.monotonic() < until:
            (action,) = self._random.choices(list(self._actions), list(self._actions.values()))
            action(self._random.randrange(len(self._places)))
        for client in (*self._clients, *self._hurried):
            client.close()

    def _pick(self, inline: bool = False) -> tuple[int, int, Query]:
        """Picks a support and an image, and makes a query of them."""
        support, image = self._random.randrange(SUPPORTS), self._random.randrange(IMAGES)
        source = self._expected.supports[support] if inline else self._names[support]
        return support, image, Query(self._expected.images[image], source)

    def _judge(self, kind: str, support: int, image: int, answer: PoseEstimate) -> None:
        mistake = self._expected.mistake(support, image, answer)
        if mistake:
            self._ledger.count_wrong(kind, mistake)
        else:
            self._ledger.count_right(kind)

    def _judge_refusal(self, kind: str, place: int, started: float, error: CapeError, requests: int = 1) -> None:
        """Whether an unprovoked refusal is acceptable now."""
        disturbed = self._places[place].disturbances.overlap(started, time.monotonic())
        fine = (
            isinstance(error, OverloadedError)
            or (isinstance(error, UnavailableError) and (disturbed or str(error).startswith(ENGINE_FAILED)))
            or (isinstance(error, DeadlineExceededError) and disturbed)
        )
        if fine:
            engine = " (engine)" if str(error).startswith(ENGINE_FAILED) else ""
            self._ledger.count_refused(kind, f"{error.code.name}{engine}", requests)
            # As real callers do; otherwise most of the traffic would meet the server that is down.
            time.sleep(self._random.uniform(*PAUSE_SECONDS))
            return
        for _ in range(requests):
            self._ledger.count_wrong(kind, f"{error.code.name}: {error}")

    def _ask(self, kind: str, place: int, support: int, image: int, query: Query) -> None:
        self._ledger.count_sent(kind)
        started = time.monotonic()
        try:
            answer = self._clients[place].estimate(query.image, query.support)
        except CapeError as error:
            self._judge_refusal(kind, place, started, error)
        else:
            self._judge(kind, support, image, answer)

    def _query(self, place: int) -> None:
        self._ask("query", place, *self._pick())

    def _inline(self, place: int) -> None:
        self._ask("inline query", place, *self._pick(inline=True))

    def _batch(self, place: int) -> None:
        """Sends a batch; some have one item that must fail alone."""
        kind = "item of a batch"
        picked = [self._pick() for _ in range(self._random.randint(2, 8))]
        queries = [query for _, _, query in picked]
        bad = self._random.randrange(len(queries)) if self._random.random() < 0.5 else None
        if bad is not None:
            queries[bad] = Query(b"no image", queries[bad].support)
        self._ledger.count_sent(kind, len(queries))
        started = time.monotonic()
        try:
            answers = self._clients[place].estimate_batch(queries)
        except CapeError as error:
            self._judge_refusal(kind, place, started, error, len(queries))
            return
        if len(answers) != len(queries):
            self._ledger.count_lost(kind, f"{len(answers)} answers to {len(queries)} items", len(queries))
            return
        for index, ((support, image, _), answer) in enumerate(zip(picked, answers, strict=True)):
            self._judge_item(kind, place, started, support, image, answer, spoilt=index == bad)

    def _judge_item(
        self,
        kind: str,
        place: int,
        started: float,
        support: int,
        image: int,
        answer: PoseEstimate | CapeError,
        *,
        spoilt: bool = False,
    ) -> None:
        if spoilt and isinstance(answer, InvalidRequestError):
            self._ledger.count_refused(kind, answer.code.name)
        elif isinstance(answer, CapeError):
            self._judge_refusal(kind, place, started, answer)
        elif spoilt:
            self._ledger.count_wrong(kind, "an answer to an invalid image")
        else:
            self._judge(kind, support, image, answer)

    def _stream(self, place: int) -> None:
        """Sends a stream and reads it to its end."""
        kind = "item of a stream"
        picked = [self._pick() for _ in range(self._random.randint(5, 30))]
        self._ledger.count_sent(kind, len(picked))
        open_items = set(range(len(picked)))
        started = time.monotonic()
        try:
            for index, answer in self._clients[place].estimate_stream([query for _, _, query in picked]):
                if index not in open_items:
                    self._ledger.count_wrong(kind, f"item {index} is answered twice")
                    continue
                open_items.remove(index)
                support, image, _ = picked[index]
                self._judge_item(kind, place, started, support, image, answer)
        except CapeError as error:
            if open_items:
                self._judge_refusal(kind, place, started, error, len(open_items))
        else:
            if open_items:
                self._ledger.count_lost(kind, "a stream ended with OK before all items were answered", len(open_items))

    def _mistake(self, place: int) -> None:
        """Sends a request that must be refused with a certain code."""
        kind = "mistake"
        support, image, _ = self._pick()
        data, name = self._expected.images[image], self._names[support]
        expected, spoilt = self._random.choice(
            (
                (InvalidRequestError, Query(data[: len(data) // 3], name)),
                (InvalidRequestError, Query(b"I am not a photograph", name)),
                (InvalidRequestError, Query(data, name, [Box(float("nan"), 0, 5, 5)])),
                (InvalidRequestError, Query(data, name, [Box(1e5, 0, 5, 5)])),
                (InvalidRequestError, Query(np.zeros((4, 4, 3), np.uint8), "cat")),
                (NotFoundError, Query(data, NOWHERE)),
                (NotFoundError, Query(data, name, model="models/nothing")),
            )
        )
        self._ledger.count_sent(kind)
        started = time.monotonic()
        try:
            self._clients[place].estimate(spoilt.image, spoilt.support, boxes=spoilt.boxes, model=spoilt.model)
        except CapeError as error:
            if isinstance(error, expected):
                self._ledger.count_refused(kind, error.code.name)
            else:
                self._judge_refusal(kind, place, started, error)
        else:
            self._ledger.count_wrong(kind, f"an answer where {expected.__name__} was due")

    def _hurry(self, place: int) -> None:
        """Sends a request with a deadline that may be too short."""
        kind = "hurried query"
        support, image, query = self._pick()
        self._ledger.count_sent(kind)
        started = time.monotonic()
        try:
            answer = self._hurried[place].estimate(query.image, query.support)
        except DeadlineExceededError as error:
            self._ledger.count_refused(kind, error.code.name)
        except CapeError as error:
            self._judge_refusal(kind, place, started, error)
        else:
            self._judge(kind, support, image, answer)

    def _abandon(self, place: int) -> None:
        """Opens a stream and leaves after the first answer; the rest must be discarded."""
        kind = "first item of an abandoned stream"
        picked = [self._pick() for _ in range(20)]
        self._ledger.count_sent(kind)
        started = time.monotonic()
        answers = self._clients[place].estimate_stream([query for _, _, query in picked])
        try:
            index, answer = next(answers)
        except CapeError as error:
            self._judge_refusal(kind, place, started, error)
        except StopIteration:
            self._ledger.count_lost(kind, "the stream ended without an answer")
        else:
            support, image, _ = picked[index]
            self._judge_item(kind, place, started, support, image, answer)
        finally:
            answers.close()

    def _lifetime(self, place: int) -> None:
        """Creates, uses and deletes a support, and checks that it is gone."""
        client = self._clients[place]
        # Seeded by time and caller number, so that no other caller has the same content.
        definition = made_up_support(time.time_ns() // 1000 * 64 + self._number)
        image = self._expected.images[self._random.randrange(IMAGES)]
        name = ""

        def step(kind: str, call: Callable[[], str]) -> bool:
            """Counts a call that returns a description of what is wrong; False if the sequence cannot go on."""
            self._ledger.count_sent(kind)
            started = time.monotonic()
            try:
                mistake = call()
            except CapeError as error:
                if kind == "use" and isinstance(error, NotFoundError):
                    self._ledger.count_lost(kind, f"{name} was created and is missing")
                else:
                    self._judge_refusal(kind, place, started, error)
                return False
            if mistake:
                self._ledger.count_wrong(kind, mistake)
                return False
            self._ledger.count_right(kind)
            return True

        def create() -> str:
            nonlocal name
            registered = client.create_support(definition)
            name = registered.name
            return "it was there already" if registered.already_existed else ""

        def use() -> str:
            named, inline = (client.estimate(image, support).instances[0] for support in (name, definition))
            difference = float(np.abs(named.keypoints - inline.keypoints).max())
            return f"registered and inline differ by {difference}" if difference > 0.5 else ""

        def delete() -> str:
            client.delete_support(name)
            return ""

        def miss() -> str:
            try:
                client.estimate(image, name)
            except NotFoundError:
                return ""
            return "an answer for a support that was deleted"

        _ = all(
            step(kind, call) for kind, call in (("create", create), ("use", use), ("delete", delete), ("miss", miss))
        )

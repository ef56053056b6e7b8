"""Runs an estimator over test pairs and collects the results."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cape.data.dataset import AnnotatedObject, DatasetError, KeypointDataset
from cape.data.pairs import Episode, TestPlan
from cape.evaluation.estimator import EstimatedPose, Estimator, QueryObject
from cape.evaluation.kept import Kept
from cape.evaluation.metrics import Scores, box_length, pixel_errors, score_pair
from cape.evaluation.supports import seen_in_all, support_definition
from cape.evaluation.variations import Variation
from cape.support import Modality

KEPT_OBJECTS = 2**28
"""Bytes of decoded images to cache."""

Progress = Callable[[int, int], None]
"""Called with the number of pairs done and the total."""


@dataclass(frozen=True, slots=True, eq=False)
class PairResult:
    """Result of one test pair.

    Attributes:
        category: index of the category.
        supports: ids of the support objects.
        query: id of the query object.
        scored: bool [K], the keypoints visible in the query and in every support; at least one.
        errors: float64 [K], pixels of the query's image; infinite where not located. Valid only where scored.
        length: longer side of the query's box, in pixels.
        pose: the prediction.
        scores: the metrics of the pair.
    """

    category: int
    supports: tuple[int, ...]
    query: int
    scored: npt.NDArray[np.bool_]
    errors: npt.NDArray[np.float64]
    length: float
    pose: EstimatedPose
    scores: Scores


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationRun:
    """Results of all pairs of a plan.

    Attributes:
        results: the pairs that can be scored, in the plan's order.
        unscored: number of pairs that cannot be scored: no keypoint is visible in the query and in every support.
        modalities: the supports' modalities that were used.
        left_out: number of pairs left out because an object cannot be read.
        unreadable: one message for each such object.
        unscored_by_category: category index → number of its pairs that cannot be scored.
    """

    results: tuple[PairResult, ...]
    unscored: int
    modalities: tuple[Modality, ...]
    left_out: int = 0
    unreadable: tuple[str, ...] = ()
    unscored_by_category: Mapping[int, int] = field(default_factory=dict)


def run_pairs(
    dataset: KeypointDataset,
    plan: TestPlan,
    estimator: Estimator,
    *,
    variation: Variation | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> EvaluationRun:
    """Runs an estimator on every pair.

    Args:
        dataset: the data set of the plan's objects.
        plan: from `draw_pairs`.
        estimator: makes predictions.
        variation: changes each support before it is used; the pairs and the scored keypoints stay the same.
        seed: seed of the variation.
        progress: called after every episode.

    Raises:
        DatasetError: no object can be read.
        MissingModalityError: the model needs a modality that the supports lack.
        EstimationError: a prediction failed.
    """
    objects: Kept[AnnotatedObject] = Kept(KEPT_OBJECTS, lambda found: found.image.nbytes)
    results: list[PairResult] = []
    used: set[Modality] = set()
    unreadable: dict[int, str] = {}
    empty: Counter[int] = Counter()
    total, done, left_out = plan.pairs, 0, 0
    progress(0, total)
    for number, episode in enumerate(plan.episodes):
        found: dict[int, AnnotatedObject] = {}
        for object_id in (*episode.supports, *episode.queries):
            if object_id in unreadable:
                continue
            try:
                found[object_id] = _load(dataset, objects, object_id)
            except DatasetError as error:
                unreadable[object_id] = str(error)
        readable = all(object_id in found for object_id in episode.supports)
        whole = Episode(
            episode.category,
            episode.supports,
            tuple(object_id for object_id in episode.queries if readable and object_id in found),
        )
        left_out += len(episode.queries) - len(whole.queries)
        done += len(episode.queries)
        if not whole.queries:
            progress(done, total)
            continue
        episode = whole
        supports = [found[object_id] for object_id in episode.supports]
        queries = [found[object_id] for object_id in episode.queries]
        common = seen_in_all(supports)
        empty[episode.category] += sum(not (query.visible & common).any() for query in queries)
        scorable = [row for row, query in enumerate(queries) if (query.visible & common).any()]
        if scorable:
            category = dataset.categories[episode.category]
            support = support_definition(category, supports)
            if variation is not None:
                support = variation.change(support, category, random.Random(f"{seed}/{category.name}/{number}"))
            answer = estimator.estimate(
                support,
                [QueryObject(episode.queries[row], queries[row].image, queries[row].box) for row in scorable],
            )
            used.update(answer.modalities)
            results += [
                _pair_result(episode, row, queries[row], common, pose)
                for row, pose in zip(scorable, answer.poses, strict=True)
            ]
        progress(done, total)
    if not results and unreadable:
        raise DatasetError(f"{dataset.name}: no pair is left: {next(iter(unreadable.values()))}")
    order: Sequence[Modality] = ("image", "text")
    return EvaluationRun(
        tuple(results),
        total - left_out - len(results),
        tuple(kind for kind in order if kind in used),
        left_out,
        tuple(unreadable.values()),
        dict(+empty),
    )


def _load(dataset: KeypointDataset, objects: Kept[AnnotatedObject], object_id: int) -> AnnotatedObject:
    found = objects.get(object_id)
    if found is None:
        found = dataset.load(object_id)
        objects.put(object_id, found)
    return found


def _pair_result(
    episode: Episode, row: int, query: AnnotatedObject, common: npt.NDArray[np.bool_], pose: EstimatedPose
) -> PairResult:
    scored = query.visible & common
    errors, length = pixel_errors(pose.keypoints, query.keypoints, pose.located), box_length(query.box)
    return PairResult(
        category=episode.category,
        supports=episode.supports,
        query=episode.queries[row],
        scored=scored,
        errors=errors,
        length=length,
        pose=pose,
        scores=score_pair(errors[scored], length),
    )

"""Runs an estimator over test pairs and keeps what each pair came to."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cape.data.dataset import AnnotatedObject, KeypointDataset
from cape.data.pairs import Episode, TestPlan
from cape.evaluation.estimator import EstimatedPose, Estimator, QueryObject
from cape.evaluation.kept import Kept
from cape.evaluation.metrics import Scores, box_length, pixel_errors, score_pair
from cape.evaluation.supports import seen_in_all, support_definition
from cape.evaluation.variations import Variation
from cape.support import Modality

KEPT_OBJECTS = 2**28
"""Bytes of decoded photographs that are kept."""

Progress = Callable[[int, int], None]
"""Called with pairs done and pairs in all."""


@dataclass(frozen=True, slots=True, eq=False)
class PairResult:
    """What one test pair came to.

    Attributes:
        category: its index.
        supports: ids of the support objects.
        query: id of the query object.
        scored: bool [K], the keypoints visible in the query and in every support; at least one.
        errors: float64 [K], pixels of the query's image; infinite where not located. Of meaning where scored.
        length: longer side of the query's box, in pixels.
        pose: the prediction.
        scores: PCK and the like.
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
    """All pairs of a plan.

    Attributes:
        results: the pairs that can be scored, in the plan's order.
        unscored: how many cannot: no keypoint is visible in the query and in every support.
        modalities: what of the supports was used.
    """

    results: tuple[PairResult, ...]
    unscored: int
    modalities: tuple[Modality, ...]


def run_pairs(
    dataset: KeypointDataset,
    plan: TestPlan,
    estimator: Estimator,
    *,
    variation: Variation | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> EvaluationRun:
    """Asks an estimator about every pair.

    Args:
        dataset: where the plan's objects are.
        plan: from `draw_pairs`.
        estimator: makes predictions.
        variation: changes each support before it is shown; the pairs, and what is scored, stay the same.
        seed: of the variation.
        progress: told after every episode.

    Raises:
        DatasetError: an object cannot be read.
        MissingModalityError: the model cannot do without something that the supports lack.
        EstimationError: a prediction failed.
    """
    objects: Kept[AnnotatedObject] = Kept(KEPT_OBJECTS, lambda found: found.image.nbytes)
    results: list[PairResult] = []
    used: set[Modality] = set()
    total, done = plan.pairs, 0
    progress(0, total)
    for number, episode in enumerate(plan.episodes):
        supports = [_load(dataset, objects, object_id) for object_id in episode.supports]
        queries = [_load(dataset, objects, object_id) for object_id in episode.queries]
        common = seen_in_all(supports)
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
        done += len(queries)
        progress(done, total)
    order: Sequence[Modality] = ("image", "text")
    return EvaluationRun(tuple(results), total - len(results), tuple(kind for kind in order if kind in used))


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

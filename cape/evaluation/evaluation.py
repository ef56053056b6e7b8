"""Runs an evaluation: pairs, scores by category, calibration, and the same pairs under variations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cape.data.dataset import KeypointDataset
from cape.data.pairs import TestPlan, draw_pairs
from cape.evaluation.calibration import Calibration, calibrate
from cape.evaluation.configuration import EvaluationConfiguration
from cape.evaluation.estimator import Estimator
from cape.evaluation.metrics import ZERO, Scores, mean_scores
from cape.evaluation.run import EvaluationRun, PairResult, run_pairs
from cape.evaluation.variations import Variation, variation
from cape.modalities import MissingModalityError
from cape.support import Modality

Progress = Callable[[str, int, int], None]
"""Called with the current activity, the number of pairs done and the total."""


class NothingScoredError(ValueError):
    """No pair has a keypoint that is visible in the query and in every support."""


@dataclass(frozen=True, slots=True)
class VariationOutcome:
    """Result of one variation.

    Attributes:
        variation: its name.
        scores: over all pairs; None if it was not measured.
        reason: why it was not measured; empty if it was.
        modalities: the supports' modalities that were used.
    """

    variation: Variation
    scores: Scores | None
    reason: str
    modalities: tuple[Modality, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        estimator: name of the evaluated estimator.
        data: name of the data set.
        configuration: the configuration that was run.
        plan: the pairs.
        run: results by pair.
        overall: mean over pairs, the figure that papers report.
        mean_of_categories: mean over the categories' means.
        categories: by name, in the data set's order.
        super_categories: by name, each the mean over its pairs.
        calibration: how well scores identify wrong keypoints.
        variations: in the order of the configuration.
        data_notes: deviations from the annotations: missing and renamed images, keypoints outside their image.
    """

    estimator: str
    data: str
    configuration: EvaluationConfiguration
    plan: TestPlan
    run: EvaluationRun
    overall: Scores
    mean_of_categories: Scores
    categories: dict[str, Scores]
    super_categories: dict[str, Scores]
    calibration: Calibration
    variations: tuple[VariationOutcome, ...]
    data_notes: tuple[str, ...] = ()


def evaluate(
    dataset: KeypointDataset,
    estimator: Estimator,
    configuration: EvaluationConfiguration,
    progress: Progress = lambda step, done, total: None,
) -> Evaluation:
    """Evaluates an estimator.

    Args:
        dataset: the data set that `configuration.data` names.
        estimator: makes the predictions.
        configuration: which pairs and variations.
        progress: called after every episode.

    Raises:
        DatasetError: no category has enough objects, or an object cannot be read.
        MissingModalityError: the model needs a modality that the supports of this data lack.
        EstimationError: a prediction failed.
        NothingScoredError: no pair has a keypoint to score.
    """
    plan = draw_pairs(
        dataset,
        shots=configuration.shots,
        episodes=configuration.episodes,
        queries=configuration.queries,
        seed=configuration.seed,
    )
    run = run_pairs(
        dataset, plan, estimator, progress=lambda done, total: progress(f"evaluating on {dataset.name}", done, total)
    )
    if not run.results:
        raise NothingScoredError(f"{dataset.name}: no keypoint is visible in a query and in all its supports")
    zeros: dict[int, int] = {} if configuration.scoring == "common" else dict(run.unscored_by_category)
    categories = _grouped(run.results, [category.name for category in dataset.categories], zeros)
    return Evaluation(
        estimator=estimator.name,
        data=dataset.name,
        configuration=configuration,
        plan=plan,
        run=run,
        overall=mean_scores([result.scores for result in run.results] + [ZERO] * sum(zeros.values())),
        mean_of_categories=mean_scores(list(categories.values())),
        categories=categories,
        super_categories=_grouped(run.results, [category.super_category for category in dataset.categories], zeros),
        calibration=calibrate(run.results),
        variations=tuple(
            _measure(
                variation(name, configuration.missing_share),
                run.modalities,
                [ZERO] * sum(zeros.values()),
                lambda one: run_pairs(
                    dataset,
                    plan,
                    estimator,
                    variation=one,
                    seed=configuration.seed,
                    progress=lambda done, total: progress(one.name, done, total),
                ),
            )
            for name in configuration.variations
        ),
        data_notes=tuple(getattr(dataset, "notes", ())),
    )


def _grouped(results: Sequence[PairResult], names: Sequence[str], zeros: Mapping[int, int]) -> dict[str, Scores]:
    """Means over the pairs of each group.

    Args:
        results: the scored pairs.
        names: the group of each category.
        zeros: category index → number of its pairs that count as 0.
    """
    groups: dict[str, list[Scores]] = {name: [] for name in names}
    for category, count in zeros.items():
        groups[names[category]] += [ZERO] * count
    for result in results:
        groups[names[result.category]].append(result.scores)
    return {name: mean_scores(scores) for name, scores in groups.items() if scores}


def _measure(
    change: Variation, used: tuple[Modality, ...], zeros: list[Scores], run: Callable[[Variation], EvaluationRun]
) -> VariationOutcome:
    """Runs a variation. Skips it if the model ignores the changed modality or needs the removed one."""
    if change.changes not in used:
        nouns: dict[Modality, str] = {"image": "support images", "text": "texts"}
        return VariationOutcome(change, None, f"does not use {nouns[change.changes]}: answers as before", used)
    try:
        outcome = run(change)
    except MissingModalityError as error:
        return VariationOutcome(change, None, str(error), ())
    return VariationOutcome(
        change, mean_scores([result.scores for result in outcome.results] + zeros), "", outcome.modalities
    )

"""Pictures of the best and the worst predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cape.data.dataset import AnnotatedObject, Category, KeypointDataset
from cape.drawing import draw_pose, side_by_side
from cape.drawing.strokes import Pixels
from cape.evaluation.run import PairResult
from cape.geometry import BOX_PADDING, Crop
from cape.support import Box


def prediction_pictures(
    results: Sequence[PairResult], dataset: KeypointDataset, count: int
) -> Iterator[tuple[str, str, Pixels]]:
    """Draws predictions beside their support and the ground truth.

    Args:
        results: of the test pairs.
        dataset: the data set of their objects.
        count: number of best and of worst predictions; each query is shown at most once.

    Yields:
        A title, a file name and the picture.

    Raises:
        DatasetError: an object cannot be read.
    """
    ordered = sorted(range(len(results)), key=lambda index: (_badness(results[index]), index))
    for kind, indices in (("best", ordered), ("worst", ordered[::-1])):
        for number, index in enumerate(_of_different_queries(results, indices, count), start=1):
            result = results[index]
            title = (
                f"{kind} {number}: {dataset.categories[result.category].name}, "
                f"PCK@0.2 {100 * result.scores.pck_at(0.2):.0f} %, NME {result.scores.nme:.3f}"
            )
            yield title, f"{kind}_{number:02d}.png", _picture(result, dataset, title)


def _badness(result: PairResult) -> float:
    """Sort key of pairs: mean normalised error; a keypoint that was not located counts as 1."""
    return float(np.minimum(result.errors[result.scored] / result.length, 1.0).mean())


def _of_different_queries(results: Sequence[PairResult], indices: Sequence[int], count: int) -> list[int]:
    chosen: dict[int, int] = {}
    for index in indices:
        if len(chosen) == count:
            break
        chosen.setdefault(results[index].query, index)
    return list(chosen.values())


def _picture(result: PairResult, dataset: KeypointDataset, title: str) -> Pixels:
    category = dataset.categories[result.category]
    query = dataset.load(result.query)
    shots = f", shot 1 of {len(result.supports)}" if len(result.supports) > 1 else ""
    predicted = draw_pose(
        query.image,
        result.pose.keypoints,
        [keypoint.name for keypoint in category.keypoints],
        skeleton=category.skeleton,
        scores=result.pose.scores,
        # Keypoints without ground truth are not drawn: a prediction for them can be neither good nor bad.
        located=result.pose.located & result.scored,
        box=query.box,
        focus=_focus(query.box),
    )
    supports = [
        (f"support: {category.name}{shots}", _annotated(dataset.load(support), category))
        for support in result.supports[:1]
    ]
    return side_by_side([*supports, (title, predicted), ("annotated", _annotated(query, category))])


def _annotated(found: AnnotatedObject, category: Category) -> Pixels:
    return draw_pose(
        found.image,
        found.keypoints,
        [keypoint.name for keypoint in category.keypoints],
        skeleton=category.skeleton,
        located=found.visible,
        box=found.box,
        focus=_focus(found.box),
    )


def _focus(box: Box) -> Box:
    """The square crop around a box. A model cannot find anything outside it."""
    crop = Crop.around(box.x, box.y, box.width, box.height, size=1, padding=BOX_PADDING)
    return Box(crop.left, crop.top, crop.side, crop.side)

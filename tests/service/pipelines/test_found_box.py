"""Where the search for an object's box looks, and what it takes; the model is a function of the box."""

from __future__ import annotations

import numpy as np

from cape.v1 import image_pb2, pose_service_pb2
from service.pipelines.found_box import box_around, find_box, window_boxes

SIZE = pose_service_pb2.ImageSize(width=400, height=300)


def test_windows_cover_the_image_and_stay_inside() -> None:
    covered = np.zeros((300, 400), dtype=bool)
    for box in window_boxes(SIZE):
        assert box.x >= 0 and box.x + box.width <= 400.01 and box.y >= 0 and box.y + box.height <= 300.01
        covered[round(box.y) : round(box.y + box.height), round(box.x) : round(box.x + box.width)] = True
    assert covered.all()


def test_doubtful_keypoints_do_not_widen_the_box() -> None:
    points = np.array([[100.0, 100], [140, 120], [390, 290]])
    box = box_around(points, np.array([0.9, 0.9, 0.05]), SIZE)
    assert (box.x, box.width) == (92, 56)


async def _search(objects: np.ndarray) -> tuple[int, float, image_pb2.BoundingBox]:
    """A search with a model that finds the object only in boxes it fills at least a fifth of."""
    asked = 0

    async def answer(request: pose_service_pb2.EstimatePoseRequest) -> pose_service_pb2.EstimatePoseResponse:
        nonlocal asked
        response = pose_service_pb2.EstimatePoseResponse(image_size=SIZE)
        whole = pose_service_pb2.PoseInstance().box
        whole.width, whole.height = 400, 300
        for box in request.boxes or [whole]:
            asked += 1
            instance = response.instances.add(box=box)
            inside = all(box.x <= x <= box.x + box.width and box.y <= y <= box.y + box.height for x, y in objects)
            clear = inside and np.ptp(objects, axis=0).max() >= max(box.width, box.height) / 5
            for index, (x, y) in enumerate(objects):
                at = (x, y) if clear else (box.x + box.width * (0.2 + 0.3 * index), box.y + box.height * 0.3 * index)
                instance.keypoints.add(located=True, x=at[0], y=at[1], score=0.9 if clear else 0.4)
        return response

    found = await find_box(pose_service_pb2.EstimatePoseRequest(), answer)
    return asked, found.confidence, found.box


async def test_a_small_object_is_found_by_the_windows() -> None:
    objects = np.array([[180.0, 130], [220, 130], [200, 170]])
    asked, confidence, box = await _search(objects)
    assert asked > 20 and confidence > 0.8
    assert box.x < 180 and box.x + box.width > 220 and box.width < 100


async def test_an_object_that_fills_the_image_takes_two_passes_and_the_whole_image() -> None:
    asked, confidence, box = await _search(np.array([[30.0, 30], [370, 40], [200, 280]]))
    assert asked == 2 and confidence > 0.8 and (box.width, box.height) == (400, 300)

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cape.data.dataset import AnnotatedObject, DatasetError
from cape.data.image_cache import ImageCache
from cape.data.synthetic import SyntheticDataset


class Counted(SyntheticDataset):
    drawn = 0

    def load(self, object_id: int) -> AnnotatedObject:
        type(self).drawn += 1
        return super().load(object_id)


def same(first: AnnotatedObject, second: AnnotatedObject) -> bool:
    return (
        np.array_equal(first.image, second.image)
        and np.allclose(first.keypoints, second.keypoints)
        and np.array_equal(first.visible, second.visible)
        and np.allclose(
            (first.box.x, first.box.y, first.box.width, first.box.height),
            (second.box.x, second.box.y, second.box.width, second.box.height),
        )
    )


def test_an_object_is_drawn_once_and_read_by_every_process_after_that(tmp_path: Path) -> None:
    dataset = Counted("val", objects_per_category=2)
    cache = ImageCache(dataset, tmp_path)
    last = dataset.objects(len(dataset.categories) - 1)[-1]
    Counted.drawn = 0
    objects = [cache.load(last), cache.load(last), pickle.loads(pickle.dumps(cache)).load(last)]
    assert Counted.drawn == 1
    assert all(same(each, SyntheticDataset("val", objects_per_category=2).load(last)) for each in objects)


def test_other_pixels_have_a_file_of_their_own(tmp_path: Path) -> None:
    first = ImageCache(SyntheticDataset("val", objects_per_category=1), tmp_path, {"seed": 0})
    second = ImageCache(SyntheticDataset("val", objects_per_category=1, seed=1), tmp_path, {"seed": 1})
    assert not np.array_equal(first.load(3).image, second.load(3).image)
    assert len(list(tmp_path.iterdir())) == 2


def test_real_backdrops_change_the_surroundings_and_never_the_object(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 60, 3), (250, 0, 250), np.uint8)).save(tmp_path / "backdrop.png")
    plain = SyntheticDataset("val", objects_per_category=1)
    real = SyntheticDataset("val", objects_per_category=1, backdrops=tmp_path)
    changed = 0
    for number in range(8):
        before, after = plain.load(number), real.load(number)
        assert np.array_equal(before.keypoints, after.keypoints) and before.box == after.box
        corner = after.image[:4, :4].reshape(-1, 3).mean(0)
        changed += bool(corner.max() - corner.min() > 100)
    assert changed >= 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no JPEG or PNG image"):
        SyntheticDataset("val", backdrops=tmp_path / "empty")

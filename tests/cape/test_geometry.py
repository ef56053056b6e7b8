"""Crops are the published ones, and points find their way back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cape.geometry import Crop


def test_the_side_is_the_longer_side_of_the_box_with_padding() -> None:
    crop = Crop.around(10, 20, 80, 40, size=256)
    assert crop.side == pytest.approx(100)
    assert (crop.left, crop.top) == pytest.approx((0, -10))


def test_points_come_back_where_they_were() -> None:
    crop = Crop.around(3, -7, 133, 259, size=256)
    points = np.array([[0, 0], [50.25, 77.5], [133, 259]], np.float32)
    np.testing.assert_allclose(crop.to_image(crop.to_crop(points)), points, atol=1e-3)


def test_the_centre_of_the_box_is_the_centre_of_the_crop() -> None:
    crop = Crop.around(40, 60, 30, 50, size=256)
    np.testing.assert_allclose(crop.to_crop([55, 85]), [0.5, 0.5], atol=1e-6)


def test_a_dot_is_found_in_the_crop_where_the_mapping_says() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    cv2.circle(image, (120, 90), 3, (255, 255, 255), -1, cv2.LINE_AA)
    crop = Crop.around(80, 50, 100, 100, size=256)
    pixels = crop.extract(image)[..., 0].astype(np.float64)
    rows, columns = np.mgrid[:256, :256]
    found = np.array([(columns * pixels).sum(), (rows * pixels).sum()]) / pixels.sum()
    np.testing.assert_allclose(found, crop.to_crop([120, 90]) * 256, atol=0.3)


def test_what_lies_outside_the_photograph_is_black() -> None:
    crop = Crop.around(0, 0, 100, 100, size=64)
    pixels = crop.extract(np.full((100, 100, 3), 200, np.uint8))
    assert pixels.shape == (64, 64, 3)
    assert pixels[0].max() == 0
    assert pixels[32, 32].tolist() == [200, 200, 200]


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (float("nan"), 4)])
def test_a_box_without_area_is_refused(size: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="a box needs a width and a height"):
        Crop.around(0, 0, *size, size=256)

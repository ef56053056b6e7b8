from __future__ import annotations

import math

import numpy as np
import pytest

from cape.data.crops import Jitter, Warp, crop_object
from cape.data.dataset import AnnotatedObject
from cape.geometry import Crop
from cape.support import Box

SPOTS = ((60.0, 50.0), (100.0, 90.0), (75.0, 110.0))


def photograph() -> AnnotatedObject:
    """A soft bright spot at each keypoint, on black."""
    y, x = np.mgrid[0:160, 0:200]
    image = np.zeros((160, 200, 3), dtype=np.float64)
    for channel, (px, py) in enumerate(SPOTS):
        image[..., channel] = 255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 3.0**2))
    return AnnotatedObject(
        image.round().astype(np.uint8),
        Box(40, 30, 80, 100),
        np.array(SPOTS, dtype=np.float32),
        np.ones(3, dtype=np.bool_),
    )


def brightest(image: np.ndarray, channel: int) -> np.ndarray:
    """Centre of mass of a channel, in pixels."""
    weights = image[..., channel].astype(np.float64)
    weights[weights < 30] = 0
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    return np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum()


def test_a_plain_crop_is_the_one_that_is_served() -> None:
    annotated = photograph()
    cropped = crop_object(annotated, size=128, padding=1.25)
    crop = Crop.around(40, 30, 80, 100, size=128, padding=1.25)
    np.testing.assert_array_equal(cropped.image, crop.extract(annotated.image))
    np.testing.assert_array_equal(cropped.keypoints, crop.to_crop(annotated.keypoints))


@pytest.mark.parametrize(
    "warp", [Warp(), Warp(math.radians(15), 1.0), Warp(math.radians(-15), 0.85), Warp(0.0, 1.15), Warp(0.1, 1.1)]
)
def test_pixels_and_keypoints_move_together(warp: Warp) -> None:
    cropped = crop_object(photograph(), size=256, warp=warp)
    for keypoint in range(3):
        assert cropped.visible[keypoint]
        found = brightest(cropped.image, keypoint)
        assert np.abs(found - cropped.keypoints[keypoint] * 256).max() < 0.7


def test_a_rotation_is_clockwise_and_a_scale_enlarges() -> None:
    plain = crop_object(photograph(), size=256).keypoints - 0.5
    turned = crop_object(photograph(), size=256, warp=Warp(math.pi / 2, 1.0)).keypoints - 0.5
    np.testing.assert_allclose(turned, np.stack((-plain[:, 1], plain[:, 0]), axis=1), atol=1e-6)
    larger = crop_object(photograph(), size=256, warp=Warp(0.0, 1.1)).keypoints - 0.5
    np.testing.assert_allclose(larger, plain * 1.1, atol=1e-6)


def test_what_the_crop_cuts_off_is_hidden() -> None:
    annotated = photograph()
    small = AnnotatedObject(annotated.image, Box(50, 40, 20, 20), annotated.keypoints, annotated.visible)
    cropped = crop_object(small, size=64)
    assert cropped.visible.tolist() == [True, False, False]
    assert cropped.keypoints[1:].tolist() == [[0, 0], [0, 0]]


def test_a_jitter_stays_within_its_bounds_and_is_reproducible() -> None:
    jitter = Jitter(15, 0.15)
    warps = [jitter.draw(np.random.default_rng(seed)) for seed in range(500)]
    assert jitter.draw(np.random.default_rng(3)) == warps[3]
    degrees = [math.degrees(warp.rotation) for warp in warps]
    scales = [warp.scale for warp in warps]
    assert -15 <= min(degrees) < -13 and 13 < max(degrees) <= 15
    assert 0.85 <= min(scales) < 0.87 and 1.13 < max(scales) <= 1.15


def test_the_public_codes_augmentation_draws_from_clipped_normals() -> None:
    jitter = Jitter(15, 0.15, "normal", "normal", 0.6)
    warps = [jitter.draw(np.random.default_rng(seed)) for seed in range(4000)]
    degrees = np.degrees([warp.rotation for warp in warps])
    sizes = 1 / np.array([warp.scale for warp in warps])
    turned = degrees[degrees != 0]
    assert len(turned) / 4000 == pytest.approx(0.6, abs=0.03)
    # A normal of 15 degrees, clipped at 30: a standard deviation of 14.2.
    assert np.abs(turned).max() == pytest.approx(30) and turned.std() == pytest.approx(14.2, abs=0.6)
    # A third of a normal lies beyond one standard deviation, where it is clipped.
    at_the_edge = np.isclose(sizes, 0.85) | np.isclose(sizes, 1.15)
    assert at_the_edge.mean() == pytest.approx(0.317, abs=0.03) and sizes.min() == pytest.approx(0.85)

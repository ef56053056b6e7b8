from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cape.drawing import draw_pose, keypoint_colour, read_image, side_by_side, write_image
from cape.drawing.labels import place_labels
from cape.support import Box


def plain(width: int = 1200, height: int = 1000, value: int = 128) -> np.ndarray:
    """A grey photograph, large enough not to be enlarged."""
    return np.full((height, width, 3), value, dtype=np.uint8)


def changed(picture: np.ndarray, value: int = 128) -> np.ndarray:
    return np.abs(picture.astype(int) - value).max(axis=2) > 8


def test_each_keypoint_is_marked_in_its_own_colour():
    points = np.array([[300, 300], [800, 400], [500, 800]])
    picture = draw_pose(plain(), points, ["a", "b", "c"])
    for index, (x, y) in enumerate(points):
        np.testing.assert_allclose(picture[y, x].astype(int), keypoint_colour(index), atol=12)


def test_everything_that_is_drawn_lies_near_the_keypoint_it_belongs_to():
    picture = draw_pose(plain(), [[600, 500]], ["nose"])
    ys, xs = np.nonzero(changed(picture))
    assert abs(ys - 500).max() < 60
    assert abs(xs - 600).max() < 120


@pytest.mark.parametrize("value", [0, 30, 128, 225, 255])
def test_markers_and_labels_stand_out_on_dark_and_light_photographs(value):
    picture = draw_pose(plain(value=value), [[600, 500]], ["nose"]).astype(int)
    marker, label = picture[480:520, 580:610], picture[480:520, 612:680]
    for area in (marker, label):
        assert abs(area - value).max() > 120


def test_a_photograph_that_is_large_enough_keeps_its_size():
    assert draw_pose(plain(), [[1, 1]], ["a"]).shape == (1000, 1200, 3)


def test_a_small_photograph_is_enlarged_whole():
    picture = draw_pose(plain(100, 50), [[50, 25]], ["a"])
    assert picture.shape == (480, 960, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (3000, 2), (2500, 2000)])
@pytest.mark.parametrize("count", [0, 1, 30, 100])
def test_any_size_and_any_number_of_keypoints_can_be_drawn(size, count):
    width, height = size
    points = np.random.default_rng(0).uniform((0, 0), size, (count, 2))
    names = [f"keypoint {index}" for index in range(count)]
    edges = [(index, index + 1) for index in range(count - 1)]
    picture = draw_pose(plain(width, height), points, names, skeleton=edges, scores=np.linspace(0, 1, count))
    assert picture.dtype == np.uint8
    assert picture.shape[0] >= height
    assert picture.shape[1] >= width


def test_many_keypoints_get_numbers_and_a_legend_beside_the_photograph():
    points = np.random.default_rng(0).uniform(100, 900, (68, 2))
    picture = draw_pose(plain(), points, [f"jaw line point {index}" for index in range(68)])
    assert picture.shape[0] == 1000
    assert picture.shape[1] > 1200


def test_names_that_would_cover_each_other_go_to_a_legend():
    points = np.array([[5 + index * 0.1, 5] for index in range(24)])
    picture = draw_pose(plain(400, 20), points, [f"a rather long name, number {index}" for index in range(24)])
    assert picture.shape[1] > 960


def test_keypoints_outside_far_away_or_not_located_are_left_out_without_harm():
    points = [[600, 500], [-50, 20], [1e9, -1e9], [np.nan, np.nan], [300, 800]]
    located = [True, True, True, True, False]
    picture = draw_pose(plain(), points, list("abcde"), located=located, skeleton=[(0, 1), (1, 2), (0, 3)])
    assert changed(picture)[500, 600]
    assert not changed(picture)[780:820, 280:320].any()


def test_low_scores_are_faint():
    bright, faint = (draw_pose(plain(), [[600, 500]], ["a"], scores=[score]) for score in (0.9, 0.02))
    assert abs(faint[500, 600].astype(int) - 128).max() < abs(bright[500, 600].astype(int) - 128).max()


def test_the_skeleton_joins_its_keypoints():
    points = [[200, 200], [1000, 800]]
    without, joined = (draw_pose(plain(), points, ["a", "b"], skeleton=edges) for edges in ((), ((0, 1),)))
    difference = np.abs(without.astype(int) - joined).max(axis=2)
    for share in (0.25, 0.5, 0.75):
        x, y = round(200 + 800 * share), round(200 + 600 * share)
        assert difference[y - 2 : y + 3, x - 2 : x + 3].max() > 40


def test_a_focus_shows_only_that_part():
    image = plain()
    image[:, 600:] = 250
    picture = draw_pose(image, [[100, 100]], ["a"], focus=Box(0, 0, 400, 400))
    assert (picture < 250).all(axis=2).mean() > 0.95
    assert picture.shape[:2] == (960, 960)
    np.testing.assert_allclose(picture[240, 240].astype(int), keypoint_colour(0), atol=12)


def test_the_photograph_given_is_left_as_it_is():
    image = plain()
    draw_pose(image, [[600, 500]], ["a"], box=Box(10, 10, 400, 400))
    assert (image == 128).all()


def test_colours_of_neighbouring_keypoints_are_far_apart():
    colours = np.array([keypoint_colour(index) for index in range(100)])
    assert np.linalg.norm(colours[1:] - colours[:-1], axis=1).min() > 90
    assert len({tuple(colour) for colour in colours}) == 100


@pytest.mark.parametrize(
    ("image", "names", "message"),
    [
        (np.zeros((5, 5), np.uint8), ["a"], "image: RGB, uint8"),
        (np.zeros((5, 5, 3), np.float32), ["a"], "image: RGB, uint8"),
        (np.zeros((0, 5, 3), np.uint8), ["a"], "image: RGB, uint8"),
        (np.zeros((5, 5, 3), np.uint8), ["a", "b"], "names: 2 for 1 keypoints"),
    ],
)
def test_what_cannot_be_drawn_is_refused(image, names, message):
    with pytest.raises(ValueError, match=message):
        draw_pose(image, [[1, 1]], names)


def test_labels_do_not_overlap_where_there_is_room():
    points = np.array([[100.0 + 110 * column, 100.0 + 40 * row] for row in range(4) for column in range(4)])
    sizes = np.full((16, 2), (70.0, 16.0))
    placement = place_labels(points, sizes, (800, 800), clearance=6)
    assert placement.overlap == 0
    for first in range(16):
        for second in range(first):
            gap = np.abs(placement.corners[first] - placement.corners[second]) - sizes[0]
            assert gap.max() >= 0


def test_labels_stay_inside_the_picture():
    points = np.array([[0.0, 0.0], [399.0, 0.0], [0.0, 299.0], [399.0, 299.0]])
    placement = place_labels(points, np.full((4, 2), (80.0, 16.0)), (400, 300), clearance=6)
    assert (placement.corners >= 0).all()
    assert (placement.corners <= (400 - 80, 300 - 16)).all()


def test_overlap_is_reported_where_there_is_no_room():
    points = np.full((10, 2), 5.0)
    assert place_labels(points, np.full((10, 2), (80.0, 16.0)), (20, 20), clearance=6).overlap > 0.5


def test_panels_keep_every_picture_whole_under_a_title_and_a_banner():
    panels = [("support", plain(300, 400, 50)), ("query", plain(600, 200, 200))]
    without = side_by_side(panels)
    page = side_by_side(panels, banner="Untrained model: the positions mean nothing")
    assert page.shape[0] > without.shape[0]
    assert (page == (255, 193, 7)).all(axis=2).any()
    for value, pixels in ((50, 300 * 400), (200, 1200 * 400)):
        assert (page == value).all(axis=2).sum() >= pixels * 0.99


def test_a_banner_longer_than_the_page_is_broken_into_lines():
    page = side_by_side([("query", plain(200, 200))], banner="word " * 60)
    assert page.shape[1] < 400


def test_panels_need_a_picture():
    with pytest.raises(ValueError, match="at least one"):
        side_by_side([])


def test_files_are_read_upright(tmp_path):
    image = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "rotated.png", exif=exif)
    upright = read_image(tmp_path / "rotated.png")
    np.testing.assert_array_equal(upright, np.rot90(np.asarray(image), -1))
    write_image(upright, tmp_path / "copy.png")
    np.testing.assert_array_equal(read_image((tmp_path / "copy.png").read_bytes()), upright)


def test_how_many_keypoints_lie_outside_is_written_in_the_corner():
    inside, outside = (draw_pose(plain(), [[600, 500], [x, 500]], ["a", "b"]) for x in (800, 5000))
    corner = (slice(960, 1000), slice(0, 240))
    assert not changed(inside)[corner].any()
    assert changed(outside)[corner].any()

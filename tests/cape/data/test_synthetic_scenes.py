"""How the procedural set draws: depth, occlusion and light of scenes small enough to know the answer."""

from __future__ import annotations

import numpy as np
import pytest

from cape.data.synthetic import photograph as photographs
from cape.data.synthetic.camera import Placement, Viewpoint, frame_body
from cape.data.synthetic.frames import Frame, point, turn
from cape.data.synthetic.materials import plain
from cape.data.synthetic.raster import rasterise
from cape.data.synthetic.shading import shade_surfaces
from cape.data.synthetic.solids import Body

GREY = plain((0.5, 0.5, 0.5))
FRONT = Viewpoint(yaw=(0, 0), pitch=(0, 0), roll=(0, 0))


def depth_of(body: Body, size: int = 64) -> np.ndarray:
    return rasterise(body.solids(), size).depth


def taken(body: Body, viewpoint: Viewpoint, monkeypatch, seed: int = 0) -> dict[str, bool]:
    """Which keypoints of a body can be seen, without clutter and with all of it in the picture."""
    monkeypatch.setattr(photographs, "scatter_clutter", lambda size, rng: None)
    rng = np.random.default_rng(seed)
    solids = body.solids()
    framed = frame_body(solids, viewpoint.draw(rng), photographs.SIZE, rng)
    middle = photographs.SIZE / 2
    low, high = (np.array(framed.box[:2]), np.array(framed.box[2:]))
    shift = framed.shift + np.append(middle - (low + high) / 2, 0)
    box = (*(low + shift[:2] - framed.shift[:2]).tolist(), *(high + shift[:2] - framed.shift[:2]).tolist())
    found = photographs.take(body, solids, Placement(framed.rotation, framed.scale, shift, box), rng)
    return dict(zip(body.keypoints, found.visible.tolist(), strict=True))


def test_a_ball_is_as_near_as_its_radius_says():
    body = Body()
    body.ball(point(32, 32, 100), 10, GREY)
    depth = depth_of(body)
    assert depth[32, 32] == pytest.approx(90, abs=1e-2)
    assert depth[32, 40] == pytest.approx(100 - 6, abs=1e-2)
    assert np.isinf(depth[32, 44])
    assert np.isfinite(depth).sum() == pytest.approx(np.pi * 100, rel=0.05)


def test_a_tube_has_the_radius_and_the_ends_it_was_given():
    body = Body()
    body.tube(point(12, 32, 50), point(52, 32, 50), 4, 8, GREY)
    depth = depth_of(body)
    assert depth[32, 32] == pytest.approx(44, abs=0.2)
    assert np.isfinite(depth[:, 14]).sum() == pytest.approx(8, abs=2)
    assert np.isfinite(depth[:, 50]).sum() == pytest.approx(16, abs=2)
    assert np.isinf(depth[:, 8]).all() and np.isinf(depth[:, 56]).all()


def test_one_looks_into_an_open_tube():
    body = Body()
    tilted = Frame.of(32, 32, 50, pitch=40)
    body.tube(tilted.at(0, 0, -12), tilted.at(0, 0, 12), 10, 10, GREY)
    opened = depth_of(body)
    closed = Body()
    closed.cylinder(tilted.at(0, 0, -12), tilted.at(0, 0, 12), 10, 10, GREY)
    covered = depth_of(closed)
    both = np.isfinite(opened) & np.isfinite(covered)
    assert (opened[both] - covered[both]).max() > 5


def test_a_turned_box_shows_three_sides():
    body = Body()
    frame = Frame.of(32, 32, 50, pitch=30, yaw=30)
    body.box(frame.origin, frame.axes(12, 12, 12), GREY)
    surfaces = rasterise(body.solids(), 64)
    assert set(np.unique(surfaces.index).tolist()) == {-1, 0, 1, 2}
    nearest = min((frame.at(x, y, z) for x in (-12, 12) for y in (-12, 12) for z in (-12, 12)), key=lambda p: p[2])
    assert surfaces.depth.min() == pytest.approx(nearest[2], abs=1.0)


def test_a_polygon_lies_in_its_plane():
    body = Body()
    body.polygon([(10, 10, 20), (50, 10, 20), (50, 50, 60), (10, 50, 60)], GREY)
    depth = depth_of(body)
    assert depth[30, 30] == pytest.approx(40, abs=0.1)
    assert depth[12, 40] == pytest.approx(22, abs=0.1)
    assert np.isinf(depth[5, 30])


@pytest.mark.parametrize("first", [30.0, 70.0])
def test_the_nearer_of_two_solids_is_seen_whichever_was_added_first(first):
    body = Body()
    body.ball(point(32, 32, first), 8, GREY)
    body.box(point(32, 32, 100 - first), np.diag((20.0, 20.0, 2.0)), plain((0.9, 0.1, 0.1)))
    surfaces = rasterise(body.solids(), 64)
    assert (surfaces.index[32, 32] == 0) == (first < 50)


def test_what_faces_the_light_is_brighter():
    body = Body()
    body.ball(point(32, 32, 50), 25, plain((0.5, 0.5, 0.5), 0.0))
    solids = body.solids()
    surfaces = rasterise(solids, 64)
    pixels, colours = shade_surfaces(solids, surfaces, body.materials, 1.0, np.random.default_rng(3))
    assert len(pixels) == np.isfinite(surfaces.depth).sum()
    assert colours[0].max() > 1.4 * colours[0].min()


def test_a_part_hides_the_keypoints_behind_it(monkeypatch):
    body = Body()
    body.box(point(0, 0, 0), np.diag((1.0, 1.0, 0.1)), GREY)
    body.box(point(0.5, 0.5, 1.0), np.diag((0.4, 0.4, 0.05)), GREY)
    body.keypoint("covered", point(0.5, 0.5, 0.1))
    body.keypoint("beside the cover", point(-0.5, -0.5, 0.1))
    body.keypoint("on the cover", point(0.5, 0.5, 1.05))
    body.keypoint("on the back", point(-0.5, 0.5, -0.1))
    seen = taken(body, FRONT, monkeypatch)
    assert seen == {"covered": False, "beside the cover": True, "on the cover": True, "on the back": False}


def test_walking_round_an_object_swaps_what_is_seen(monkeypatch):
    body = Body()
    body.ball(point(0, 0, 0), 1.0, GREY)
    body.keypoint("face", point(0, 0, 1.0))
    body.keypoint("back of the head", point(0, 0, -1.0))
    body.keypoint("left ear", point(1.0, 0, 0), 0.1)
    body.keypoint("right ear", point(-1.0, 0, 0), 0.1)
    behind = Viewpoint(yaw=(180, 180), pitch=(0, 0), roll=(0, 0))
    left = Viewpoint(yaw=(90, 90), pitch=(0, 0), roll=(0, 0))
    assert taken(body, FRONT, monkeypatch)["face"] and not taken(body, FRONT, monkeypatch)["back of the head"]
    assert taken(body, behind, monkeypatch)["back of the head"] and not taken(body, behind, monkeypatch)["face"]
    assert taken(body, left, monkeypatch)["left ear"] and not taken(body, left, monkeypatch)["right ear"]


def test_a_joint_inside_its_limb_is_seen_but_not_through_another(monkeypatch):
    body = Body()
    body.limb([point(0, -1, 0), point(0, 0, 0), point(0, 1, 0)], [0.2, 0.2, 0.2], GREY)
    body.keypoint("elbow", point(0, 0, 0), 0.25)
    assert taken(body, FRONT, monkeypatch)["elbow"]
    body.limb([point(-1, 0, 0.6), point(1, 0, 0.6)], [0.2, 0.2], GREY)
    assert not taken(body, FRONT, monkeypatch)["elbow"]


def test_the_subjects_left_is_on_the_right_of_a_picture_from_the_front(monkeypatch):
    body = Body()
    body.box(point(0, 0, 0), np.diag((1.0, 1.0, 1.0)), GREY)
    placement = frame_body(body.solids(), FRONT.draw(np.random.default_rng(0)), 192, np.random.default_rng(0))
    left, right, top = (placement.project(p) for p in (point(1, 0, 0), point(-1, 0, 0), point(0, 1, 0)))
    assert left[0] > right[0]
    assert top[1] < left[1]


def test_the_box_is_the_extent_of_the_object():
    body = Body()
    body.ellipsoid(point(0, 0, 0), np.diag((1.0, 0.5, 0.3)) @ turn(yaw=20), GREY)
    body.tube(point(0, 0, 0), point(0.5, 1.2, 0.3), 0.2, 0.05, GREY)
    solids = body.solids()
    placement = frame_body(solids, turn(), 192, np.random.default_rng(1))
    rows, columns = np.nonzero(np.isfinite(rasterise(placement.place(solids), 192).depth))
    left, top, right, bottom = placement.box
    assert columns.min() == pytest.approx(max(left, 0), abs=1.5)
    assert columns.max() == pytest.approx(min(right, 191), abs=1.5)
    assert rows.min() == pytest.approx(max(top, 0), abs=1.5)
    assert rows.max() == pytest.approx(min(bottom, 191), abs=1.5)

from __future__ import annotations

import numpy as np

from cape.data.episodes import Shot, mirrored
from cape.data.mirroring import mirror_partners


def test_keypoints_named_left_and_right_are_partners_and_others_their_own() -> None:
    names = ["left eye", "Right Eye", "nose", "left ear", "upper lip left outer", "upper lip right outer", "leftover"]
    assert mirror_partners(names) == (1, 0, 2, 3, 5, 4, 6)


def test_a_mirrored_shot_has_each_keypoint_where_its_partner_was() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[1, 0] = 255
    points = np.array([(0.125, 0.375), (0.75, 0.5), (0, 0)], np.float32)
    shot = Shot(image, points, np.array([True, True, False]))
    turned = mirrored(shot, mirror_partners(["left paw", "right paw", "tail"]))
    assert turned.image[1, 3].tolist() == [255, 255, 255]
    # The white pixel was the left paw; in the mirror it is the right one.
    np.testing.assert_allclose(turned.keypoints, [(0.25, 0.5), (0.875, 0.375), (0, 0)])
    assert turned.visible.tolist() == [True, True, False]

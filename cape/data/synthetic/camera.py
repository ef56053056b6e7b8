"""Where the camera stands, and how a body comes into the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cape.data.synthetic.frames import Matrix, Vector, point, turn
from cape.data.synthetic.solids import Solids

_TO_CAMERA = np.diag((1.0, -1.0, -1.0))
"""From y up and z to the front to y down and z away from the camera, which stands in front."""


@dataclass(frozen=True, slots=True)
class Viewpoint:
    """From where a category is seen: ranges of angles in degrees.

    Attributes:
        yaw: 0 from the front, 90 with its left side to the camera.
        pitch: positive from above.
        roll: in the plane of the picture.
        mirror: whether a yaw is as likely as its mirror image.
    """

    yaw: tuple[float, float] = (-180.0, 180.0)
    pitch: tuple[float, float] = (-5.0, 30.0)
    roll: tuple[float, float] = (-8.0, 8.0)
    mirror: bool = False

    def draw(self, rng: np.random.Generator) -> Matrix:
        """A rotation from the body's coordinates to the camera's."""
        yaw, pitch, roll = (rng.uniform(*bounds) for bounds in (self.yaw, self.pitch, self.roll))
        if self.mirror and rng.random() < 0.5:
            yaw = -yaw
        return _TO_CAMERA @ turn(roll=roll) @ turn(pitch=pitch) @ turn(yaw=-yaw)


@dataclass(frozen=True, slots=True)
class Placement:
    """Maps a body's coordinates to pixels: turned, scaled, shifted.

    Attributes:
        rotation: from the body's axes to the camera's.
        scale: pixels per unit of the body.
        shift: where the body's origin is, in pixels.
        box: left, top, right and bottom of the body in pixels; may reach over the picture's edge.
    """

    rotation: Matrix
    scale: float
    shift: Vector
    box: tuple[float, float, float, float]

    def place(self, solids: Solids) -> Solids:
        """The solids in pixels."""
        return solids.moved(self.rotation, self.scale, self.shift)

    def project(self, where: Vector) -> Vector:
        """A point [3] or points [N, 3] in pixels; the third coordinate is the depth."""
        return where @ self.rotation.T * self.scale + self.shift


def frame_body(solids: Solids, rotation: Matrix, size: int, rng: np.random.Generator) -> Placement:
    """Brings a body into a square picture of `size` pixels: mostly whole, sometimes cut off at an edge."""
    low, high = solids.moved(rotation, 1.0, point(0.0, 0.0, 0.0)).extents()
    lowest, highest = low.min(axis=0), high.max(axis=0)
    spans = highest - lowest
    scale = size * rng.uniform(0.6, 0.96) / float(spans[:2].max())
    room = size - spans[:2] * scale
    # One in eight reaches over an edge, by up to a fifth of its length.
    overhang = spans[:2] * scale * 0.2 if rng.random() < 0.125 else np.zeros(2)
    corner = rng.uniform(-overhang, np.maximum(room + overhang, 0.0))
    shift = np.append(corner - lowest[:2] * scale, -(lowest[2] + highest[2]) / 2 * scale)
    left, top = corner.tolist()
    width, height = (spans[:2] * scale).tolist()
    return Placement(rotation, scale, shift, (left, top, left + width, top + height))

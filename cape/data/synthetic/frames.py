"""Points and rotations of bodies: x to the subject's left, y up, z to its front; angles in degrees."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
"""A point or a direction, [3]."""

Matrix = npt.NDArray[np.float64]
"""A rotation, [3, 3], or three vectors as columns."""


def point(x: float, y: float, z: float) -> Vector:
    """The vector (x, y, z)."""
    return np.array((x, y, z), dtype=np.float64)


def turn(pitch: float = 0.0, yaw: float = 0.0, roll: float = 0.0) -> Matrix:
    """A rotation: first roll about z, then pitch about x, then yaw about y.

    Positive pitch lowers the front, positive yaw turns it to the subject's left, positive roll lowers its right side.
    """
    sin_x, cos_x = math.sin(math.radians(pitch)), math.cos(math.radians(pitch))
    sin_y, cos_y = math.sin(math.radians(yaw)), math.cos(math.radians(yaw))
    sin_z, cos_z = math.sin(math.radians(roll)), math.cos(math.radians(roll))
    return np.array(
        (
            (cos_y * cos_z + sin_y * sin_x * sin_z, sin_y * sin_x * cos_z - cos_y * sin_z, sin_y * cos_x),
            (cos_x * sin_z, cos_x * cos_z, -sin_x),
            (cos_y * sin_x * sin_z - sin_y * cos_z, sin_y * sin_z + cos_y * sin_x * cos_z, cos_y * cos_x),
        )
    )


def cross(first: Vector, second: Vector) -> Vector:
    """The cross product of two vectors; numpy's own takes twenty times as long for so few numbers."""
    x1, y1, z1 = first.tolist()
    x2, y2, z2 = second.tolist()
    return np.array((y1 * z2 - z1 * y2, z1 * x2 - x1 * z2, x1 * y2 - y1 * x2))


def unit(vector: Vector) -> Vector:
    """The vector brought to length 1."""
    length: float = math.sqrt(float(vector @ vector))
    return np.asarray(vector / length, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a part of a body is and how it is turned.

    Attributes:
        origin: its joint, [3].
        rotation: its axes as columns, [3, 3].
    """

    origin: Vector
    rotation: Matrix

    @classmethod
    def of(
        cls, x: float = 0.0, y: float = 0.0, z: float = 0.0, *, pitch: float = 0.0, yaw: float = 0.0, roll: float = 0.0
    ) -> Frame:
        """A frame at a point, turned."""
        return cls(point(x, y, z), turn(pitch, yaw, roll))

    def at(self, x: float, y: float, z: float) -> Vector:
        """A point given in this frame."""
        return self.origin + self.rotation @ (x, y, z)

    def along(self, x: float, y: float, z: float) -> Vector:
        """A direction given in this frame."""
        turned: Vector = self.rotation @ np.array((x, y, z))
        return turned

    def axes(self, x: float, y: float, z: float) -> Matrix:
        """Three vectors as columns: this frame's axes with these lengths."""
        return self.rotation * (x, y, z)

    def child(self, x: float, y: float, z: float, *, pitch: float = 0.0, yaw: float = 0.0, roll: float = 0.0) -> Frame:
        """A frame that moves with this one: at a point of it, turned within it."""
        return Frame(self.at(x, y, z), self.rotation @ turn(pitch, yaw, roll))

"""What bodies are made of: ellipsoids, tapered tubes, boxes and flat polygons, with keypoints on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cape.data.synthetic.frames import Matrix, Vector, cross, point, unit
from cape.data.synthetic.materials import Material

_LEFT = point(1.0, 0.013, 0.029)
"""The wide direction of a tube that does not say its own: a little off the axis, for tubes that lie along it."""

_SLANTED = point(0.31, 0.55, 0.77)
"""A direction that no part of a body has exactly."""

_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 21)[:-1]), np.sin(np.linspace(0, 2 * np.pi, 21)[:-1])], axis=1)
"""Corners of round plates, [20, 2]."""

_UNCLIPPED = 1e6


@dataclass(frozen=True, slots=True)
class Solids:
    """Many solids as arrays; first the `rounds` quadrics, then the `boxes`, then the flat polygons.

    A point p of a solid is `origin + basis @ q`. A quadric is u² + v² + a·w² = (b + k·w)² for q = (u, v, w) with w
    between `low` and `high`: a = 1, b = 1, k = 0 is an ellipsoid, a = 0 a tapered tube. A box is |u|, |v|, |w| ≤ 1.

    Attributes:
        origin: float64 [P, 3].
        basis: float64 [P, 3, 3], vectors as columns.
        shape: float64 [rounds, 5]: a, b, k, low, high.
        hollow: bool [rounds], whether the far side shows where the near one is cut away by `low` and `high`.
        corners: of all polygons, one after the other, float64 [M, 3].
        starts: where in them each polygon begins, int64 [flats].
        materials: index into the table of materials, int64 [P].
        rounds: how many quadrics there are.
        boxes: how many boxes.
    """

    origin: npt.NDArray[np.float64]
    basis: npt.NDArray[np.float64]
    shape: npt.NDArray[np.float64]
    hollow: npt.NDArray[np.bool_]
    corners: npt.NDArray[np.float64]
    starts: npt.NDArray[np.int64]
    materials: npt.NDArray[np.int64]
    rounds: int
    boxes: int

    def moved(self, rotation: Matrix, scale: float, shift: Vector) -> Solids:
        """The solids turned, then scaled, then shifted."""
        return Solids(
            self.origin @ rotation.T * scale + shift,
            (rotation * scale) @ self.basis,
            self.shape,
            self.hollow,
            self.corners @ rotation.T * scale + shift,
            self.starts,
            self.materials,
            self.rounds,
            self.boxes,
        )

    def joined(self, other: Solids) -> Solids:
        """These solids and others; the others' materials come after those that these use."""

        def both(first: npt.NDArray[np.generic], second: npt.NDArray[np.generic]) -> list[npt.NDArray[np.generic]]:
            cuts = (self.rounds, self.rounds + self.boxes), (other.rounds, other.rounds + other.boxes)
            parts = zip(np.split(first, cuts[0]), np.split(second, cuts[1]), strict=True)
            return [part for pair in parts for part in pair]

        return Solids(
            np.concatenate(both(self.origin, other.origin)),
            np.concatenate(both(self.basis, other.basis)),
            np.concatenate([self.shape, other.shape]),
            np.concatenate([self.hollow, other.hollow]),
            np.concatenate([self.corners, other.corners]),
            np.concatenate([self.starts, other.starts + len(self.corners)]),
            np.concatenate(both(self.materials, other.materials + self.materials.max() + 1)),
            self.rounds + other.rounds,
            self.boxes + other.boxes,
        )

    def extents(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The lowest and the highest coordinates of each solid, float64 [P, 3] each."""
        low, high = self.origin.copy(), self.origin.copy()
        rounds, boxes = self.rounds, self.rounds + self.boxes
        tube = self.shape[:, 0] == 0
        if (self.hollow & ~tube).any():
            low[:rounds] -= _reach(-self.basis[:rounds], self.shape)
            high[:rounds] += _reach(self.basis[:rounds], self.shape)
        else:
            reach = np.sqrt((self.basis[:rounds] ** 2).sum(axis=2))
            low[:rounds] -= reach
            high[:rounds] += reach
        if tube.any():
            start, basis = self.origin[:rounds][tube], self.basis[:rounds][tube]
            _, first, slope, _, _ = self.shape[tube].T[..., None]
            across = np.sqrt((basis[:, :, :2] ** 2).sum(axis=2))
            end = start + basis[:, :, 2]
            low[:rounds][tube] = np.minimum(start - across * first, end - across * (first + slope))
            high[:rounds][tube] = np.maximum(start + across * first, end + across * (first + slope))
        reach = np.abs(self.basis[rounds:boxes]).sum(axis=2)
        low[rounds:boxes] -= reach
        high[rounds:boxes] += reach
        if len(self.starts):
            low[boxes:] = np.minimum.reduceat(self.corners, self.starts)
            high[boxes:] = np.maximum.reduceat(self.corners, self.starts)
        return low, high


def _reach(directions: npt.NDArray[np.float64], shape: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How far cut unit spheres reach along directions [N, 3, 3] (rows), each in a sphere's own coordinates, [N, 3]."""
    across = np.sqrt((directions[:, :, :2] ** 2).sum(axis=2))
    along = directions[:, :, 2]
    # The farthest point of the sphere, or of the edge where that has been cut away.
    w = along / np.sqrt(across**2 + along**2)
    w = w.clip(np.maximum(shape[:, 3, None], -1.0), np.minimum(shape[:, 4, None], 1.0))
    return np.asarray(w * along + np.sqrt(1.0 - w * w) * across)


class Body:
    """Collects the solids and the keypoints of one object, in its own coordinates (see `frames`)."""

    def __init__(self) -> None:
        self.materials: list[Material] = []
        self.keypoints: dict[str, tuple[Vector, float]] = {}
        self._balls: list[tuple[Vector, Matrix, float, float, int]] = []
        self._tubes: list[tuple[Vector, Vector, float, float, Vector, float, bool, int]] = []
        self._boxes: list[tuple[Vector, Matrix, int]] = []
        self._flats: list[tuple[npt.NDArray[np.float64], int]] = []

    def keypoint(self, name: str, where: Vector, depth: float = 0.0) -> None:
        """Names a point; `depth` is how far below the surface it may lie and still be seen."""
        self.keypoints[name] = (where, depth)

    def ellipsoid(
        self, centre: Vector, axes: Matrix, material: Material, low: float = -_UNCLIPPED, high: float = _UNCLIPPED
    ) -> None:
        """An ellipsoid with these semi-axes (columns); `low` and `high`, -1 to 1, cut it along its third axis."""
        self._balls.append((centre, axes, low, high, self._index(material)))

    def ball(self, centre: Vector, radius: float, material: Material) -> None:
        """A sphere."""
        self._balls.append((centre, np.diag((radius, radius, radius)), -_UNCLIPPED, _UNCLIPPED, self._index(material)))

    def tube(
        self,
        start: Vector,
        end: Vector,
        first: float,
        last: float,
        material: Material,
        *,
        across: Vector = _LEFT,
        flatness: float = 1.0,
        hollow: bool = True,
    ) -> None:
        """An open tube of two radii: radius along `across`, radius · flatness at a right angle to it.

        One that is not hollow shows nothing inside: for ends that are covered or too thin to look into.
        """
        self._tubes.append((start, end, first, last, across, flatness, hollow, self._index(material)))

    def limb(
        self,
        joints: Sequence[Vector],
        radii: Sequence[float],
        material: Material,
        *,
        across: Vector = _LEFT,
        flatness: float = 1.0,
    ) -> None:
        """Tapered tubes through joints, with rounded ends: an arm, a tail, a rail."""
        index = self._index(material)
        for start, end, first, last in zip(joints[:-1], joints[1:], radii[:-1], radii[1:], strict=True):
            self._tubes.append((start, end, first, last, across, flatness, False, index))
        axes = np.eye(3)
        if flatness != 1.0:
            thin = unit(cross(joints[-1] - joints[0], across))
            wide = unit(cross(thin, joints[-1] - joints[0]))
            axes = np.stack([wide, thin * flatness, cross(wide, thin)], axis=1)
        for joint, radius in zip(joints, radii, strict=True):
            self._balls.append((joint, axes * radius, -_UNCLIPPED, _UNCLIPPED, index))

    def cylinder(self, start: Vector, end: Vector, first: float, last: float, material: Material) -> None:
        """A tube closed by flat ends: a wheel, a drum, a bottle."""
        self.tube(start, end, first, last, material)
        self.disc(start, end - start, first, material)
        self.disc(end, end - start, last, material)

    def disc(self, centre: Vector, normal: Vector, radius: float, material: Material) -> None:
        """A flat round plate."""
        side = unit(cross(normal, _SLANTED))
        up = unit(cross(normal, side))
        self.polygon(centre + radius * (_CIRCLE @ np.stack([side, up])), material)

    def box(self, centre: Vector, axes: Matrix, material: Material) -> None:
        """A box with these half-edges (columns)."""
        self._boxes.append((centre, axes, self._index(material)))

    def polygon(self, corners: npt.ArrayLike, material: Material) -> None:
        """A flat polygon [N, 3], seen from both sides."""
        self._flats.append((np.asarray(corners, dtype=np.float64), self._index(material)))

    def solids(self) -> Solids:
        """All solids as arrays."""
        balls, tubes, boxes, flats = self._balls, self._tubes, self._boxes, self._flats
        origin = [ball[0] for ball in balls] + [tube[0] for tube in tubes] + [box[0] for box in boxes]
        bases = [np.array([ball[1] for ball in balls]).reshape(-1, 3, 3), _tube_bases(tubes)]
        bases.append(np.array([box[1] for box in boxes]).reshape(-1, 3, 3))
        bases.append(_flat_bases([outline for outline, _ in flats]))
        shape = [(1.0, 1.0, 0.0, ball[2], ball[3]) for ball in balls]
        shape += [(0.0, tube[2], tube[3] - tube[2], 0.0, 1.0) for tube in tubes]
        hollow = [ball[2] > -_UNCLIPPED or ball[3] < _UNCLIPPED for ball in balls] + [tube[6] for tube in tubes]
        materials = [ball[4] for ball in balls] + [tube[7] for tube in tubes] + [box[2] for box in boxes]
        return Solids(
            np.array(origin + [outline[0] for outline, _ in flats]).reshape(-1, 3),
            np.concatenate(bases),
            np.array(shape).reshape(-1, 5),
            np.array(hollow, dtype=np.bool_),
            np.concatenate([np.zeros((0, 3)), *(outline for outline, _ in flats)]),
            np.cumsum([0, *(len(outline) for outline, _ in flats)], dtype=np.int64)[:-1],
            np.array(materials + [material for _, material in flats], dtype=np.int64),
            len(balls) + len(tubes),
            len(boxes),
        )

    def _index(self, material: Material) -> int:
        if not self.materials or self.materials[-1] is not material:
            self.materials.append(material)
        return len(self.materials) - 1


def _tube_bases(
    tubes: Sequence[tuple[Vector, Vector, float, float, Vector, float, bool, int]],
) -> npt.NDArray[np.float64]:
    """Bases [N, 3, 3] of tubes: across, at a right angle to it, and from start to end."""
    if not tubes:
        return np.zeros((0, 3, 3))
    axis = np.array([tube[1] for tube in tubes]) - np.array([tube[0] for tube in tubes])
    third = _directions(axis, np.array([tube[4] for tube in tubes]))
    first = _directions(third, axis)
    third *= np.array([tube[5] for tube in tubes])[:, None]
    return np.stack([first, third, axis], axis=2)


def _flat_bases(outlines: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Bases [N, 3, 3] of polygons: two unit vectors in the plane and its normal."""
    if not outlines:
        return np.zeros((0, 3, 3))
    corner = np.array([outline[0] for outline in outlines])
    first = np.array([outline[1] for outline in outlines]) - corner
    first /= np.sqrt((first**2).sum(axis=1, keepdims=True))
    # A corner half-way round lies farthest from the first edge, so that the normal is exact.
    other = np.array([outline[max(2, len(outline) // 2)] for outline in outlines]) - corner
    normal = _directions(first, other)
    return np.stack([first, _directions(normal, first), normal], axis=2)


def _directions(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cross products of rows [N, 3], brought to length 1."""
    product = first[:, (1, 2, 0)] * second[:, (2, 0, 1)] - first[:, (2, 0, 1)] * second[:, (1, 2, 0)]
    return np.asarray(product / (np.sqrt((product**2).sum(axis=1, keepdims=True)) + 1e-12))

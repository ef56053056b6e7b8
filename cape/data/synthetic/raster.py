"""Which solid is nearest at each pixel: a depth buffer for quadrics, boxes and flat polygons.

The camera looks along +z at x to the right and y down, all in pixels; rays are parallel. So the depth of every
solid is a closed form of the pixel: an affine part, and for quadrics the root of a quadratic polynomial.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from cape.data.synthetic.solids import Solids

_SHIFT = 4
"""Bits of sub-pixel precision of polygon corners."""

_REACH = 1024
"""How far from a solid's origin pixels may be."""

_STEPS = np.arange(-_REACH, _REACH + 1, dtype=np.float64)
_POWERS = np.stack([np.ones_like(_STEPS), _STEPS, _STEPS**2], axis=1).astype(np.float32)
_POWERS_T = np.ascontiguousarray(_POWERS.T)
"""1, d and d² for every whole distance d: a polynomial of a pixel's place is two small matrix products."""


@dataclass(frozen=True, slots=True)
class Surfaces:
    """The visible surfaces of solids in a square picture.

    A surface is a quadric, a side of a box that faces the camera, or a polygon. Its normal at d = pixel − origin
    is `gradient @ d − offset`.

    Attributes:
        depth: float32 [S, S], infinite where there is nothing.
        index: int16 [S, S], the surface at each pixel; -1 where there is none.
        solid: int64 [F], the solid of each surface.
        gradient: float64 [F, 3, 3].
        offset: float64 [F, 3].
        inverse: float64 [P, 3, 3], from pixels to each solid's own coordinates.
    """

    depth: npt.NDArray[np.float32]
    index: npt.NDArray[np.int16]
    solid: npt.NDArray[np.int64]
    gradient: npt.NDArray[np.float64]
    offset: npt.NDArray[np.float64]
    inverse: npt.NDArray[np.float64]


def rasterise(solids: Solids, size: int) -> Surfaces:
    """Draws solids, given in pixels, into a square picture of `size` pixels."""
    rounds, boxes = solids.rounds, solids.boxes
    inverse = np.asarray(np.linalg.inv(solids.basis), dtype=np.float64)
    gradient, offset = _quadric_coefficients(solids, inverse)
    canvas = _Canvas.empty(solids, size)
    with np.errstate(invalid="ignore"):
        _draw_quadrics(canvas, solids, inverse, gradient, offset)
    _draw_boxes(canvas, solids, inverse)
    _draw_polygons(canvas, solids)

    flats = len(solids.starts)
    flat = rounds + boxes
    none = np.zeros((3 * boxes + flats, 3, 3))
    sides = np.arange(rounds, flat)
    return Surfaces(
        canvas.depth,
        canvas.index,
        np.concatenate([np.arange(rounds), np.repeat(sides, 3), np.arange(flat, flat + flats)]),
        np.concatenate([gradient, none]),
        np.concatenate([offset, inverse[rounds:flat].reshape(-1, 3), solids.basis[flat:, :, 2]]),
        inverse,
    )


@dataclass(frozen=True, slots=True)
class _Canvas:
    """The buffers, and where in them each solid is: left, top, right and bottom, and its origin in whole pixels."""

    depth: npt.NDArray[np.float32]
    index: npt.NDArray[np.int16]
    regions: list[list[int]]
    whole: npt.NDArray[np.int64]
    fraction: npt.NDArray[np.float64]

    @classmethod
    def empty(cls, solids: Solids, size: int) -> _Canvas:
        low, high = solids.extents()
        first = np.clip(np.floor(low[:, :2]), 0, size).astype(int)
        last = np.clip(np.ceil(high[:, :2]) + 1, 0, size).astype(int)
        whole = np.clip(np.rint(solids.origin[:, :2]), size - _REACH, _REACH).astype(int)
        return cls(
            np.full((size, size), np.inf, dtype=np.float32),
            np.full((size, size), -1, dtype=np.int16),
            np.concatenate([first, last], axis=1).tolist(),
            whole,
            solids.origin[:, :2] - whole,
        )

    def polynomials(self, coefficients: npt.NDArray[np.float64], first: int) -> npt.NDArray[np.float32]:
        """Coefficients [N, ..., 3, 3] of 1, y, y² times 1, x, x² from origins, changed to whole pixels."""
        count = len(coefficients)
        shift = np.zeros((count, 2, 3, 3))
        fraction = self.fraction[first : first + count]
        shift[:, :, 0, 0] = shift[:, :, 1, 1] = shift[:, :, 2, 2] = 1
        shift[:, :, 1, 0] = -fraction
        shift[:, :, 2, 0] = fraction**2
        shift[:, :, 2, 1] = -2 * fraction
        wide = (slice(None), *(None,) * (coefficients.ndim - 3))
        changed = np.swapaxes(shift[:, 1], 1, 2)[wide] @ coefficients @ shift[:, 0][wide]
        return np.asarray(changed, dtype=np.float32)

    def powers(self, solid: int, region: list[int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """1, y, y² of the rows [H, 3] and 1, x, x² of the columns [3, W] of a region, from a solid's origin."""
        x0, y0, x1, y1 = region
        x, y = self.whole[solid]
        return _POWERS[y0 - y + _REACH : y1 - y + _REACH], _POWERS_T[:, x0 - x + _REACH : x1 - x + _REACH]


def _quadric_coefficients(
    solids: Solids, inverse: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """A [N, 3, 3] and b [N, 3] of each quadric dᵀ A d − 2 b·d = c, for d from its origin in pixels."""
    a, b, k, _, _ = solids.shape.T
    own = inverse[: solids.rounds]
    weights = np.stack([np.ones_like(a), np.ones_like(a), a - k * k], axis=1)
    gradient = np.swapaxes(own, 1, 2) @ (weights[:, :, None] * own)
    return gradient, (b * k)[:, None] * own[:, 2]


def _draw_quadrics(
    canvas: _Canvas,
    solids: Solids,
    inverse: npt.NDArray[np.float64],
    gradient: npt.NDArray[np.float64],
    offset: npt.NDArray[np.float64],
) -> None:
    rounds = solids.rounds
    if not rounds:
        return
    xx, xy, xz, yy, yz, zz = (gradient[:, i, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)))
    bx, by, bz = offset.T
    zz = np.where(np.abs(zz) < 1e-9, 1e-9, zz)
    wx, wy, wz = inverse[:rounds, 2].T
    # z = −(xz·x + yz·y − bz)/zz ∓ √polynomial, the polynomial being the discriminant over zz².
    terms = np.zeros((rounds, 3, 3, 3))
    terms[:, 0, 0, 0] = bz * bz + zz * solids.shape[:, 1] ** 2
    terms[:, 0, 0, 1] = 2 * (zz * bx - xz * bz)
    terms[:, 0, 0, 2] = xz * xz - zz * xx
    terms[:, 0, 1, 0] = 2 * (zz * by - yz * bz)
    terms[:, 0, 1, 1] = 2 * (xz * yz - zz * xy)
    terms[:, 0, 2, 0] = yz * yz - zz * yy
    terms[:, 0] /= (zz * zz)[:, None, None]
    terms[:, 1, 0, 0], terms[:, 1, 0, 1], terms[:, 1, 1, 0] = bz / zz, -xz / zz, -yz / zz
    # The place along the axis, w, at the middle between both roots.
    terms[:, 2] = wz[:, None, None] * terms[:, 1]
    terms[:, 2, 0, 1] += wx
    terms[:, 2, 1, 0] += wy
    terms[:, 1, 0, 0] += solids.origin[:rounds, 2]
    polynomials = canvas.polynomials(terms, 0).reshape(-1, 9, 3)
    hollow = solids.hollow.tolist()
    clipped = (solids.hollow | (solids.shape[:, 0] == 0)).tolist()
    limits = np.stack([wz, *solids.shape[:, 3:].T], axis=1).tolist()
    for solid in range(rounds):
        x0, y0, x1, y1 = region = canvas.regions[solid]
        if x1 <= x0 or y1 <= y0:
            continue
        rows, columns = canvas.powers(solid, region)
        factors = polynomials[solid] @ columns
        root = rows @ factors[:3]
        np.sqrt(root, out=root)
        near = rows @ factors[3:6]
        far = near + root if hollow[solid] else near
        near -= root
        window = canvas.depth[y0:y1, x0:x1]
        if clipped[solid]:
            slope, low, high = limits[solid]
            w = rows @ factors[6:]
            root *= slope
            if hollow[solid]:
                far_w = w + root
                far[(far_w < low) | (far_w > high)] = np.inf
            w -= root
            outside = (w < low) | (w > high)
            if hollow[solid]:
                np.copyto(near, far, where=outside)
            else:
                near[outside] = np.inf
        nearer = near < window
        np.copyto(window, near, where=nearer)
        canvas.index[y0:y1, x0:x1][nearer] = solid


def _draw_boxes(canvas: _Canvas, solids: Solids, inverse: npt.NDArray[np.float64]) -> None:
    """A ray is inside a box between the last of its three entries and the first of its three exits."""
    rounds, boxes = solids.rounds, solids.boxes
    if not boxes:
        return
    own = inverse[rounds : rounds + boxes]
    along = np.where(np.abs(own[:, :, 2]) < 1e-9, 1e-9, own[:, :, 2])
    terms = np.zeros((boxes, 3, 3, 3))
    terms[:, :, 0, 0] = solids.origin[rounds : rounds + boxes, 2, None]
    terms[:, :, 0, 1] = -own[:, :, 0] / along
    terms[:, :, 1, 0] = -own[:, :, 1] / along
    polynomials = canvas.polynomials(terms, rounds)
    halves = (1.0 / np.abs(along)).tolist()
    for box in range(boxes):
        x0, y0, x1, y1 = region = canvas.regions[rounds + box]
        if x1 <= x0 or y1 <= y0:
            continue
        rows, columns = canvas.powers(rounds + box, region)
        centres = [rows @ term for term in polynomials[box] @ columns]
        entries = [centre - half for centre, half in zip(centres, halves[box], strict=True)]
        exits = [centre + half for centre, half in zip(centres, halves[box], strict=True)]
        near = np.maximum(np.maximum(entries[0], entries[1]), entries[2])
        far = np.minimum(np.minimum(exits[0], exits[1]), exits[2])
        window = canvas.depth[y0:y1, x0:x1]
        nearer = (near < window) & (near <= far)
        np.copyto(window, near, where=nearer)
        index = canvas.index[y0:y1, x0:x1]
        for side, entry in enumerate(entries):
            index[nearer & (entry == near)] = rounds + 3 * box + side


def _draw_polygons(canvas: _Canvas, solids: Solids) -> None:
    first = solids.rounds + solids.boxes
    shift = solids.rounds + 3 * solids.boxes - first
    normals = solids.basis[first:, :, 2].tolist()
    fixed = np.rint(solids.corners[:, :2] * (1 << _SHIFT)).astype(np.int32)
    parts = pairwise([*solids.starts.tolist(), len(fixed)])
    for polygon, ((start, end), (nx, ny, nz)) in enumerate(zip(parts, normals, strict=True), first):
        x0, y0, x1, y1 = region = canvas.regions[polygon]
        if x1 <= x0 or y1 <= y0 or abs(nz) < 1e-6:
            continue
        corners = fixed[start:end] - np.array((x0 << _SHIFT, y0 << _SHIFT), dtype=np.int32)
        mask = np.zeros((y1 - y0, x1 - x0), dtype=np.uint8)
        cv2.fillPoly(mask, [corners], 1, cv2.LINE_8, _SHIFT)
        rows, columns = canvas.powers(polygon, region)
        x, y = canvas.fraction[polygon].tolist()
        slope_x, slope_y = -nx / nz, -ny / nz
        constant = solids.origin[polygon, 2] - slope_x * x - slope_y * y
        plane = np.array(((constant, slope_x), (slope_y, 0.0)), dtype=np.float32)
        near = rows[:, :2] @ (plane @ columns[:2])
        window = canvas.depth[y0:y1, x0:x1]
        nearer = (near < window) & mask.view(np.bool_)
        np.copyto(window, near, where=nearer)
        canvas.index[y0:y1, x0:x1][nearer] = polygon + shift

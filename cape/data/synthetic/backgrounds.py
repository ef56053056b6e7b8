"""What stands around an object: a backdrop, clutter behind it and sometimes something in front of it."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from cape.data.synthetic.frames import Frame
from cape.data.synthetic.materials import any_colour, any_material
from cape.data.synthetic.shading import noise_tile
from cape.data.synthetic.solids import Body, Solids

_BEHIND = 400.0
"""Depth of clutter behind an object and, negative, in front of it, in pixels: more than any object reaches."""


_PLACES = 128
"""How many different places there are. Drawing one takes as long as an object; of each, any part is used, in any of
six orders of its colours and on either side."""


def draw_backdrop(size: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A part of a blurred place, perhaps mirrored and with its colours swapped.

    Returns:
        RGB, uint8 [size, size, 3].
    """
    place = _draw_place(size * 4 // 3, int(rng.integers(_PLACES)))
    top, left = rng.integers(0, place.shape[0] - size + 1, 2).tolist()
    part = place[top : top + size, left : left + size]
    channels = cv2.split(part if rng.random() < 0.5 else part[:, ::-1])
    return np.asarray(cv2.merge([channels[channel] for channel in rng.permutation(3).tolist()]), dtype=np.uint8)


@cache
def _draw_place(size: int, number: int) -> npt.NDArray[np.uint8]:
    """A wall and a floor, a landscape, a table top, with things on it, RGB, uint8 [size, size, 3]."""
    rng = np.random.default_rng((29, number))
    half = size // 2
    first, second, third = (np.array(any_colour(rng)) for _ in range(3))
    noise = _noise(half, rng)
    canvas = (first + (second - first) * noise[..., None] * rng.uniform(0.2, 1.0)).astype(np.float32)
    if rng.random() < 0.6:
        # A floor below a horizon, lighter or darker with the distance.
        horizon = int(rng.uniform(0.2, 0.9) * half)
        fade = np.linspace(rng.uniform(0.6, 1.0), rng.uniform(0.7, 1.2), half - horizon, dtype=np.float32)
        ground = third + (first - third) * _noise(half, rng)[horizon:, :, None] * rng.uniform(0.1, 0.6)
        canvas[horizon:] = ground * fade[:, None, None]
    picture = np.asarray((canvas * 255).clip(0, 255), dtype=np.uint8)
    for _ in range(int(rng.integers(0, 18))):
        _draw_patch(picture, rng)
    if rng.random() < 0.5:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.6, 3.0))), dtype=np.uint8)
    return np.asarray(cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _noise(size: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A piece of the noise tile, enlarged more or less along each axis, [size, size]."""
    tile = noise_tile()
    height, width = (int(rng.integers(8, tile.shape[0])) for _ in range(2))
    top, left = int(rng.integers(tile.shape[0] - height)), int(rng.integers(tile.shape[1] - width))
    part = tile[top : top + height, left : left + width]
    return np.asarray(cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _draw_patch(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> None:
    size = picture.shape[0]
    red, green, blue = any_colour(rng)
    colour = (255 * red, 255 * green, 255 * blue)
    centre = rng.uniform(0, size, 2)
    kind = int(rng.integers(4))
    if kind == 0:
        corners = centre + rng.normal(0, size * rng.uniform(0.05, 0.25), (int(rng.integers(3, 6)), 2))
        cv2.fillConvexPoly(picture, cv2.convexHull(corners.astype(np.int32)), colour, cv2.LINE_AA)
    elif kind == 1:
        axes = rng.uniform(size * 0.02, size * 0.2, 2).astype(int).tolist()
        cv2.ellipse(picture, centre.astype(int).tolist(), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    elif kind == 2:
        end = (centre + rng.normal(0, size * 0.5, 2)).astype(int).tolist()
        cv2.line(picture, centre.astype(int).tolist(), end, colour, int(rng.integers(1, 8)), cv2.LINE_AA)
    else:
        corner = (centre + rng.uniform(size * 0.05, size * 0.5, 2)).astype(int).tolist()
        cv2.rectangle(picture, centre.astype(int).tolist(), corner, colour, int(rng.choice([-1, 1, 3])))


def scatter_clutter(size: int, rng: np.random.Generator) -> tuple[Body, Solids] | None:
    """Things that are not the object, in pixels: up to four behind it and, in one picture of five, one in front."""
    behind = int(rng.integers(0, 5))
    in_front = int(rng.random() < 0.2)
    if behind + in_front == 0:
        return None
    body = Body()
    for number in range(behind + in_front):
        depth = _BEHIND if number < behind else -_BEHIND
        length = size * rng.uniform(0.06, 0.22 if number < behind else 0.14)
        material = any_material(rng, 1.5 / length)
        x, y = rng.uniform(0, size, 2)
        frame = Frame.of(x, y, depth, pitch=rng.uniform(0, 360), yaw=rng.uniform(0, 360), roll=rng.uniform(0, 360))
        kind = int(rng.integers(4))
        thickness = rng.uniform(0.15, 0.7, 2)
        if kind == 0:
            body.ellipsoid(frame.origin, frame.axes(length, length * thickness[0], length * thickness[1]), material)
        elif kind == 1:
            body.box(frame.origin, frame.axes(length, length * thickness[0], length * thickness[1]), material)
        elif kind == 2:
            ends = [frame.origin, frame.at(length * 1.5, 0, 0), frame.at(length * 2, length, 0)]
            body.limb(ends, (length * rng.uniform(0.1, 0.3, 3)).tolist(), material)
        else:
            radius = length * float(thickness[0])
            body.cylinder(frame.origin, frame.at(0, 0, length), radius, radius * rng.uniform(0.5, 1.2), material)
    return body, body.solids()


def cast_shadow(
    picture: npt.NDArray[np.uint8], silhouette: npt.NDArray[np.bool_], rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Darkens where the shadow of a silhouette falls, moved aside or laid on the ground.

    Args:
        picture: RGB, uint8 [S, S, 3].
        silhouette: bool [S, S].
        rng: draws where and how dark.
    """
    size = picture.shape[0]
    quarter = size // 4
    small = cv2.resize(silhouette.view(np.uint8), (quarter, quarter), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        move = rng.uniform(-0.06, 0.06, 2) * quarter
        matrix = np.array([[1.0, 0.0, move[0]], [0.0, 1.0, move[1]]])
    else:
        foot = float(np.flatnonzero(small.any(axis=1)).max(initial=0))
        squash, slant = rng.uniform(0.15, 0.5), rng.uniform(-0.8, 0.8)
        matrix = np.array([[1.0, slant, -slant * foot], [0.0, squash, foot * (1 - squash)]])
    shadow = cv2.warpAffine(small, matrix, (quarter, quarter))
    strength = rng.uniform(0.2, 0.6)
    light = 1.0 - strength * cv2.blur(shadow.astype(np.float32), (5, 5))
    wide = cv2.resize((light * 255).astype(np.uint8), (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.multiply(picture, cv2.merge([wide, wide, wide]), scale=1 / 255), dtype=np.uint8)

"""One object as a photograph shows it: body, camera, light, surroundings, and which keypoints can be seen."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from cape.data.dataset import AnnotatedObject
from cape.data.synthetic.backdrops import Backdrops
from cape.data.synthetic.backgrounds import cast_shadow, draw_backdrop, scatter_clutter
from cape.data.synthetic.camera import Placement, frame_body
from cape.data.synthetic.raster import rasterise
from cape.data.synthetic.shading import shade_surfaces
from cape.data.synthetic.solids import Body, Solids
from cape.data.synthetic.species import Species
from cape.support import Box

SIZE = 192
"""Side of the pictures, in pixels. An object's crop is then about 190 pixels wide, a little less than what models see:
larger pictures would be slower and, after the crop has been resized, hardly sharper."""

_FEWEST_VISIBLE = 3
"""Another pose is drawn where fewer keypoints can be seen; a support that shows nothing teaches nothing."""

_ATTEMPTS = 8

_TOLERANCE = 0.012
"""How far below the surface a keypoint counts as on it, as a share of the object's longer side: surfaces are
sampled at pixel centres, and keypoints on a rounded part's edge lie just behind it."""


def photograph(species: Species, rng: np.random.Generator, backdrops: Backdrops | None = None) -> AnnotatedObject:
    """Draws one individual of a species in a picture of its own.

    Args:
        species: what to draw.
        rng: draws everything.
        backdrops: real images to stand behind some of the objects.
    """
    for _ in range(_ATTEMPTS):
        body = Body()
        species.build(body, rng)
        own = body.solids()
        placement = frame_body(own, species.viewpoint.draw(rng), SIZE, rng)
        taken = take(body, own, placement, rng, backdrops)
        if taken.visible.sum() >= min(_FEWEST_VISIBLE, len(taken.visible)):
            break
    return taken


def take(
    body: Body, own: Solids, placement: Placement, rng: np.random.Generator, backdrops: Backdrops | None = None
) -> AnnotatedObject:
    """The picture of a body from one camera, with random surroundings.

    Args:
        body: its materials and keypoints.
        own: its solids, in its own coordinates.
        placement: its way into the picture.
        rng: draws surroundings, light and the camera's faults.
        backdrops: real images to stand behind some of the objects.
    """
    solids = placed = placement.place(own)
    materials = body.materials
    clutter = scatter_clutter(SIZE, rng)
    if clutter is not None:
        materials = materials + clutter[0].materials
        solids = placed.joined(clutter[1])
    surfaces = rasterise(solids, SIZE)
    box = _clipped_box(*placement.box)
    # Patterns and the darkness of corners are measured in units of the body.
    pixels, colours = shade_surfaces(solids, surfaces, materials, placement.scale, rng)

    real = None if backdrops is None else backdrops.draw(SIZE, rng)
    picture = draw_backdrop(SIZE, rng) if real is None else real
    if rng.random() < 0.7:
        picture = cast_shadow(picture, surfaces.index >= 0, rng)
    picture = _painted(picture, pixels, colours)

    names = list(body.keypoints)
    where = placement.project(np.array([body.keypoints[name][0] for name in names]))
    below = np.array([body.keypoints[name][1] for name in names]) * placement.scale
    allowed = below + _TOLERANCE * max(box.width, box.height) + 0.7
    visible = _visible(where, allowed, surfaces.depth)
    return AnnotatedObject(_as_taken(picture, rng), box, where[:, :2].astype(np.float32), visible)


def _painted(
    picture: npt.NDArray[np.uint8], pixels: npt.NDArray[np.int64], colours: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """A picture with other colours [3, N], 0–1, at N of its pixels."""
    # Pixels of four bytes are assigned as whole numbers: ten times as fast as three bytes each.
    red, green, blue = (colours * 255).clip(0, 255).astype(np.uint8)
    canvas = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA))
    canvas.view(np.uint32).reshape(-1)[pixels] = np.asarray(cv2.merge([red, green, blue, blue])).view(np.uint32).ravel()
    return np.asarray(cv2.cvtColor(canvas, cv2.COLOR_RGBA2RGB), dtype=np.uint8)


def _clipped_box(left: float, top: float, right: float, bottom: float) -> Box:
    left, top = max(0.0, left), max(0.0, top)
    return Box(left, top, min(SIZE - 1.0, right) - left, min(SIZE - 1.0, bottom) - top)


def _visible(
    where: npt.NDArray[np.float64], allowed: npt.NDArray[np.float64], depth: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """Whether each point [K, 3] is in the picture with nothing but `allowed` of depth in front of it.

    The farthest surface of the pixels around a point decides: a point at the edge of its own part is often drawn
    a pixel beside it.
    """
    inside: npt.NDArray[np.bool_] = np.all((where[:, :2] >= 0) & (where[:, :2] <= SIZE - 1), axis=1)
    column, row = np.rint(np.where(inside[:, None], where[:, :2], 0)).astype(int).T
    steps = np.array([(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)])
    columns = (column[:, None] + steps[:, 0]).clip(0, SIZE - 1)
    rows = (row[:, None] + steps[:, 1]).clip(0, SIZE - 1)
    return np.asarray(inside & (depth[rows, columns].max(axis=1) >= where[:, 2] - allowed), dtype=np.bool_)


def _as_taken(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The picture with a camera's faults: soft edges, wrong exposure and white balance, pale or no colours, noise."""
    if rng.random() < 0.75:
        soft = cv2.GaussianBlur(picture, (3, 3), float(rng.uniform(0.45, 0.8)))
    else:
        soft = cv2.GaussianBlur(picture, (5, 5), float(rng.uniform(0.8, 1.4)))
    # Saturation draws colours away from or towards their grey; gains and an offset do the rest.
    saturation = 0.0 if rng.random() < 0.06 else rng.uniform(0.55, 1.2)
    matrix = saturation * np.eye(3) + (1.0 - saturation) * np.array((0.299, 0.587, 0.114))
    gains = rng.uniform(0.8, 1.1) * (rng.uniform(0.85, 1.12, (3, 1)) if saturation else np.ones((3, 1)))
    offset = np.full((3, 1), rng.uniform(-12.0, 20.0))
    developed = np.asarray(cv2.transform(soft, np.hstack([gains * matrix, offset])), dtype=np.uint8)
    if rng.random() < 0.6:
        developed = _grainy(developed, float(rng.uniform(2.0, 11.0)), rng)
    return developed


def _grainy(picture: npt.NDArray[np.uint8], deviation: float, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Adds noise of a standard deviation in grey levels: a random window of one large tile, for speed."""
    top, left = rng.integers(0, 128, 2)
    window = _grain()[top : top + SIZE, left : left + SIZE]
    # The tile is centred on 128 with deviation 32: the sum saturates at 0 and 255 as a sensor does.
    weight = deviation / 32
    return np.asarray(cv2.addWeighted(picture, 1.0, window, weight, -128 * weight), dtype=np.uint8)


@cache
def _grain() -> npt.NDArray[np.uint8]:
    noise = np.random.default_rng(11).standard_normal((SIZE + 128, SIZE + 128, 3))
    return (128 + 32 * noise).clip(0, 255).astype(np.uint8)

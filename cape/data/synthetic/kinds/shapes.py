"""Shapes that several kinds of made things need, put together from solids."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from cape.data.synthetic.frames import Frame, Vector
from cape.data.synthetic.materials import Colour, Material, any_material, mottled, pick, plain, shade
from cape.data.synthetic.solids import Body

SIDES = (("left", 1.0), ("right", -1.0))
"""The subject's sides and the sign of x there."""

ENDS = (("front", 1.0), ("back", -1.0))
"""Front and back and the sign of z there."""

_WOODS: tuple[Colour, ...] = ((0.55, 0.36, 0.2), (0.72, 0.55, 0.35), (0.33, 0.2, 0.12), (0.85, 0.75, 0.58))
_METALS: tuple[Colour, ...] = ((0.72, 0.73, 0.75), (0.35, 0.36, 0.38), (0.6, 0.5, 0.3))


def wood(rng: np.random.Generator) -> Material:
    """Bare wood."""
    colour = pick(rng, _WOODS)
    return mottled(colour, shade(colour, 0.72), 3.0, 0.15)


def metal(rng: np.random.Generator) -> Material:
    """Bare metal."""
    return plain(pick(rng, _METALS), 0.8)


def wood_or_paint(rng: np.random.Generator) -> Material:
    """What furniture is made of."""
    return wood(rng) if rng.random() < 0.5 else any_material(rng, 1.0)


def hoop(body: Body, centre: Vector, first: Vector, second: Vector, thickness: float, material: Material) -> None:
    """A ring around a centre through `centre + first` and `centre + second`: a tyre, a rim."""
    angles = np.linspace(0, 2 * np.pi, 15)
    points = centre + np.cos(angles)[:, None] * first + np.sin(angles)[:, None] * second
    for start, end in pairwise(points):
        # A little longer than the chord, so that no gap shows at the outside of the bends.
        reach = (end - start) * 0.12
        body.tube(start - reach, end + reach, thickness, thickness, material, hollow=False)


def wheel(body: Body, centre: Vector, radius: float, half_width: float, rng: np.random.Generator) -> None:
    """A wheel that turns about x, under a body at x = 0: a tyre, and a hub cap on its outer side."""
    tyre = plain((0.08, 0.08, 0.09), 0.2)
    cap = plain(pick(rng, ((0.7, 0.7, 0.72), (0.3, 0.3, 0.32))), 0.7)
    outwards = np.array((half_width if centre[0] > 0 else -half_width, 0.0, 0.0))
    body.tube(centre - outwards, centre + outwards, radius, radius, tyre)
    body.disc(centre + outwards, outwards, radius, tyre)
    body.disc(centre + outwards * 1.06, outwards, radius * 0.62, cap)


def prism(
    body: Body,
    frame: Frame,
    profile: Sequence[tuple[float, float, float]],
    material: Material,
    sides: Material | None = None,
) -> None:
    """A solid that is the same seen from its left and its right.

    Args:
        body: what it is added to.
        frame: where it is.
        profile: corners (z, y, half the width there) around its side; the sides are flat where the width changes
            evenly with y or z.
        material: of the strips around.
        sides: of the left and right sides; None for the same.
    """
    left = [frame.at(wide, y, z) for z, y, wide in profile]
    right = [frame.at(-wide, y, z) for z, y, wide in profile]
    body.polygon(left, sides or material)
    body.polygon(right, sides or material)
    for index in range(len(profile)):
        body.polygon([left[index - 1], left[index], right[index], right[index - 1]], material)


def sheet(body: Body, frame: Frame, outline: Sequence[tuple[float, float]], half: float, material: Material) -> None:
    """A flat plate of some thickness with an outline (x, y): a blade, a sound board."""
    front = [frame.at(x, y, half) for x, y in outline]
    back = [frame.at(x, y, -half) for x, y in outline]
    body.polygon(front, material)
    body.polygon(back, material)
    for index in range(len(outline)):
        body.polygon([front[index - 1], front[index], back[index], back[index - 1]], material)

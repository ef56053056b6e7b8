"""Musical instruments: with strings and of brass."""
# ruff: noqa: RUF005 — vectors are moved by adding tuples to them

from __future__ import annotations

from functools import partial

import numpy as np

from cape.data.synthetic.camera import Viewpoint
from cape.data.synthetic.frames import Frame, point
from cape.data.synthetic.kinds.shapes import SIDES, sheet, wood
from cape.data.synthetic.materials import any_colour, mottled, plain
from cape.data.synthetic.solids import Body
from cape.data.synthetic.species import Species, both_sides, chain


def build_fiddle(body: Body, rng: np.random.Generator, *, guitar: bool) -> None:
    """Adds a guitar or a violin: strings to +z, neck to +y."""
    varnish = wood(rng)._replace(gloss=0.5) if rng.random() < 0.7 else plain(any_colour(rng), 0.6)
    dark, ivory = plain((0.12, 0.09, 0.08), 0.4), plain((0.9, 0.88, 0.8), 0.4)
    lower, upper, waist = (0.42, 0.32, 0.25) if guitar else (0.34, 0.27, 0.18)
    thick = 0.1 if guitar else 0.07
    half = [
        (0.0, -0.55),
        (lower * 0.6, -0.5),
        (lower, -0.25),
        (lower * 0.9, -0.02),
        (waist, 0.13),
        (upper * 0.95, 0.3),
        (upper * 0.85, 0.42),
        (upper * 0.4, 0.52),
    ]
    outline = half + [(-x, y) for x, y in reversed(half[1:])]
    sheet(body, Frame.of(), outline, thick, varnish)
    neck = 0.95 if guitar else 0.62
    body.box(point(0, 0.45 + neck / 2, thick + 0.02), np.diag((0.055, neck / 2, 0.035)), dark)
    head = point(0, 0.45 + neck, thick + 0.02)
    if guitar:
        body.disc(point(0, 0.12, thick + 0.005), point(0, 0, 1), 0.13, dark)
        sheet(body, Frame(head, np.eye(3)), [(-0.07, 0), (-0.11, 0.28), (0.11, 0.28), (0.07, 0)], 0.03, varnish)
        end = head + (0, 0.28, 0)
    else:
        for x in (1.0, -1.0):
            body.limb([point(x * 0.13, -0.12, thick), point(x * 0.1, 0.1, thick)], [0.018, 0.014], dark)
        end = head + (0, 0.2, 0)
        body.limb([head, end], [0.05, 0.07], varnish)
        body.ellipsoid(point(0.12, -0.5, thick), np.diag((0.13, 0.09, 0.04)), dark)
    bridge = point(0, -0.25 if guitar else -0.02, thick + 0.03)
    body.box(bridge, np.diag((0.14 if guitar else 0.09, 0.025, 0.04)), dark)
    for x in (0.03, -0.03):
        body.limb([bridge + (x, 0, 0.03), head + (x * 0.7, 0, 0.04)], [0.006, 0.006], ivory)
    for _, x in SIDES:
        for number in range(2):
            peg = end + (x * 0.14, -0.05 - 0.12 * number, 0)
            body.limb([end + (0, -0.05 - 0.12 * number, 0), peg], [0.015, 0.03], ivory)
    for name, where, depth in (
        ("bottom of the body", point(0, -0.55, 0), thick * 1.1),
        ("bridge under the strings", bridge, 0.06),
        ("end of the neck", point(0, 0.5, thick + 0.05), 0.07),
        ("top of the neck", head, 0.06),
        ("tip of the head", end, 0.09),
    ):
        body.keypoint(name, where, depth)
    for side, x in SIDES:
        body.keypoint(f"{side} lower bout", point(x * lower, -0.25, 0), thick * 1.1)
        body.keypoint(f"{side} side of the waist", point(x * waist, 0.13, 0), thick * 1.1)
        body.keypoint(f"{side} upper bout", point(x * upper * 0.95, 0.3, 0), thick * 1.1)


def build_trumpet(body: Body, rng: np.random.Generator) -> None:
    """Adds a trumpet: bell to +x, valves up."""
    brass = (
        mottled((0.85, 0.65, 0.25), (0.75, 0.5, 0.15), 1.0, 0.9)
        if rng.random() < 0.7
        else plain((0.75, 0.76, 0.78), 0.9)
    )
    long = float(rng.uniform(0.9, 1.1))
    body.limb(
        [
            point(-long, 0.12, 0),
            point(long * 0.5, 0.12, 0),
            point(long * 0.62, 0.0, 0),
            point(long * 0.5, -0.12, 0),
            point(-long * 0.5, -0.12, 0),
            point(-long * 0.6, 0.0, 0),
            point(-long * 0.4, 0.12, 0),
        ],
        [0.028] * 7,
        brass,
    )
    body.tube(point(-long - 0.1, 0.12, 0), point(-long, 0.12, 0), 0.06, 0.028, brass)
    body.tube(point(long * 0.45, -0.12, 0), point(long * 0.85, -0.12, 0), 0.03, 0.08, brass)
    body.tube(point(long * 0.85, -0.12, 0), point(long * 1.1, -0.12, 0), 0.08, 0.3, brass)
    for number, name in enumerate(("first", "second", "third")):
        x = -0.2 + number * 0.16
        body.cylinder(point(x, -0.3, 0), point(x, 0.22, 0), 0.062, 0.062, brass)
        cap = point(x, rng.uniform(0.3, 0.4), 0)
        body.limb([point(x, 0.22, 0), cap], [0.02, 0.045], plain((0.9, 0.88, 0.82), 0.6))
        body.keypoint(f"{name} valve", cap, 0.06)
    body.keypoint("mouthpiece", point(-long - 0.1, 0.12, 0), 0.07)
    body.keypoint("upper edge of the bell", point(long * 1.1, 0.18, 0), 0.06)
    body.keypoint("lower edge of the bell", point(long * 1.1, -0.42, 0), 0.06)
    body.keypoint("end of the tuning slide", point(long * 0.65, 0.0, 0), 0.05)


_BONES = (
    *both_sides(
        ("bottom of the body", "{side} lower bout"),
        ("{side} lower bout", "{side} side of the waist"),
        ("{side} side of the waist", "{side} upper bout"),
        ("{side} upper bout", "end of the neck"),
    ),
    *chain("bottom of the body", "bridge under the strings", "end of the neck", "top of the neck", "tip of the head"),
    *chain("mouthpiece", "first valve", "second valve", "third valve", "end of the tuning slide"),
    *chain("third valve", "upper edge of the bell", "lower edge of the bell"),
)

_LYING = Viewpoint(yaw=(-55, 55), pitch=(-30, 35), roll=(-180, 180))

SPECIES = (
    Species("guitar", "household object", partial(build_fiddle, guitar=True), _LYING, _BONES),
    Species("violin", "household object", partial(build_fiddle, guitar=False), _LYING, _BONES),
    Species("trumpet", "household object", build_trumpet, Viewpoint((-50, 50), (-20, 25), (-40, 40)), _BONES),
)

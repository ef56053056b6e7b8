"""Things of a household: dishes, lamps, an umbrella, spectacles, scales."""
# ruff: noqa: RUF005 — vectors are moved by adding tuples to them

from __future__ import annotations

from itertools import pairwise

import numpy as np

from cape.data.synthetic.camera import Viewpoint
from cape.data.synthetic.frames import Frame, point
from cape.data.synthetic.kinds.shapes import SIDES, hoop, metal, wood
from cape.data.synthetic.materials import any_colour, any_material, plain, shade
from cape.data.synthetic.solids import Body
from cape.data.synthetic.species import Species, both_sides, chain


def build_mug(body: Body, rng: np.random.Generator) -> None:
    """Adds a mug: foot at y = 0, handle to +x."""
    glaze = any_material(rng, 2.5)._replace(gloss=0.6)
    high, top, foot = rng.uniform(0.7, 1.1), rng.uniform(0.38, 0.5), rng.uniform(0.3, 0.45)
    body.tube(point(0, 0, 0), point(0, high, 0), foot, top, glaze)
    body.disc(point(0, 0.02, 0), point(0, 1, 0), foot, glaze)
    body.disc(point(0, high * 0.85, 0), point(0, 1, 0), top * 0.95, plain((0.25, 0.14, 0.08), 0.6))
    handle = [
        point(top * 0.95, high * 0.85, 0),
        point(top + 0.27, high * 0.75, 0),
        point(top + 0.25, high * 0.35, 0),
        point(foot * 1.05, high * 0.2, 0),
    ]
    body.limb(handle, [0.06, 0.055, 0.05, 0.06], glaze)
    body.keypoint("top of the handle", handle[0], 0.09)
    body.keypoint("middle of the handle", (handle[1] + handle[2]) / 2 + (0.02, 0, 0), 0.08)
    body.keypoint("bottom of the handle", handle[3], 0.09)
    body.keypoint("edge of the rim at the handle", point(top, high, 0), 0.06)
    body.keypoint("edge of the rim opposite the handle", point(-top, high, 0), 0.06)
    body.keypoint("edge of the foot at the handle", point(foot, 0, 0), 0.06)
    body.keypoint("edge of the foot opposite the handle", point(-foot, 0, 0), 0.06)


def build_teapot(body: Body, rng: np.random.Generator) -> None:
    """Adds a teapot: spout to +x, handle to −x."""
    glaze = any_material(rng, 2.5)._replace(gloss=0.7)
    wide, high = rng.uniform(0.48, 0.6), rng.uniform(0.36, 0.52)
    body.ellipsoid(point(0, 0, 0), np.diag((wide, high, wide)), glaze)
    body.cylinder(point(0, -high, 0), point(0, -high * 0.8, 0), wide * 0.6, wide * 0.7, glaze)
    lid = plain(shade(glaze.colour, 0.8), 0.6)
    body.ellipsoid(point(0, high * 0.88, 0), np.diag((wide * 0.5, 0.13, wide * 0.5)), lid)
    knob = point(0, high * 0.88 + 0.19, 0)
    body.ball(knob, 0.08, lid)
    spout = [point(wide * 0.75, -high * 0.3, 0), point(wide + 0.22, high * 0.15, 0), point(wide + 0.36, high * 0.85, 0)]
    body.limb(spout, [0.17, 0.1, 0.07], glaze)
    handle = [
        point(-wide * 0.85, high * 0.6, 0),
        point(-wide - 0.32, high * 0.55, 0),
        point(-wide - 0.32, -high * 0.2, 0),
        point(-wide * 0.9, -high * 0.5, 0),
    ]
    body.limb(handle, [0.06] * 4, glaze)
    body.keypoint("tip of the spout", spout[2], 0.08)
    body.keypoint("root of the spout", spout[0] + (0.12, 0, 0), 0.2)
    body.keypoint("knob of the lid", knob, 0.1)
    body.keypoint("top of the handle", handle[0], 0.1)
    body.keypoint("middle of the handle", (handle[1] + handle[2]) / 2, 0.09)
    body.keypoint("bottom of the handle", handle[3], 0.1)
    body.keypoint("middle of the foot", point(0, -high, 0), wide * 0.75)


def build_desk_lamp(body: Body, rng: np.random.Generator) -> None:
    """Adds a jointed lamp: foot at y = 0, shade to +z."""
    paint, steel = plain(any_colour(rng), 0.6), metal(rng)
    body.cylinder(point(0, 0, 0), point(0, 0.07, 0), 0.34, 0.3, paint)
    lower = Frame.of(0, 0.08, 0, pitch=-rng.uniform(0, 35), yaw=rng.uniform(-25, 25))
    elbow = lower.at(0, 0.8, 0)
    upper = Frame(elbow, lower.rotation).child(0, 0, 0, pitch=rng.uniform(45, 110))
    wrist = upper.at(0, 0.75, 0)
    head = Frame(wrist, upper.rotation).child(0, 0, 0, pitch=rng.uniform(20, 75), yaw=rng.uniform(-20, 20))
    body.limb([lower.origin, elbow, wrist], [0.035] * 3, steel)
    body.ball(elbow, 0.06, paint)
    rim = head.at(0, 0.48, 0)
    body.ball(wrist, 0.1, paint)
    body.tube(wrist, rim, 0.1, 0.28, paint)
    body.ball(head.at(0, 0.28, 0), 0.13, plain((0.98, 0.95, 0.75), 0.2))
    body.keypoint("middle of the foot", point(0, 0.07, 0), 0.1)
    body.keypoint("lower joint of the arm", lower.origin, 0.07)
    body.keypoint("upper joint of the arm", elbow, 0.08)
    body.keypoint("root of the lampshade", wrist, 0.13)
    body.keypoint("front edge of the lampshade", rim + head.along(0, 0, 0.28), 0.05)
    body.keypoint("back edge of the lampshade", rim + head.along(0, 0, -0.28), 0.05)


def build_umbrella(body: Body, rng: np.random.Generator) -> None:
    """Adds an open umbrella: stick along y, crook at the bottom."""
    stick, first, second = wood(rng), any_material(rng, 1.0), plain(any_colour(rng))
    wide, high = float(rng.uniform(0.75, 1.0)), float(rng.uniform(0.3, 0.5))
    top = point(0, 1.0, 0)
    body.limb([point(0, -0.75, 0), top + (0, 0.14, 0)], [0.025, 0.02], stick)
    crook = [point(0, -0.75, 0), point(0.04, -0.9, 0), point(0.14, -0.93, 0), point(0.2, -0.82, 0)]
    body.limb(crook, [0.04] * 4, stick)
    rim = [point(wide * np.cos(angle), 1.0 - high, wide * np.sin(angle)) for angle in np.arange(8) * np.pi / 4]
    middle = [
        point(wide * 0.55 * np.cos(angle), 1.0 - high * 0.28, wide * 0.55 * np.sin(angle))
        for angle in np.arange(8) * np.pi / 4
    ]
    for index in range(8):
        cloth = first if index % 2 else second
        body.polygon([top, middle[index - 1], middle[index]], cloth)
        body.polygon([middle[index - 1], rim[index - 1], rim[index], middle[index]], cloth)
    body.keypoint("tip of the umbrella", top + (0, 0.14, 0), 0.04)
    body.keypoint("middle of the stick", point(0, 0.05, 0), 0.05)
    body.keypoint("root of the crook", crook[0], 0.06)
    body.keypoint("end of the crook", crook[-1], 0.06)
    for name, index in (("front", 2), ("back", 6)):
        body.keypoint(f"{name} edge of the canopy", rim[index], 0.04)


def build_spectacles(body: Body, rng: np.random.Generator) -> None:
    """Adds a pair of spectacles: lenses to +z, bridge at the origin."""
    frame = plain(any_colour(rng), 0.6)
    lens = plain(shade(any_colour(rng), 0.6), 0.9)
    wide, high, square = rng.uniform(0.24, 0.32), rng.uniform(0.17, 0.28), rng.uniform(2.0, 5.0)
    thick = float(rng.uniform(0.018, 0.04))
    angles = np.linspace(0, 2 * np.pi, 17)
    fold = float(rng.uniform(-8, 25))
    body.limb([point(0.08, 0.06, 0), point(0, 0.08, 0.02), point(-0.08, 0.06, 0)], [thick] * 3, frame)
    body.keypoint("middle of the bridge", point(0, 0.08, 0.02), 0.05)
    for side, x in SIDES:
        centre = point(x * (0.07 + wide), 0, 0)
        cosine, sine = np.cos(angles), np.sin(angles)
        size = (np.abs(cosine) ** square + np.abs(sine) ** square) ** (-1 / square)
        ring = centre + np.stack([wide * size * cosine, high * size * sine, 0 * angles], axis=1)
        body.polygon(ring[:-1], lens)
        for start, end in pairwise(ring):
            body.tube(start, end, thick, thick, frame, hollow=False)
        hinge = point(x * (0.07 + 2 * wide), high * 0.35, 0)
        arm = Frame.of(*hinge, yaw=x * fold)
        bend, end = arm.at(0, 0, -0.9), arm.at(0, -0.17, -1.15)
        body.limb([hinge, bend, end], [thick, thick, thick * 1.3], frame)
        body.keypoint(f"center of the {side} lens", centre, 0.04)
        body.keypoint(f"top of the {side} lens", centre + (0, high, 0), 0.05)
        body.keypoint(f"bottom of the {side} lens", centre - (0, high, 0), 0.05)
        body.keypoint(f"{side} hinge", hinge, 0.06)
        body.keypoint(f"end of the {side} arm", end, 0.06)


def build_balance(body: Body, rng: np.random.Generator) -> None:
    """Adds a pair of scales: a beam on a column and two hanging pans."""
    brass = plain(metal(rng).colour, 0.8)
    body.cylinder(point(0, 0, 0), point(0, 0.08, 0), 0.35, 0.28, brass)
    body.limb([point(0, 0.08, 0), point(0, 1.2, 0)], [0.05, 0.035], brass)
    beam = Frame.of(0, 1.15, 0, roll=rng.uniform(-16, 16))
    body.keypoint("middle of the foot", point(0, 0.08, 0), 0.1)
    body.keypoint("pivot", beam.origin, 0.08)
    for side, x in SIDES:
        end = beam.at(x * 0.75, 0, 0)
        pan = end - (0, 0.7, 0)
        body.limb([beam.origin, end], [0.04, 0.025], brass)
        for dx, dz in ((0.26, 0.0), (-0.13, 0.22), (-0.13, -0.22)):
            body.tube(end, pan + (dx, 0, dz), 0.01, 0.01, brass, hollow=False)
        body.ellipsoid(
            pan, np.array(((0.28, 0, 0), (0, 0, -0.13), (0, 0.28, 0)), dtype=np.float64), brass, low=0.0, high=1.0
        )
        body.keypoint(f"{side} end of the beam", end, 0.05)
        body.keypoint(f"center of the {side} pan", pan - (0, 0.12, 0), 0.16)
    hoop(body, point(0, 1.28, 0), point(0.06, 0, 0), point(0, 0.06, 0), 0.015, brass)


_BONES = (
    *both_sides(
        ("middle of the bridge", "center of the {side} lens"),
        ("top of the {side} lens", "center of the {side} lens"),
        ("bottom of the {side} lens", "center of the {side} lens"),
        ("center of the {side} lens", "{side} hinge"),
        ("{side} hinge", "end of the {side} arm"),
        ("pivot", "{side} end of the beam"),
        ("{side} end of the beam", "center of the {side} pan"),
    ),
    *chain("top of the handle", "middle of the handle", "bottom of the handle"),
    *chain(
        "edge of the rim at the handle",
        "edge of the rim opposite the handle",
        "edge of the foot opposite the handle",
        "edge of the foot at the handle",
        "edge of the rim at the handle",
    ),
    *chain("tip of the spout", "root of the spout", "middle of the foot", "bottom of the handle"),
    *chain("root of the spout", "knob of the lid", "top of the handle"),
    *chain(
        "middle of the foot",
        "lower joint of the arm",
        "upper joint of the arm",
        "root of the lampshade",
        "front edge of the lampshade",
    ),
    *chain("root of the lampshade", "back edge of the lampshade"),
    *chain("front edge of the canopy", "tip of the umbrella", "back edge of the canopy"),
    *chain("tip of the umbrella", "middle of the stick", "root of the crook", "end of the crook"),
    *chain("middle of the foot", "pivot"),
)

_STANDING = Viewpoint(yaw=(-70, 70), pitch=(0, 35), roll=(-10, 10))

SPECIES = (
    Species("mug", "household object", build_mug, _STANDING, _BONES),
    Species("teapot", "household object", build_teapot, _STANDING, _BONES),
    Species("desk lamp", "household object", build_desk_lamp, Viewpoint((20, 160), (-5, 25), (-8, 8), True), _BONES),
    Species("umbrella", "household object", build_umbrella, Viewpoint((-40, 40), (-20, 30), (-60, 60)), _BONES),
    Species("spectacles", "household object", build_spectacles, Viewpoint((-60, 60), (-10, 40), (-30, 30)), _BONES),
    Species("scales", "household object", build_balance, _STANDING, _BONES),
)

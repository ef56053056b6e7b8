"""Hand tools: a handle and what works at its other end."""
# ruff: noqa: RUF005 — vectors are moved by adding tuples to them

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from cape.data.synthetic.camera import Viewpoint
from cape.data.synthetic.frames import Frame, point
from cape.data.synthetic.kinds.shapes import SIDES, hoop, metal, sheet, wood
from cape.data.synthetic.materials import Material, any_colour, mottled, plain, shade
from cape.data.synthetic.solids import Body
from cape.data.synthetic.species import Species, both_sides, chain


def _grip(rng: np.random.Generator) -> Material:
    return wood(rng) if rng.random() < 0.5 else plain(any_colour(rng), 0.4)


@dataclass(frozen=True, slots=True)
class Shafted:
    """A tool with a head across the end of its shaft; the unit is the length of the shaft.

    Attributes:
        shaft: thickness of the shaft.
        head: what sits on it.
        size: of the head.
    """

    shaft: float = 0.05
    head: Literal["hammer", "axe", "pickaxe", "rake"] = "hammer"
    size: float = 0.25


def build_shafted(body: Body, rng: np.random.Generator, *, kind: Shafted) -> None:
    """Adds a tool: handle's end at the origin, shaft along +y, working face to +x."""
    steel, grip = metal(rng), _grip(rng)
    long, size = float(rng.uniform(0.85, 1.15)), kind.size * float(rng.uniform(0.9, 1.15))
    body.limb(
        [point(0, 0, 0), point(0, long * 0.35, 0), point(0, long, 0)],
        [kind.shaft * 1.2, kind.shaft, kind.shaft * 0.8],
        grip,
    )
    body.keypoint("end of the handle", point(0, 0, 0), kind.shaft * 1.5)
    body.keypoint("middle of the handle", point(0, long * 0.5, 0), kind.shaft * 1.5)
    top = point(0, long, 0)
    if kind.head == "hammer":
        body.limb([top + (-0.03, 0, 0), top + (size * 0.55, 0, 0)], [0.07, 0.06], steel)
        body.cylinder(top + (size * 0.5, 0, 0), top + (size * 0.85, 0, 0), 0.1, 0.1, steel)
        body.keypoint("middle of the striking face", top + (size * 0.85, 0, 0), 0.06)
        for side, z in SIDES:
            tip = top + (-size * 0.95, -0.12, z * 0.07)
            body.limb([top, top + (-size * 0.5, 0.03, z * 0.04), tip], [0.06, 0.045, 0.012], steel)
            body.keypoint(f"tip of the {side} claw", tip, 0.04)
    elif kind.head == "axe":
        blade = [
            (-0.06, -0.1),
            (-0.06, 0.1),
            (size * 0.5, 0.14),
            (size, 0.26),
            (size * 1.08, 0.0),
            (size, -0.26),
            (size * 0.5, -0.12),
        ]
        sheet(body, Frame(top, np.eye(3)), blade, 0.025, steel)
        body.keypoint("upper corner of the blade", top + (size, 0.26, 0), 0.05)
        body.keypoint("middle of the cutting edge", top + (size * 1.08, 0, 0), 0.05)
        body.keypoint("lower corner of the blade", top + (size, -0.26, 0), 0.05)
    elif kind.head == "pickaxe":
        for name, x in (("front", 1.0), ("back", -1.0)):
            tip = top + (x * size * 1.5, -0.14, 0)
            body.limb([top, top + (x * size * 0.8, 0.03, 0), tip], [0.07, 0.055, 0.012], steel)
            body.keypoint(f"{name} tip of the head", tip, 0.03)
    else:
        for side, z in SIDES:
            body.limb([top, top + (0, 0, z * size)], [0.035, 0.03], steel)
            body.keypoint(f"{side} end of the head", top + (0, 0, z * size), 0.05)
        for z in np.linspace(-size, size, 7).tolist():
            body.limb([top + (0, 0, z), top + (0.17, -0.03, z)], [0.02, 0.01], steel)
    body.keypoint("top of the handle", top + (0, 0.02, 0), 0.12)


def build_screwdriver(body: Body, rng: np.random.Generator) -> None:
    """Adds a screwdriver along +y."""
    grip, steel = plain(any_colour(rng), 0.6), metal(rng)
    long, thick = float(rng.uniform(0.45, 1.0)), float(rng.uniform(0.09, 0.13))
    body.limb([point(0, 0.08, 0), point(0, 0.25, 0), point(0, 0.42, 0)], [thick, thick * 0.9, thick], grip)
    body.limb([point(0, 0.42, 0), point(0, 0.52, 0)], [thick, 0.04], grip)
    body.tube(point(0, 0.48, 0), point(0, 0.5 + long, 0), 0.035, 0.035, steel)
    blade = [(-0.035, 0.0), (-0.06, 0.08), (-0.045, 0.16), (0.045, 0.16), (0.06, 0.08), (0.035, 0.0)]
    sheet(body, Frame.of(0, 0.5 + long, 0), blade, 0.015, steel)
    for name, y, depth in (
        ("end of the handle", 0.0, 0.1),
        ("middle of the handle", 0.25, 0.13),
        ("top of the handle", 0.5, 0.1),
        ("middle of the shaft", 0.5 + long / 2, 0.05),
        ("tip of the blade", 0.65 + long, 0.04),
    ):
        body.keypoint(name, point(0, y, 0), depth)


def build_spanner(body: Body, rng: np.random.Generator) -> None:
    """Adds a spanner along +y, open at one end and a ring at the other."""
    steel = metal(rng)
    long = float(rng.uniform(1.0, 1.5))
    sheet(body, Frame.of(), [(-0.06, 0.1), (-0.07, long - 0.1), (0.07, long - 0.1), (0.06, 0.1)], 0.025, steel)
    hoop(body, point(0, 0, 0), point(0.12, 0, 0), point(0, 0.12, 0), 0.05, steel)
    jaw = Frame.of(0, long, 0, roll=15)
    fork = [
        (-0.12, -0.12),
        (-0.2, 0.05),
        (-0.17, 0.24),
        (-0.1, 0.24),
        (-0.1, 0.06),
        (0.1, 0.06),
        (0.1, 0.24),
        (0.17, 0.24),
        (0.2, 0.05),
        (0.12, -0.12),
    ]
    sheet(body, jaw, fork, 0.045, steel)
    body.keypoint("center of the ring", point(0, 0, 0), 0.1)
    body.keypoint("middle of the handle", point(0, long / 2, 0), 0.05)
    for side, x in SIDES:
        body.keypoint(f"tip of the {side} jaw", jaw.at(x * 0.14, 0.24, 0), 0.06)
    body.keypoint("bottom of the opening", jaw.at(0, 0.05, 0), 0.06)


def build_two_armed(body: Body, rng: np.random.Generator, *, pliers: bool) -> None:
    """Adds scissors or pliers: pivot at the origin, blades or jaws to +y."""
    steel, grip = metal(rng), plain(any_colour(rng), 0.4)
    opening = float(rng.uniform(4, 32 if not pliers else 18))
    body.cylinder(
        point(0, 0, 0.06),
        point(0, 0, -0.06),
        0.06 if not pliers else 0.13,
        0.06 if not pliers else 0.13,
        plain(shade(steel.colour, 0.7), 0.8),
    )
    body.keypoint("pivot", point(0, 0, 0.06), 0.1)
    for side, x in SIDES:
        arm = Frame.of(0, 0, x * 0.02, roll=-x * opening)
        long, tail = (1.0, -0.75) if not pliers else (0.45, -0.95)
        tip = arm.at(x * 0.01, long, 0)
        if pliers:
            body.limb([arm.origin, arm.at(x * 0.09, long * 0.4, 0), tip], [0.1, 0.09, 0.035], steel)
            body.limb(
                [arm.origin, arm.at(-x * 0.22, tail * 0.45, 0), arm.at(-x * 0.16, tail, 0)], [0.08, 0.07, 0.06], grip
            )
            body.keypoint(f"tip of the {side} jaw", tip, 0.05)
            body.keypoint(
                f"end of the {'right' if side == 'left' else 'left'} handle", arm.at(-x * 0.16, tail, 0), 0.08
            )
            continue
        sheet(body, arm, [(-x * 0.07, 0), (-x * 0.02, long), (x * 0.02, long * 0.95), (x * 0.08, 0)], 0.012, steel)
        body.limb([arm.origin, arm.at(-x * 0.06, -0.4, 0)], [0.05, 0.04], steel)
        ring = arm.at(-x * 0.16, tail * 0.85, 0)
        hoop(body, ring, arm.along(0.16, 0, 0), arm.along(0, 0.23, 0), 0.045, grip)
        body.keypoint(f"tip of the {side} blade", tip, 0.03)
        other = "right" if side == "left" else "left"
        body.keypoint(f"top of the {other} finger hole", ring + arm.along(0, 0.23, 0), 0.06)
        body.keypoint(f"bottom of the {other} finger hole", ring - arm.along(0, 0.23, 0), 0.06)


def build_saw(body: Body, rng: np.random.Generator) -> None:
    """Adds a hand saw along +x, teeth down."""
    steel, grip = metal(rng), _grip(rng)
    long = float(rng.uniform(1.1, 1.6))
    teeth = [(x, -0.16 + (0.03 if index % 2 else 0.0)) for index, x in enumerate(np.linspace(long, 0.1, 25).tolist())]
    outline = [(0.1, 0.2), (long, -0.02), *teeth]
    body.polygon([point(x, y, 0) for x, y in outline], steel)
    hoop(body, point(-0.08, 0.02, 0), point(0.17, 0, 0), point(0, 0.2, 0), 0.06, grip)
    for name, x, y in (
        ("upper tip of the blade", long, -0.02),
        ("lower tip of the blade", long, -0.16),
        ("heel of the blade", 0.1, -0.16),
        ("top of the blade at the handle", 0.1, 0.2),
        ("top of the handle", -0.08, 0.24),
        ("bottom of the handle", -0.08, -0.2),
    ):
        body.keypoint(name, point(x, y, 0), 0.07)


def build_shovel(body: Body, rng: np.random.Generator) -> None:
    """Adds a shovel along +y, blade at the top."""
    steel, grip = metal(rng), _grip(rng)
    long = float(rng.uniform(1.1, 1.5))
    body.limb([point(0, 0, 0), point(0, long, 0)], [0.035, 0.035], grip)
    for side, x in SIDES:
        body.limb([point(0, 0.1, 0), point(x * 0.13, 0, 0)], [0.03, 0.03], grip)
        body.keypoint(f"{side} end of the handle", point(x * 0.13, 0, 0), 0.05)
    body.limb([point(0.13, 0, 0), point(-0.13, 0, 0)], [0.03, 0.03], grip)
    wide = float(rng.uniform(0.17, 0.25))
    blade = Frame.of(0, long, 0, pitch=rng.uniform(-15, 5))
    outline = [
        (-wide, 0.02),
        (-wide, 0.3),
        (-wide * 0.6, 0.46),
        (0, 0.54),
        (wide * 0.6, 0.46),
        (wide, 0.3),
        (wide, 0.02),
    ]
    body.polygon([blade.at(x, y, 0) for x, y in outline], steel)
    body.keypoint("middle of the shaft", point(0, long / 2, 0), 0.05)
    for side, x in SIDES:
        body.keypoint(f"{side} shoulder of the blade", blade.at(x * wide, 0.02, 0), 0.04)
    body.keypoint("tip of the blade", blade.at(0, 0.54, 0), 0.04)


def build_brush(body: Body, rng: np.random.Generator) -> None:
    """Adds a paintbrush along +y, bristles at the top."""
    grip, steel = _grip(rng), metal(rng)
    hair = mottled(any_colour(rng), any_colour(rng), 9.0)
    wide, long = float(rng.uniform(0.1, 0.26)), float(rng.uniform(0.7, 1.0))
    body.limb([point(0, 0, 0), point(0, long * 0.4, 0), point(0, long, 0)], [0.04, 0.075, 0.06], grip)
    body.box(point(0, long + 0.1, 0), np.diag((wide, 0.13, 0.06)), steel)
    outline = [(-wide, 0), (-wide * 1.1, 0.4), (0, 0.45), (wide * 1.1, 0.4), (wide, 0)]
    sheet(body, Frame.of(0, long + 0.22, 0), outline, 0.05, hair)
    body.keypoint("end of the handle", point(0, 0, 0), 0.06)
    body.keypoint("middle of the handle", point(0, long * 0.45, 0), 0.08)
    for side, x in SIDES:
        body.keypoint(f"{side} end of the ferrule", point(x * wide, long + 0.22, 0), 0.07)
    for side, x in SIDES:
        body.keypoint(f"{side} tip of the bristles", point(x * wide * 1.1, long + 0.62, 0), 0.06)


_BONES = (
    *both_sides(
        ("top of the handle", "tip of the {side} claw"),
        ("top of the handle", "{side} end of the head"),
        ("pivot", "tip of the {side} jaw"),
        ("pivot", "end of the {side} handle"),
        ("pivot", "tip of the {side} blade"),
        ("pivot", "top of the {side} finger hole"),
        ("top of the {side} finger hole", "bottom of the {side} finger hole"),
        ("bottom of the opening", "tip of the {side} jaw"),
        ("middle of the shaft", "{side} end of the handle"),
        ("middle of the shaft", "{side} shoulder of the blade"),
        ("{side} shoulder of the blade", "tip of the blade"),
        ("middle of the handle", "{side} end of the ferrule"),
        ("{side} end of the ferrule", "{side} tip of the bristles"),
    ),
    *chain("end of the handle", "middle of the handle", "top of the handle", "middle of the shaft", "tip of the blade"),
    *chain("top of the handle", "middle of the striking face"),
    *chain("top of the handle", "upper corner of the blade", "middle of the cutting edge", "lower corner of the blade"),
    *chain("front tip of the head", "top of the handle", "back tip of the head"),
    *chain("center of the ring", "middle of the handle", "bottom of the opening"),
    *chain(
        "top of the handle",
        "top of the blade at the handle",
        "upper tip of the blade",
        "lower tip of the blade",
        "heel of the blade",
        "bottom of the handle",
    ),
)

_VIEW = Viewpoint(yaw=(-40, 40), pitch=(-35, 35), roll=(-180, 180))

SPECIES = (
    Species(
        "claw hammer",
        "tool",
        partial(build_shafted, kind=Shafted(size=0.3)),
        Viewpoint((20, 70), (-30, 45), (-180, 180)),
        _BONES,
    ),
    Species("axe", "tool", partial(build_shafted, kind=Shafted(head="axe", shaft=0.04, size=0.3)), _VIEW, _BONES),
    Species(
        "pickaxe", "tool", partial(build_shafted, kind=Shafted(head="pickaxe", shaft=0.045, size=0.3)), _VIEW, _BONES
    ),
    Species(
        "rake",
        "tool",
        partial(build_shafted, kind=Shafted(head="rake", shaft=0.03, size=0.3)),
        Viewpoint((40, 110), (-30, 45), (-180, 180)),
        _BONES,
    ),
    Species("screwdriver", "tool", build_screwdriver, _VIEW, _BONES),
    Species("spanner", "tool", build_spanner, _VIEW, _BONES),
    Species("scissors", "tool", partial(build_two_armed, pliers=False), _VIEW, _BONES),
    Species("pliers", "tool", partial(build_two_armed, pliers=True), _VIEW, _BONES),
    Species("hand saw", "tool", build_saw, _VIEW, _BONES),
    Species("shovel", "tool", build_shovel, _VIEW, _BONES),
    Species("paintbrush", "tool", build_brush, _VIEW, _BONES),
)

"""Animals of the sea: fish, whales, turtles."""
# ruff: noqa: RUF005 — vectors are moved by adding tuples to them

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from cape.data.synthetic.camera import Viewpoint
from cape.data.synthetic.frames import Frame, point
from cape.data.synthetic.kinds.shapes import ENDS, SIDES
from cape.data.synthetic.materials import Colour, any_colour, mottled, pick, plain, shade, spotted, striped
from cape.data.synthetic.solids import Body
from cape.data.synthetic.species import Species, both_sides, chain

_DARK = plain((0.04, 0.04, 0.05), 0.9)


@dataclass(frozen=True, slots=True)
class Fish:
    """Proportions of a kind; the unit is about half its length.

    Attributes:
        height, width: half the trunk's.
        snout: length of the snout beyond the trunk.
        dorsal: height of the fin on the back; `pectoral` length of those at the sides.
        tail: half the span of the tail fin, which stands upright unless `flukes`.
        anal: length of the fin under the tail; 0 for none.
        colours: of the skin; empty for any.
    """

    height: float = 0.3
    width: float = 0.16
    snout: float = 0.1
    dorsal: float = 0.25
    pectoral: float = 0.28
    tail: float = 0.3
    flukes: bool = False
    anal: float = 0.18
    colours: tuple[Colour, ...] = ()


def build_fish(body: Body, rng: np.random.Generator, *, kind: Fish) -> None:
    """Adds a fish or a whale: snout to +z, back to +y."""
    colour = pick(rng, kind.colours) if kind.colours else any_colour(rng)
    scales = mottled(colour, shade(colour, 0.7), 2.0, 0.4)
    if not kind.colours and rng.random() < 0.6:
        scales = (striped if rng.random() < 0.5 else spotted)(
            colour, any_colour(rng), float(rng.uniform(1.5, 3.0)), 0.4
        )
    fin = plain(shade(colour, 0.75), 0.2)
    high, wide = kind.height * rng.uniform(0.9, 1.1), kind.width
    trunk = Frame.of()
    body.ellipsoid(point(0, 0, 0.1), np.diag((wide, high, 0.6)), scales)
    if kind.colours:
        body.ellipsoid(
            point(0, -high * 0.2, 0.1), np.diag((wide * 0.94, high * 0.85, 0.55)), plain((0.85, 0.86, 0.86), 0.3)
        )
    snout = point(0, -high * 0.1, 0.68 + kind.snout)
    body.limb([point(0, 0, 0.35), snout], [min(wide, high) * 0.9, 0.05], scales)
    bend = float(rng.uniform(-28, 28))
    turn = {"pitch": bend} if kind.flukes else {"yaw": bend}
    rear = trunk.child(0, 0, -0.3, **turn)
    stalk = rear.child(0, 0, -0.42, **turn)
    body.limb([rear.at(0, 0, 0.15), rear.origin, stalk.origin], [min(wide, high), min(wide, high) * 0.8, 0.05], scales)
    body.keypoint("tip of the snout", snout, 0.06)
    for side, x in SIDES:
        eye = point(x * wide * 0.75, high * 0.15, 0.5)
        body.ball(eye, 0.05, plain((0.9, 0.88, 0.8), 0.5))
        body.ball(eye + (x * 0.025, 0, 0.01), 0.035, _DARK)
        body.keypoint(f"{side} eye", eye + (x * 0.04, 0, 0), 0.05)
    crest = point(0, high * 0.75 + kind.dorsal, -0.15)
    body.polygon(
        [point(0, high * 0.7, 0.3), crest + (0, 0, 0.05), crest - (0, 0.06, 0.1), point(0, high * 0.6, -0.2)], fin
    )
    body.keypoint("front root of the dorsal fin", point(0, high * 0.88, 0.3), 0.05)
    body.keypoint("tip of the dorsal fin", crest, 0.03)
    for side, x in SIDES:
        paddle = Frame.of(x * wide * 0.8, -high * 0.3, 0.28, roll=-x * rng.uniform(10, 55))
        tip = paddle.at(x * kind.pectoral, 0, -kind.pectoral * 0.55)
        body.polygon([paddle.at(0, 0, 0.06), tip + (0, 0, 0.04), tip - (0, 0, 0.05), paddle.at(0, 0, -0.1)], fin)
        body.keypoint(f"tip of the {side} pectoral fin", tip, 0.03)
    body.keypoint("root of the tail", stalk.origin, 0.08)
    if kind.flukes:
        for side, x in SIDES:
            tip = stalk.at(x * kind.tail, 0, -kind.tail * 0.6)
            body.polygon([stalk.at(0, 0, 0.08), tip, stalk.at(0, 0, -0.15)], fin)
            body.keypoint(f"tip of the {side} fluke", tip, 0.03)
        return
    for name, y in (("upper", 1.0), ("lower", -1.0)):
        tip = stalk.at(0, y * kind.tail, -kind.tail * 0.8)
        body.polygon(
            [stalk.at(0, y * 0.03, 0.06), tip, stalk.at(0, 0, -kind.tail * 0.35), stalk.at(0, -y * 0.03, 0.0)], fin
        )
        body.keypoint(f"{name} tip of the tail fin", tip, 0.03)
    if kind.anal:
        tip = point(0, -high * 0.5 - kind.anal, -0.4)
        body.polygon([point(0, -high * 0.75, -0.05), tip, point(0, -high * 0.4, -0.35)], fin)
        body.keypoint("tip of the anal fin", tip, 0.03)


def build_turtle(body: Body, rng: np.random.Generator) -> None:
    """Adds a sea turtle: head to +z, shell up."""
    colour = pick(rng, ((0.35, 0.4, 0.25), (0.5, 0.38, 0.22), (0.3, 0.35, 0.35)))
    skin = spotted(shade(colour, 1.3), shade(colour, 0.6), 3.0)
    shell = spotted(colour, shade(colour, 0.5), float(rng.uniform(1.2, 2.2)), 0.4)
    body.ellipsoid(point(0, 0, 0), np.diag((0.5, 0.24, 0.6)), shell)
    body.ellipsoid(point(0, -0.05, 0), np.diag((0.52, 0.15, 0.62)), plain(shade(colour, 0.8)))
    head = Frame.of(0, 0, 0.6, yaw=rng.uniform(-30, 30), pitch=rng.uniform(-25, 15))
    body.limb([head.at(0, -0.02, -0.15), head.at(0, 0.03, 0.15)], [0.13, 0.12], skin)
    body.ellipsoid(head.at(0, 0.05, 0.27), head.axes(0.13, 0.12, 0.18), skin)
    body.keypoint("tip of the snout", head.at(0, 0.03, 0.45), 0.05)
    for side, x in SIDES:
        eye = head.at(x * 0.1, 0.1, 0.33)
        body.ball(eye, 0.035, _DARK)
        body.keypoint(f"{side} eye", eye, 0.04)
    body.keypoint("front edge of the shell", point(0, 0.03, 0.6), 0.12)
    body.keypoint("top of the shell", point(0, 0.24, 0), 0.04)
    body.keypoint("back edge of the shell", point(0, -0.02, -0.62), 0.08)
    for end, z in ENDS:
        for side, x in SIDES:
            long = 0.75 if end == "front" else 0.4
            swing = rng.uniform(-30, 30)
            limb = Frame.of(
                x * 0.38,
                -0.06,
                z * 0.42,
                yaw=x * (30 if end == "front" else -15) + swing,
                roll=x * rng.uniform(-35, 35),
            )
            tip = limb.at(x * long, 0, -long * 0.25)
            body.limb(
                [limb.origin, limb.at(x * long * 0.5, 0, 0.03), tip],
                [0.11, 0.1, 0.03],
                skin,
                across=limb.along(0, 0, 1),
                flatness=0.4,
            )
            body.keypoint(f"tip of the {end} {side} flipper", tip, 0.04)


_BONES = (
    *both_sides(
        ("tip of the snout", "{side} eye"),
        ("{side} eye", "tip of the {side} pectoral fin"),
        ("root of the tail", "tip of the {side} fluke"),
        ("front edge of the shell", "tip of the front {side} flipper"),
        ("back edge of the shell", "tip of the back {side} flipper"),
    ),
    *chain(
        "tip of the snout",
        "front root of the dorsal fin",
        "tip of the dorsal fin",
        "root of the tail",
        "upper tip of the tail fin",
    ),
    *chain("root of the tail", "lower tip of the tail fin"),
    *chain("root of the tail", "tip of the anal fin"),
    *chain("tip of the snout", "front edge of the shell", "top of the shell", "back edge of the shell"),
)

_KINDS = {
    "goldfish": Fish(height=0.34, width=0.22, dorsal=0.28, tail=0.45),
    "angelfish": Fish(height=0.55, width=0.11, snout=0.05, dorsal=0.5, pectoral=0.2, tail=0.3, anal=0.5),
    "trout": Fish(height=0.22, width=0.14, snout=0.12, dorsal=0.16, pectoral=0.2, tail=0.26, anal=0.12),
    "shark": Fish(height=0.23, width=0.19, snout=0.22, dorsal=0.35, pectoral=0.45, tail=0.42, anal=0.0,
                  colours=((0.42, 0.47, 0.52), (0.3, 0.34, 0.38))),
    "dolphin": Fish(height=0.22, width=0.19, snout=0.28, dorsal=0.2, pectoral=0.27, tail=0.3, flukes=True,
                    colours=((0.45, 0.5, 0.56), (0.3, 0.35, 0.4))),
    "whale": Fish(height=0.36, width=0.36, snout=0.02, dorsal=0.08, pectoral=0.42, tail=0.4, flukes=True,
                  colours=((0.15, 0.17, 0.2), (0.3, 0.38, 0.45))),
}  # fmt: skip

_VIEW = Viewpoint(yaw=(20, 150), pitch=(-15, 40), roll=(-25, 25), mirror=True)

SPECIES = (
    *(
        Species(f"{name} body", "sea animal body", partial(build_fish, kind=kind), _VIEW, _BONES)
        for name, kind in _KINDS.items()
    ),
    Species("sea turtle body", "sea animal body", build_turtle, Viewpoint((-180, 180), (15, 80), (-30, 30)), _BONES),
)

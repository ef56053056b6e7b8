"""Birds: a trunk, a neck, a beak, wings folded or spread, a tail, two legs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from cape.data.synthetic.camera import Viewpoint
from cape.data.synthetic.frames import Frame
from cape.data.synthetic.materials import Colour, Material, any_colour, mottled, pick, plain, shade
from cape.data.synthetic.solids import Body
from cape.data.synthetic.species import Species, both_sides, chain

_DARK = plain((0.05, 0.05, 0.05), 0.9)


@dataclass(frozen=True, slots=True)
class Bird:
    """Proportions of a kind; the unit is the length of the trunk.

    Attributes:
        girth: half the trunk's thickness; `tilt` raises the breast, in degrees.
        neck: length; `neck_radius` at the breast; `head` is the radius of the head.
        beak: its form; `beak_length`.
        leg: length of a leg; `leg_radius`.
        wing: length of a wing; `flying` is the chance that they are spread.
        tail: length.
        crest: length of the feathers on the head.
        colours: of the plumage; empty for any.
    """

    girth: float = 0.26
    tilt: float = 25.0
    neck: float = 0.15
    neck_radius: float = 0.16
    head: float = 0.17
    beak: Literal["straight", "hooked", "flat"] = "straight"
    beak_length: float = 0.16
    leg: float = 0.35
    leg_radius: float = 0.025
    wing: float = 0.75
    flying: float = 0.4
    tail: float = 0.45
    crest: float = 0.0
    colours: tuple[Colour, ...] = ()


def build_bird(body: Body, rng: np.random.Generator, *, kind: Bird) -> None:
    """Adds one bird, facing +z."""
    colour = pick(rng, kind.colours) if kind.colours else any_colour(rng)
    plumage = mottled(colour, shade(colour, 0.7), 4.0)
    second = plain(any_colour(rng)) if not kind.colours else plain(shade(colour, float(rng.uniform(0.5, 1.5))))
    bare = plain(pick(rng, ((0.9, 0.55, 0.15), (0.2, 0.18, 0.17), (0.75, 0.7, 0.3), (0.8, 0.3, 0.25))), 0.4)
    trunk = Frame.of(pitch=-kind.tilt + rng.uniform(-15, 12))
    girth = kind.girth * rng.uniform(0.9, 1.1)
    body.ellipsoid(trunk.origin, trunk.axes(girth * 0.9, girth, 0.5), plumage)
    body.ellipsoid(trunk.at(0, -girth * 0.25, 0.12), trunk.axes(girth * 0.78, girth * 0.8, 0.36), second)
    body.keypoint("breast", trunk.at(0, -girth * 0.45, 0.4), 0.06)
    body.keypoint("belly", trunk.at(0, -girth * 1.0, 0.0), 0.06)
    body.keypoint("back", trunk.at(0, girth, -0.05), 0.06)
    _add_head(body, rng, kind, trunk, plumage, second, bare)
    flying = rng.random() < kind.flying
    flap = float(rng.uniform(-35, 45))
    for side, sign in (("left", 1.0), ("right", -1.0)):
        _add_wing(body, kind, trunk, plumage, second, (side, sign), flap if flying else None)
    tail = trunk.child(0, girth * 0.1, -0.42, pitch=rng.uniform(-12, 12))
    spread = kind.tail * (0.45 if flying else 0.22)
    body.limb([tail.origin, tail.at(0, 0, -kind.tail * 0.5)], [girth * 0.45, girth * 0.2], plumage)
    fan = [(0.05, 0), (-0.05, 0), (-spread, -kind.tail), (0, -kind.tail * 1.08), (spread, -kind.tail)]
    body.polygon([tail.at(x, 0, z) for x, z in fan], second)
    body.keypoint("root of the tail", tail.origin, girth * 0.5)
    body.keypoint("tip of the tail", tail.at(0, 0, -kind.tail), 0.03)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        _add_leg(body, rng, kind, trunk, plumage, bare, (side, sign))


def _add_head(
    body: Body, rng: np.random.Generator, kind: Bird, trunk: Frame, plumage: Material, second: Material, bare: Material
) -> None:
    r = kind.head
    base = Frame.of(*trunk.at(0, kind.girth * 0.35, 0.36), pitch=-rng.uniform(30, 75), yaw=rng.uniform(-20, 20))
    middle = base.at(0, 0, kind.neck * 0.55)
    bent = base.child(0, 0, kind.neck * 0.55, pitch=-rng.uniform(-10, 20))
    top = bent.at(0, 0, kind.neck * 0.45 + 0.08)
    body.limb([base.at(0, 0, -0.08), middle, top], [kind.neck_radius * 1.15, kind.neck_radius * 0.75, r * 0.7], plumage)
    head = Frame.of(*top, pitch=rng.uniform(-15, 20), yaw=rng.uniform(-50, 50)).child(0, r * 0.4, r * 0.2)
    body.ellipsoid(head.origin, head.axes(r * 0.85, r * 0.92, r), second if rng.random() < 0.5 else plumage)
    tip = head.at(0, -r * 0.15 - (kind.beak == "hooked") * kind.beak_length * 0.5, r * 0.85 + kind.beak_length)
    if kind.beak == "flat":
        body.limb(
            [head.at(0, -r * 0.15, r * 0.6), tip], [r * 0.5, r * 0.42], bare, across=head.along(1, 0, 0), flatness=0.35
        )
    elif kind.beak == "hooked":
        body.limb(
            [head.at(0, 0, r * 0.7), head.at(0, r * 0.05, r * 0.8 + kind.beak_length * 0.7), tip],
            [r * 0.4, r * 0.28, 0.01],
            bare,
        )
    else:
        body.limb([head.at(0, -r * 0.05, r * 0.7), tip], [r * 0.32, 0.012], bare)
    body.keypoint("tip of the beak", tip, 0.03)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        eye = head.at(sign * r * 0.68, r * 0.25, r * 0.52)
        body.ball(eye, r * 0.17, _DARK)
        body.keypoint(f"{side} eye", eye, r * 0.18)
    body.keypoint("top of the head", head.at(0, r * 0.92, 0), r * 0.2)
    if kind.crest:
        feather = plain(shade(second.colour, 1.2))
        body.limb([head.at(0, r * 0.8, 0), head.at(0, r + kind.crest, -kind.crest * 0.6)], [r * 0.35, 0.02], feather)
        body.keypoint("tip of the crest", head.at(0, r + kind.crest, -kind.crest * 0.6), 0.02)
    body.keypoint("throat", middle + base.along(0, -1, 0) * kind.neck_radius * 0.8, 0.06)
    body.keypoint("nape", middle + base.along(0, 1, 0) * kind.neck_radius * 0.8, 0.06)


def _add_wing(
    body: Body,
    kind: Bird,
    trunk: Frame,
    plumage: Material,
    second: Material,
    which: tuple[str, float],
    flap: float | None,
) -> None:
    side, sign = which
    girth, long = kind.girth, kind.wing
    shoulder = trunk.at(sign * girth * 0.75, girth * 0.45, 0.28)
    if flap is None:
        wing = Frame(shoulder, trunk.rotation).child(0, 0, 0, yaw=sign * 4, pitch=8)
        bend, tip = wing.at(sign * girth * 0.2, 0.02, 0.06), wing.at(-sign * girth * 0.35, -girth * 0.3, -long)
        body.ellipsoid(
            wing.at(sign * 0.01, -girth * 0.3, -long * 0.36), wing.axes(girth * 0.25, girth * 0.62, long * 0.5), second
        )
        body.limb(
            [wing.at(0, -girth * 0.25, -long * 0.5), tip],
            [girth * 0.4, 0.03],
            plumage,
            across=wing.along(0, 1, 0),
            flatness=0.3,
        )
    else:
        wing = Frame(shoulder, trunk.rotation).child(0, 0, 0, roll=sign * flap)
        outer = wing.child(sign * long * 0.45, 0, 0.1, roll=-sign * flap * 0.7)
        bend, tip = outer.origin, outer.at(sign * long * 0.8, 0, -0.15)
        body.limb([shoulder, bend, tip], [girth * 0.3, girth * 0.18, 0.02], plumage)
        body.polygon([shoulder, bend, outer.at(0, 0, -long * 0.55), wing.at(0, 0, -long * 0.5)], plumage)
        body.polygon([bend, tip, outer.at(sign * long * 0.45, 0, -long * 0.5), outer.at(0, 0, -long * 0.55)], second)
    body.keypoint(f"{side} shoulder", shoulder, girth * 0.5)
    body.keypoint(f"bend of the {side} wing", bend, girth * 0.4)
    body.keypoint(f"tip of the {side} wing", tip, 0.04)


def _add_leg(
    body: Body,
    rng: np.random.Generator,
    kind: Bird,
    trunk: Frame,
    plumage: Material,
    bare: Material,
    which: tuple[str, float],
) -> None:
    side, sign = which
    hip = Frame.of(*trunk.at(sign * kind.girth * 0.4, -kind.girth * 0.65, -0.05), pitch=rng.uniform(-20, 25))
    knee = hip.at(0, -kind.leg * 0.5, -0.03)
    shin = Frame(knee, hip.rotation).child(0, 0, 0, pitch=-rng.uniform(0, 35))
    foot = shin.at(0, -kind.leg * 0.5, 0)
    body.limb([hip.at(0, 0.05, 0), knee], [kind.girth * 0.35, kind.leg_radius * 1.3], plumage)
    body.limb([knee, foot], [kind.leg_radius, kind.leg_radius], bare)
    for toe in (-28, 0, 28, 180):
        claw, long = Frame.of(*foot, yaw=toe), 0.075 if toe != 180 else 0.04
        body.ellipsoid(claw.at(0, 0, long), claw.axes(kind.leg_radius, kind.leg_radius * 0.8, long), bare)
    body.keypoint(f"{side} knee", knee, 0.06)
    body.keypoint(f"{side} foot", foot, 0.05)


_BONES = (
    *both_sides(
        ("{side} eye", "tip of the beak"),
        ("{side} eye", "top of the head"),
        ("{side} shoulder", "bend of the {side} wing"),
        ("bend of the {side} wing", "tip of the {side} wing"),
        ("back", "{side} shoulder"),
        ("belly", "{side} knee"),
        ("{side} knee", "{side} foot"),
    ),
    *chain("top of the head", "nape", "back", "root of the tail", "tip of the tail"),
    *chain("tip of the beak", "throat", "breast", "belly", "root of the tail"),
    *chain("top of the head", "tip of the crest"),
)

_KINDS = {
    "songbird": Bird(),
    "duck": Bird(girth=0.3, tilt=5, neck=0.3, neck_radius=0.14, beak="flat", beak_length=0.22, leg=0.22, tail=0.2,
                 flying=0.3, colours=((0.45, 0.35, 0.25), (0.9, 0.88, 0.82), (0.35, 0.38, 0.35))),
    "eagle": Bird(girth=0.27, tilt=45, head=0.16, beak="hooked", beak_length=0.15, leg=0.3, leg_radius=0.04, wing=1.1,
                  flying=0.6, colours=((0.3, 0.2, 0.12), (0.2, 0.15, 0.1))),
    "flamingo": Bird(girth=0.24, tilt=5, neck=1.0, neck_radius=0.08, head=0.12, beak="hooked", beak_length=0.2,
                     leg=1.25, leg_radius=0.022, tail=0.15, flying=0.25,
                     colours=((0.95, 0.55, 0.55), (0.95, 0.7, 0.65))),
    "penguin": Bird(girth=0.29, tilt=78, neck=0.08, neck_radius=0.2, head=0.18, leg=0.16, leg_radius=0.05, wing=0.6,
                    tail=0.14, flying=0.0, colours=((0.1, 0.1, 0.13),)),
    "parrot": Bird(girth=0.22, tilt=58, head=0.19, beak="hooked", beak_length=0.14, leg=0.2, leg_radius=0.035,
                   tail=0.85, crest=0.18),
    "ostrich": Bird(girth=0.36, tilt=5, neck=1.05, neck_radius=0.09, head=0.12, beak="flat", beak_length=0.14, leg=1.2,
                    leg_radius=0.05, wing=0.55, tail=0.3, flying=0.2, colours=((0.15, 0.13, 0.12), (0.45, 0.38, 0.3))),
    "chicken": Bird(girth=0.34, tilt=22, neck=0.25, neck_radius=0.17, head=0.14, beak_length=0.1, leg=0.35, tail=0.4,
                    flying=0.15, crest=0.12, colours=((0.65, 0.3, 0.12), (0.9, 0.86, 0.78), (0.2, 0.17, 0.16))),
}  # fmt: skip

SPECIES = tuple(
    Species(
        f"{name} body",
        "bird body",
        partial(build_bird, kind=kind),
        Viewpoint(yaw=(0, 140), pitch=(-10, 35), mirror=True),
        _BONES,
    )
    for name, kind in _KINDS.items()
)

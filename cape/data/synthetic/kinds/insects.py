"""Insects, spiders and crabs: segments, jointed legs in pairs, feelers, wings, claws."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from cape.data.synthetic.camera import Viewpoint
from cape.data.synthetic.frames import Frame, Vector
from cape.data.synthetic.materials import Colour, Material, any_colour, banded, mottled, pick, plain, shade, spotted
from cape.data.synthetic.solids import Body
from cape.data.synthetic.species import Species, both_sides, chain


@dataclass(frozen=True, slots=True)
class Insect:
    """Proportions of a kind; the unit is the length of the whole trunk.

    Attributes:
        head, thorax, abdomen: radii across and along of the three segments.
        legs: pairs of legs; `leg` is their length, `leg_radius` their thickness.
        feelers: length of the antennae; 0 for none.
        wings: their form; `wing` is their length.
        claws: length of the claws; 0 for none.
        colours: of the body; empty for any.
        pattern: on the abdomen or the wing cases.
    """

    head: tuple[float, float] = (0.1, 0.1)
    thorax: tuple[float, float] = (0.13, 0.16)
    abdomen: tuple[float, float] = (0.17, 0.27)
    legs: int = 3
    leg: float = 0.55
    leg_radius: float = 0.022
    feelers: float = 0.3
    wings: Literal["none", "broad", "narrow", "cases"] = "none"
    wing: float = 0.7
    claws: float = 0.0
    colours: tuple[Colour, ...] = ()
    pattern: Literal["plain", "banded", "spotted"] = "plain"


_PAIRS = {3: ("front", "middle", "back"), 4: ("first", "second", "third", "fourth")}


def build_insect(body: Body, rng: np.random.Generator, *, kind: Insect) -> None:
    """Adds one animal: its length along z, back to +y."""
    colour = pick(rng, kind.colours, 0.08) if kind.colours else any_colour(rng)
    shell = mottled(colour, shade(colour, 0.75), 4.0, 0.4)
    dark = plain(shade(colour, 0.35) if max(colour) > 0.35 else shade(colour, 1.6), 0.4)
    patterned = {
        "plain": shell,
        "banded": banded(colour, (0.08, 0.07, 0.06), 5.0, 0.3),
        "spotted": spotted(colour, (0.06, 0.05, 0.05), 1.4, 0.6),
    }[kind.pattern]
    (hr, hl), (tr, tl), (ar, al) = kind.head, kind.thorax, kind.abdomen
    thorax = Frame.of()
    head = thorax.child(0, 0.0, tl * 0.85, yaw=rng.uniform(-15, 15), pitch=rng.uniform(-10, 15)).child(0, 0, hl * 0.8)
    rear = thorax.child(0, 0, -tl * 0.85, yaw=rng.uniform(-12, 12), pitch=rng.uniform(-12, 10)).child(0, 0, -al * 0.85)
    body.ellipsoid(thorax.origin, thorax.axes(tr, tr * 0.8, tl), shell)
    body.ellipsoid(head.origin, head.axes(hr, hr * 0.8, hl), dark)
    body.ellipsoid(rear.origin, rear.axes(ar, ar * 0.75, al), patterned)
    body.keypoint("front of the head", head.at(0, 0, hl), 0.04)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        eye = head.at(sign * hr * 0.78, hr * 0.35, hl * 0.35)
        body.ball(eye, hr * 0.36, plain((0.08, 0.05, 0.05), 0.9))
        body.keypoint(f"{side} eye", eye, hr * 0.4)
    if kind.feelers:
        for side, sign in (("left", 1.0), ("right", -1.0)):
            joints = [
                head.at(sign * hr * 0.4, hr * 0.3, hl * 0.8),
                head.at(sign * (hr * 0.5 + kind.feelers * 0.35), hr + 0.05, hl + kind.feelers * 0.5),
                head.at(sign * (hr * 0.5 + kind.feelers * rng.uniform(0.3, 0.9)), hr, hl + kind.feelers),
            ]
            body.limb(joints, [0.015, 0.012, 0.014], dark)
            body.keypoint(f"tip of the {side} antenna", joints[-1], 0.02)
    body.keypoint("middle of the back", thorax.at(0, tr * 0.8, 0), 0.05)
    body.keypoint("tip of the abdomen", rear.at(0, 0, -al), 0.05)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        _add_legs(body, rng, kind, thorax, dark, side, sign)
    if kind.claws:
        for side, sign in (("left", 1.0), ("right", -1.0)):
            _add_claw(body, rng, kind, thorax, shell, side, sign)
    if kind.wings != "none":
        lift = float(rng.uniform(-5, 45))
        wing = _wing_material(kind, rng, colour)
        for side, sign in (("left", 1.0), ("right", -1.0)):
            _add_wings(body, kind, thorax, wing, side, sign, lift)


def _add_legs(
    body: Body, rng: np.random.Generator, kind: Insect, thorax: Frame, dark: Material, side: str, sign: float
) -> None:
    names = _PAIRS[kind.legs]
    for number, name in enumerate(names):
        place = 1 - 2 * number / (len(names) - 1)
        leg = thorax.child(
            sign * kind.thorax[0] * 0.7,
            -0.02,
            place * kind.thorax[1] * 0.7,
            yaw=-sign * (place * 48 + rng.uniform(-14, 14)),
        )
        long = kind.leg * (1.0 if number < len(names) - 1 else 1.2)
        knee = leg.at(sign * long * 0.42, long * rng.uniform(0.05, 0.25), 0)
        foot = leg.at(sign * long * 0.85, -long * 0.3, rng.uniform(-0.08, 0.08))
        body.limb([leg.origin, knee, foot], [kind.leg_radius * 1.2, kind.leg_radius, kind.leg_radius * 0.6], dark)
        body.keypoint(f"{side} {name} knee", knee, 0.03)
        body.keypoint(f"{side} {name} foot", foot, 0.03)


def _add_claw(
    body: Body, rng: np.random.Generator, kind: Insect, thorax: Frame, shell: Material, side: str, sign: float
) -> None:
    long = kind.claws
    arm = thorax.child(sign * kind.thorax[0] * 0.7, 0, kind.thorax[1] * 0.7, yaw=-sign * rng.uniform(5, 45))
    elbow = arm.at(sign * long * 0.55, 0.03, long * 0.3)
    wrist = Frame(elbow, arm.rotation).child(0, 0, 0, yaw=-sign * rng.uniform(-10, 40)).child(0, 0, long * 0.4)
    body.limb([arm.origin, elbow, wrist.origin], [0.04, 0.045, 0.05], shell)
    body.ellipsoid(wrist.at(0, 0, long * 0.22), wrist.axes(long * 0.2, long * 0.12, long * 0.28), shell)
    tip = wrist.at(-sign * long * 0.02, 0, long * 0.8)
    body.limb(
        [wrist.at(sign * long * 0.1, 0, long * 0.3), wrist.at(sign * long * 0.16, 0, long * 0.55), tip],
        [long * 0.09, long * 0.07, 0.01],
        shell,
    )
    body.limb(
        [wrist.at(-sign * long * 0.1, 0, long * 0.3), wrist.at(-sign * long * 0.22, 0, long * 0.65)],
        [long * 0.07, 0.01],
        shell,
    )
    body.keypoint(f"{side} elbow", elbow, 0.06)
    body.keypoint(f"tip of the {side} claw", tip, 0.04)


def _wing_material(kind: Insect, rng: np.random.Generator, colour: Colour) -> Material:
    if kind.wings == "cases":
        if kind.pattern == "spotted":
            return spotted(colour, (0.05, 0.05, 0.05), 1.3, 0.7)
        return plain(colour, 0.8)
    if kind.wings == "broad":
        return spotted(any_colour(rng), any_colour(rng), float(rng.uniform(0.6, 1.5)))
    return mottled((0.85, 0.88, 0.9), (0.6, 0.68, 0.75), 3.0, 0.6)


def _add_wings(body: Body, kind: Insect, thorax: Frame, wing: Material, side: str, sign: float, lift: float) -> None:
    root = thorax.child(sign * kind.thorax[0] * 0.4, kind.thorax[0] * 0.7, 0)
    long = kind.wing
    if kind.wings == "cases":
        case = root.child(0, 0, -kind.thorax[1] * 0.6, yaw=-sign * 3)
        body.ellipsoid(
            case.at(sign * kind.abdomen[0] * 0.28, 0, -long * 0.45),
            case.axes(kind.abdomen[0] * 0.62, kind.abdomen[0] * 0.6, long * 0.52),
            wing,
        )
        body.keypoint(f"tip of the {side} wing case", case.at(sign * kind.abdomen[0] * 0.25, 0.0, -long * 0.93), 0.08)
        return
    front = root.child(0, 0, kind.thorax[1] * 0.3, roll=sign * lift)
    back = root.child(0, 0, -kind.thorax[1] * 0.3, roll=sign * lift * 0.8)
    if kind.wings == "broad":
        outlines = (
            ((0, 0), (0.35, 0.3), (0.85, 0.6), (1.0, 0.55), (0.85, 0.05), (0.4, -0.12)),
            ((0, 0), (0.45, 0.0), (0.75, -0.2), (0.7, -0.6), (0.4, -0.72), (0.1, -0.35)),
        )
        tips: tuple[tuple[float, float], ...] = ((1.0, 0.55), (0.7, -0.6))
    else:
        outlines = (
            ((0, 0), (0.4, 0.16), (0.95, 0.16), (1.0, 0.08), (0.8, -0.06), (0.3, -0.05)),
            ((0, 0), (0.4, -0.05), (0.85, -0.22), (0.85, -0.32), (0.6, -0.36), (0.2, -0.18)),
        )
        tips = ((1.0, 0.1), (0.85, -0.28))
    for name, frame, outline, tip in zip(("front", "back"), (front, back), outlines, tips, strict=True):
        corners: list[Vector] = [frame.at(sign * x * long, 0, z * long) for x, z in outline]
        body.polygon(corners, wing)
        body.keypoint(f"tip of the {side} {name} wing", frame.at(sign * tip[0] * long, 0, tip[1] * long), 0.02)


_BONES = (
    *both_sides(
        ("{side} eye", "front of the head"),
        ("front of the head", "tip of the {side} antenna"),
        *(
            bone
            for name in ("front", "middle", "back", "first", "second", "third", "fourth")
            for bone in (
                ("middle of the back", f"{{side}} {name} knee"),
                (f"{{side}} {name} knee", f"{{side}} {name} foot"),
            )
        ),
        ("middle of the back", "tip of the {side} front wing"),
        ("middle of the back", "tip of the {side} back wing"),
        ("middle of the back", "tip of the {side} wing case"),
        ("middle of the back", "{side} elbow"),
        ("{side} elbow", "tip of the {side} claw"),
    ),
    *chain("front of the head", "middle of the back", "tip of the abdomen"),
)

_KINDS = {
    "ant": Insect(head=(0.12, 0.13), thorax=(0.08, 0.17), abdomen=(0.15, 0.2),
                  colours=((0.12, 0.09, 0.08), (0.45, 0.17, 0.08))),
    "beetle": Insect(thorax=(0.2, 0.14), abdomen=(0.24, 0.32), wings="cases", wing=0.62, leg=0.5, leg_radius=0.03,
                     feelers=0.2),
    "ladybird": Insect(head=(0.11, 0.08), thorax=(0.19, 0.1), abdomen=(0.33, 0.34), wings="cases", wing=0.66, leg=0.4,
                       feelers=0.12, colours=((0.8, 0.12, 0.06), (0.85, 0.5, 0.1)), pattern="spotted"),
    "bee": Insect(head=(0.12, 0.1), thorax=(0.17, 0.17), abdomen=(0.19, 0.28), wings="narrow", wing=0.6, leg=0.4,
                  feelers=0.16, colours=((0.9, 0.65, 0.12),), pattern="banded"),
    "butterfly": Insect(head=(0.06, 0.06), thorax=(0.07, 0.14), abdomen=(0.06, 0.28), wings="broad", wing=0.8, leg=0.25,
                        leg_radius=0.012, feelers=0.35),
    "dragonfly": Insect(head=(0.12, 0.09), thorax=(0.1, 0.16), abdomen=(0.045, 0.5), wings="narrow", wing=0.85,
                        leg=0.22, leg_radius=0.014, feelers=0.05),
    "grasshopper": Insect(head=(0.09, 0.1), thorax=(0.1, 0.18), abdomen=(0.09, 0.36), wings="cases", wing=0.75, leg=0.5,
                          feelers=0.4, colours=((0.4, 0.6, 0.2), (0.55, 0.45, 0.25))),
    "spider": Insect(head=(0.09, 0.08), thorax=(0.15, 0.17), abdomen=(0.23, 0.27), legs=4, leg=0.75, feelers=0.0,
                     colours=((0.2, 0.15, 0.1), (0.5, 0.35, 0.2))),
    "crab": Insect(head=(0.09, 0.06), thorax=(0.4, 0.27), abdomen=(0.2, 0.12), legs=4, leg=0.55, leg_radius=0.035,
                   feelers=0.0, claws=0.55, colours=((0.8, 0.3, 0.15), (0.35, 0.4, 0.42), (0.75, 0.5, 0.3))),
}  # fmt: skip

SPECIES = tuple(
    Species(
        f"{name} body",
        "insect body",
        partial(build_insect, kind=kind),
        Viewpoint(yaw=(-180, 180), pitch=(25, 85), roll=(-30, 30)),
        _BONES,
    )
    for name, kind in _KINDS.items()
)

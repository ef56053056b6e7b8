"""Bodies that stand on two legs: people, robots, stuffed bears, apes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from cape.data.synthetic.camera import Viewpoint
from cape.data.synthetic.frames import Frame
from cape.data.synthetic.materials import Colour, Material, any_colour, any_material, mottled, pick, plain, shade
from cape.data.synthetic.solids import Body
from cape.data.synthetic.species import Species, both_sides, chain

SKIN: tuple[Colour, ...] = ((0.9, 0.7, 0.57), (0.8, 0.57, 0.43), (0.6, 0.4, 0.28), (0.38, 0.24, 0.17))
"""Skin colours of people."""

HAIR: tuple[Colour, ...] = ((0.1, 0.08, 0.07), (0.3, 0.19, 0.1), (0.65, 0.48, 0.25), (0.5, 0.22, 0.1), (0.6, 0.6, 0.6))
"""Hair colours of people."""

_DARK = plain((0.07, 0.06, 0.06), 0.8)


@dataclass(frozen=True, slots=True)
class Biped:
    """Proportions of a kind; the unit is the length of the trunk from hips to shoulders.

    Attributes:
        head: radius of the head.
        neck: length of the neck.
        arm, leg: lengths of the whole limb; `arm_radius` and `leg_radius` at their tops.
        shoulders, hips: half their distances.
        belly: half the depth of the trunk.
        dress: what it wears or is made of.
    """

    head: float = 0.24
    neck: float = 0.18
    arm: float = 1.1
    arm_radius: float = 0.095
    leg: float = 1.6
    leg_radius: float = 0.14
    shoulders: float = 0.36
    hips: float = 0.2
    belly: float = 0.19
    dress: Literal["clothes", "gown", "metal", "plush", "fur"] = "clothes"


def build_biped(body: Body, rng: np.random.Generator, *, kind: Biped) -> None:
    """Adds one figure: hips at the origin, facing +z."""
    skin, shirt, trousers, shoes = _surfaces(kind, rng)
    spine = Frame.of(pitch=rng.uniform(-8, 25), roll=rng.uniform(-10, 10), yaw=rng.uniform(-15, 15))
    wide, hips, deep = kind.shoulders, kind.hips, kind.belly
    if kind.dress == "metal":
        body.box(spine.at(0, 0.58, 0), spine.axes(wide * 0.85, 0.45, deep), shirt)
        body.box(spine.at(0, 0.02, 0), spine.axes(hips * 1.2, 0.14, deep * 0.8), trousers)
    else:
        chest = [spine.at(0, 0.02, 0), spine.at(0, 0.45, 0), spine.at(0, 0.86, 0)]
        for start, end, first, last in zip(
            chest[:-1], chest[1:], (hips * 1.5, hips * 1.4), (hips * 1.4, wide), strict=True
        ):
            body.tube(start, end, first, last, shirt, across=spine.along(1, 0, 0), flatness=deep / wide * 1.25)
        body.ellipsoid(spine.at(0, 0.84, 0), spine.axes(wide, 0.17, deep * 1.15), shirt)
        body.ellipsoid(spine.at(0, 0.0, 0), spine.axes(hips * 1.5, 0.22, deep * 1.1), trousers)
        if deep > 0.25:
            body.ellipsoid(spine.at(0, 0.35, 0.06), spine.axes(hips * 1.7, 0.45, deep * 1.3), shirt)
    _add_head(body, rng, kind, skin, spine)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        _add_arm(body, rng, kind, skin, shirt, spine, side, sign)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        _add_leg(body, rng, kind, skin if kind.dress == "gown" else trousers, shoes, side, sign)
    if kind.dress == "gown":
        hem = -kind.leg * rng.uniform(0.35, 0.7)
        body.tube(spine.at(0, 0.1, 0), spine.at(0, hem, 0.05), hips * 1.4, hips * 2.6, shirt)


def _surfaces(kind: Biped, rng: np.random.Generator) -> tuple[Material, Material, Material, Material]:
    """Skin, upper part, lower part and feet."""
    if kind.dress in ("clothes", "gown"):
        skin = plain(pick(rng, SKIN))
        return skin, any_material(rng, 3.0), any_material(rng, 2.0), plain(any_colour(rng), 0.3)
    if kind.dress == "metal":
        metal, accent = plain(any_colour(rng), 0.9), plain(any_colour(rng), 0.7)
        return metal, metal, accent, accent
    colour = any_colour(rng) if kind.dress == "plush" else pick(rng, ((0.12, 0.11, 0.11), (0.5, 0.25, 0.1)))
    fur = mottled(colour, shade(colour, 0.65), 5.0)
    return fur, fur, fur, mottled(shade(colour, 0.85), shade(colour, 0.6), 5.0)


def _add_head(body: Body, rng: np.random.Generator, kind: Biped, skin: Material, spine: Frame) -> None:
    r = kind.head
    base = spine.child(0, 0.95, 0, pitch=rng.uniform(-20, 25), yaw=rng.uniform(-50, 50), roll=rng.uniform(-14, 14))
    body.limb([spine.at(0, 0.85, 0), base.at(0, kind.neck, 0)], [r * 0.5, r * 0.45], skin)
    head = base.child(0, kind.neck + r * 0.8, r * 0.12)
    if kind.dress == "metal":
        body.box(head.origin, head.axes(r * 0.85, r, r * 0.85), skin)
        body.limb([head.at(0, r, 0), head.at(0, r * 1.6, 0)], [r * 0.08, r * 0.12], _DARK)
    else:
        body.ellipsoid(head.origin, head.axes(r * 0.78, r * 1.02, r * 0.88), skin)
    front = r * (0.86 if kind.dress == "metal" else 0.8)
    eye_material = plain((0.95, 0.85, 0.2), 0.9) if kind.dress == "metal" else _DARK
    body.keypoint("nose", head.at(0, -r * 0.1, front + r * 0.18), r * 0.2)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        eye = head.at(sign * r * 0.33, r * 0.16, front - r * 0.06)
        body.ball(eye, r * 0.13, eye_material)
        body.keypoint(f"{side} eye", eye, r * 0.15)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        if kind.dress in ("plush", "fur"):
            high = 0.75 if kind.dress == "plush" else 0.15
            ear = head.at(sign * r * 0.72, r * high, 0)
            body.ellipsoid(ear, head.axes(r * 0.36, r * 0.38, r * 0.16), skin)
        else:
            ear = head.at(sign * r * 0.82, 0, -r * 0.05)
            body.ellipsoid(ear, head.axes(r * 0.1, r * 0.22, r * 0.14), skin)
        body.keypoint(f"{side} ear", ear, r * 0.2)
    if kind.dress in ("plush", "fur"):
        body.ellipsoid(
            head.at(0, -r * 0.3, r * 0.65), head.axes(r * 0.42, r * 0.34, r * 0.4), plain(shade(skin.colour, 1.4))
        )
        body.ellipsoid(head.at(0, -r * 0.15, r * 1.0), head.axes(r * 0.14, r * 0.1, r * 0.1), _DARK)
    elif kind.dress != "metal":
        body.ellipsoid(head.at(0, -r * 0.12, r * 0.85), head.axes(r * 0.11, r * 0.2, r * 0.17), skin)
        body.ellipsoid(
            head.at(0, -r * 0.48, r * 0.72), head.axes(r * 0.26, r * 0.07, r * 0.1), plain((0.6, 0.25, 0.22))
        )
        colour = pick(rng, HAIR)
        hair = mottled(colour, shade(colour, 0.6), 14.0)
        tilt = head.child(0, r * 0.08, -r * 0.08, pitch=-78)
        body.ellipsoid(tilt.origin, tilt.axes(r * 0.88, r * 0.98, r * 1.06), hair, low=0.05, high=1.0)
        if kind.dress == "gown" or rng.random() < 0.25:
            body.ellipsoid(head.at(0, -r * 0.5, -r * 0.45), head.axes(r * 0.8, r * 1.1, r * 0.45), hair)


def _add_arm(
    body: Body,
    rng: np.random.Generator,
    kind: Biped,
    skin: Material,
    shirt: Material,
    spine: Frame,
    side: str,
    sign: float,
) -> None:
    a, r = kind.arm, kind.arm_radius
    # Mostly hanging, sometimes raised sideways or forwards; elbows bend forwards only.
    lift = rng.uniform(5, 50) if rng.random() < 0.65 else rng.uniform(50, 155)
    upper = spine.child(sign * kind.shoulders, 0.86, 0, pitch=rng.uniform(-70, 35), roll=sign * lift)
    elbow = upper.at(0, -a * 0.48, 0)
    lower = upper.child(0, -a * 0.48, 0, pitch=-rng.uniform(5, 120), yaw=-sign * rng.uniform(-20, 60))
    wrist = lower.at(0, -a * 0.43, 0)
    sleeved = rng.random() < 0.5 or kind.dress in ("plush", "fur", "metal")
    body.limb([upper.origin, elbow], [r * 1.1, r * 0.85], shirt)
    body.limb([elbow, wrist], [r * 0.8, r * 0.58], shirt if sleeved else skin)
    body.ellipsoid(lower.at(0, -a * 0.5, 0.01), lower.axes(r * 0.55, r * 1.0, r * 0.8), skin)
    body.keypoint(f"{side} shoulder", upper.origin, r * 1.7)
    body.keypoint(f"{side} elbow", elbow, r * 1.1)
    body.keypoint(f"{side} wrist", wrist, r)


def _add_leg(
    body: Body, rng: np.random.Generator, kind: Biped, trousers: Material, shoes: Material, side: str, sign: float
) -> None:
    long, r = kind.leg, kind.leg_radius
    swing = rng.uniform(-25, 40) if rng.random() < 0.75 else rng.uniform(40, 100)
    upper = Frame.of(sign * kind.hips, -0.02, 0, pitch=-swing, roll=sign * rng.uniform(0, 22))
    knee = upper.at(0, -long * 0.48, 0)
    lower = upper.child(0, -long * 0.48, 0, pitch=rng.uniform(0, 20) + max(0.0, swing) * rng.uniform(0.3, 1.1))
    ankle = lower.at(0, -long * 0.46, 0)
    body.limb([upper.origin, knee, ankle], [r * 1.1, r * 0.78, r * 0.5], trousers)
    body.ellipsoid(lower.at(0, -long * 0.49, r * 0.5), lower.axes(r * 0.55, r * 0.4, r * 1.15), shoes)
    body.keypoint(f"{side} hip", upper.origin, r * 1.6)
    body.keypoint(f"{side} knee", knee, r * 1.1)
    body.keypoint(f"{side} ankle", ankle, r)


_BONES = (
    *both_sides(
        ("{side} ear", "{side} eye"),
        ("{side} eye", "nose"),
        ("{side} shoulder", "{side} elbow"),
        ("{side} elbow", "{side} wrist"),
        ("{side} shoulder", "{side} hip"),
        ("{side} hip", "{side} knee"),
        ("{side} knee", "{side} ankle"),
    ),
    *chain("left shoulder", "right shoulder"),
    *chain("left hip", "right hip"),
)

_KINDS = {
    "person": Biped(),
    "woman in a dress": Biped(shoulders=0.31, hips=0.2, arm_radius=0.075, leg_radius=0.12, dress="gown"),
    "child": Biped(head=0.33, neck=0.1, arm=0.95, leg=1.2, shoulders=0.32, arm_radius=0.1, leg_radius=0.15),
    "humanoid robot": Biped(head=0.25, arm=1.15, arm_radius=0.1, leg=1.4, leg_radius=0.15, shoulders=0.42,
                            dress="metal"),
    "teddy bear": Biped(head=0.42, neck=0.02, arm=0.75, arm_radius=0.17, leg=0.8, leg_radius=0.22, shoulders=0.36,
                        hips=0.27, belly=0.32, dress="plush"),
    "ape": Biped(head=0.26, neck=0.05, arm=1.45, arm_radius=0.14, leg=0.95, leg_radius=0.17, shoulders=0.45, hips=0.24,
                 belly=0.28, dress="fur"),
}  # fmt: skip

SPECIES = tuple(
    Species(
        f"{name} body",
        "human body",
        partial(build_biped, kind=kind),
        Viewpoint(yaw=(-75, 75) if name != "person" else (-180, 180), pitch=(-10, 25), roll=(-10, 10)),
        _BONES,
    )
    for name, kind in _KINDS.items()
)

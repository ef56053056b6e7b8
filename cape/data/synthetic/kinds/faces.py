"""Heads seen close: people's, and those of animals with muzzles, ears, horns or a beak."""
# ruff: noqa: RUF005 — vectors are moved by adding tuples to them

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from cape.data.synthetic.camera import Viewpoint
from cape.data.synthetic.frames import Frame, point
from cape.data.synthetic.kinds.coats import Coat, coat_material
from cape.data.synthetic.kinds.human_faces import build_clown_face, build_human_face, on_ellipsoid
from cape.data.synthetic.materials import Material, mottled, pick, plain, shade
from cape.data.synthetic.solids import Body
from cape.data.synthetic.species import Species, both_sides, chain

_PUPIL = plain((0.03, 0.03, 0.03), 0.9)
_WHITE = plain((0.93, 0.92, 0.9), 0.4)


@dataclass(frozen=True, slots=True)
class AnimalFace:
    """Proportions of a kind; the unit is the height of the skull from its middle.

    Attributes:
        width, depth: radii of the skull.
        muzzle: how far the muzzle reaches beyond the skull; `muzzle_width` and `muzzle_drop` below the middle.
        eyes: distance of an eye from the middle line; `eye` is its radius.
        ears: their form; `ear` is their length.
        horns, beak, whiskers: what only some kinds have.
        coat: colours and pattern; `patch` lightens the muzzle.
    """

    width: float = 0.9
    depth: float = 0.85
    muzzle: float = 0.5
    muzzle_width: float = 0.4
    muzzle_drop: float = 0.35
    eyes: float = 0.42
    eye: float = 0.17
    ears: Literal["pointed", "round", "floppy", "none"] = "pointed"
    ear: float = 0.7
    horns: float = 0.0
    beak: float = 0.0
    whiskers: bool = False
    coat: Coat = "brown"
    patch: float = 1.35


def build_animal_face(body: Body, rng: np.random.Generator, *, kind: AnimalFace) -> None:
    """Adds an animal's head: the middle of the skull at the origin, facing +z."""
    fur = coat_material(kind.coat, rng)
    light = plain(shade(fur.colour, kind.patch))
    radii = (kind.width, 1.0, kind.depth)
    body.ellipsoid(point(0, 0, 0), np.diag(radii), fur)
    body.limb([point(0, -0.3, -0.3), point(0, -1.1, -0.75)], [0.6, 0.62], fur)
    wide, drop = kind.muzzle_width, kind.muzzle_drop
    iris = plain(pick(rng, ((0.3, 0.2, 0.08), (0.75, 0.6, 0.15), (0.3, 0.45, 0.2))), 0.6)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        eye = on_ellipsoid(sign * kind.eyes, 0.18, radii, -kind.eye * 0.3)
        if kind.beak:
            body.ellipsoid(eye - (0, 0, 0.08), np.diag((kind.eye * 1.7, kind.eye * 1.7, 0.16)), light)
        body.ball(eye, kind.eye, iris)
        body.ball(eye + (0, 0, kind.eye * 0.5), kind.eye * 0.62, _PUPIL)
        body.keypoint(
            f"outer corner of the {side} eye", eye + (sign * kind.eye * 0.95, 0, kind.eye * 0.2), kind.eye * 0.6
        )
        body.keypoint(
            f"inner corner of the {side} eye", eye + (-sign * kind.eye * 0.95, 0, kind.eye * 0.3), kind.eye * 0.6
        )
    if kind.beak:
        horn = plain(pick(rng, ((0.85, 0.65, 0.2), (0.25, 0.22, 0.2))), 0.4)
        root, tip = point(0, -0.05, kind.depth * 0.85), point(0, -0.15 - kind.beak, kind.depth + 0.3)
        body.limb([root, point(0, -0.15, kind.depth + 0.28), tip], [0.2, 0.13, 0.02], horn)
        body.keypoint("root of the beak", root + (0, 0.1, 0.12), 0.12)
        body.keypoint("tip of the beak", tip, 0.06)
    else:
        _add_muzzle(body, rng, kind, light, wide, drop)
    body.keypoint("forehead", on_ellipsoid(0, 0.62, radii), 0.05)
    if kind.ears != "none":
        for side, sign in (("left", 1.0), ("right", -1.0)):
            _add_ear(body, rng, kind, fur, side, sign)
    if kind.horns:
        bone = mottled((0.85, 0.78, 0.62), (0.4, 0.33, 0.25), 4.0, 0.3)
        for side, sign in (("left", 1.0), ("right", -1.0)):
            joints = [
                point(sign * 0.4, 0.8, -0.1),
                point(sign * (0.5 + kind.horns * 0.6), 1.0, 0.0),
                point(sign * (0.5 + kind.horns * 0.65), 1.0 + kind.horns * 0.6, 0.15),
            ]
            body.limb(joints, [0.17, 0.13, 0.03], bone)
            body.keypoint(f"tip of the {side} horn", joints[-1], 0.05)


def _add_muzzle(
    body: Body, rng: np.random.Generator, kind: AnimalFace, light: Material, wide: float, drop: float
) -> None:
    end = kind.depth + kind.muzzle - wide * 0.8
    tip = point(0, -drop, end)
    body.limb([point(0, -drop * 0.5, 0.25), tip], [wide * 1.25, wide], light)
    gape = max(0.0, rng.uniform(-0.2, 0.25))
    jaw = Frame.of(0, -drop - wide * 0.65, 0.25, pitch=gape * 50)
    long = end - 0.3
    body.limb([jaw.origin, jaw.at(0, 0, long)], [wide * 0.8, wide * 0.5], light)
    dark = plain((0.1, 0.08, 0.08) if kind.coat != "pig" else (0.7, 0.42, 0.4), 0.5)
    nose = tip + (0, wide * 0.55, wide * 0.7)
    body.ellipsoid(nose, np.diag((wide * 0.48, wide * 0.34, wide * 0.36)), dark)
    body.limb([nose - (0, wide * 0.2, -wide * 0.2), tip + (0, -wide * 0.35, wide * 0.93)], [0.02, 0.02], dark)
    body.keypoint("tip of the nose", nose + (0, 0, wide * 0.32), wide * 0.2)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        nostril = nose + (sign * wide * 0.26, -wide * 0.05, wide * 0.28)
        body.ball(nostril, wide * 0.09, _PUPIL)
        body.keypoint(f"{side} nostril", nostril, wide * 0.15)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        corner = point(sign * wide * 0.92, -drop - wide * 0.5, end - wide * 0.1)
        body.limb([tip + (sign * 0.02, -wide * 0.4, wide * 0.9), corner], [0.025, 0.025], dark)
        body.keypoint(f"{side} corner of the mouth", corner, wide * 0.25)
        if kind.whiskers:
            for lift in (-0.12, 0.0, 0.14):
                root = tip + (sign * wide * 0.7, lift * 0.5, wide * 0.55)
                body.limb([root, root + (sign * 0.75, lift * 2, -0.1)], [0.012, 0.008], _WHITE)
    body.keypoint("chin", jaw.at(0, -wide * 0.4, long + wide * 0.15), wide * 0.3)


def _add_ear(body: Body, rng: np.random.Generator, kind: AnimalFace, fur: Material, side: str, sign: float) -> None:
    long = kind.ear
    swing = float(rng.uniform(-12, 12))
    if kind.ears == "floppy":
        ear = Frame.of(sign * kind.width * 0.8, 0.55, -0.05, roll=sign * (140 + swing))
        wide, thick = long * 0.36, 0.1
    elif kind.ears == "round":
        ear = Frame.of(sign * kind.width * 0.72, 0.6, -0.15, roll=-sign * (42 + swing))
        wide, thick = long * 0.5, 0.12
    else:
        ear = Frame.of(sign * kind.width * 0.55, 0.72, -0.1, roll=-sign * (18 + swing))
        wide, thick = min(0.32, long * 0.36), 0.12
    if kind.ears == "pointed":
        body.limb(
            [ear.at(0, 0, 0), ear.at(0, long * 0.5, 0), ear.at(0, long, 0)], [wide, wide * 0.8, 0.05], fur, flatness=0.4
        )
        body.ellipsoid(
            ear.at(0, long * 0.42, wide * 0.32), ear.axes(wide * 0.55, long * 0.4, 0.06), plain((0.78, 0.52, 0.48))
        )
    else:
        body.ellipsoid(ear.at(0, long * 0.45, 0), ear.axes(wide, long * 0.55, thick), fur)
        if kind.ears == "round":
            inner = plain((0.7, 0.47, 0.43))
            body.ellipsoid(ear.at(0, long * 0.45, thick * 0.7), ear.axes(wide * 0.6, long * 0.36, thick * 0.5), inner)
    body.keypoint(f"base of the {side} ear", ear.at(0, 0.05, 0.1), 0.2)
    body.keypoint(f"tip of the {side} ear", ear.at(0, long, 0), 0.08)


_BONES = (
    *both_sides(
        ("outer corner of the {side} eye", "center of the {side} eye"),
        ("center of the {side} eye", "inner corner of the {side} eye"),
        ("outer end of the {side} eyebrow", "inner end of the {side} eyebrow"),
        ("inner corner of the {side} eye", "bridge of the nose"),
        ("tip of the nose", "{side} nostril"),
        ("{side} corner of the mouth", "middle of the upper lip"),
        ("{side} corner of the mouth", "middle of the lower lip"),
        ("{side} ear lobe", "outer corner of the {side} eye"),
        ("base of the {side} ear", "tip of the {side} ear"),
        ("base of the {side} ear", "outer corner of the {side} eye"),
        ("forehead", "tip of the {side} horn"),
        ("tip of the hat", "outer end of the {side} eyebrow"),
        ("inner corner of the {side} eye", "root of the beak"),
    ),
    *chain("bridge of the nose", "tip of the nose"),
    *chain("middle of the lower lip", "chin"),
    *chain("root of the beak", "tip of the beak"),
)

_ANIMAL_BONES = both_sides(
    ("outer corner of the {side} eye", "inner corner of the {side} eye"),
    ("inner corner of the {side} eye", "tip of the nose"),
    ("{side} nostril", "{side} corner of the mouth"),
    ("{side} corner of the mouth", "chin"),
    ("forehead", "inner corner of the {side} eye"),
)

_KINDS = {
    "cat": AnimalFace(width=1.0, muzzle=0.25, muzzle_width=0.34, eyes=0.45, eye=0.2, ear=0.8, whiskers=True,
                      coat="cat"),
    "dog": AnimalFace(width=0.85, muzzle=0.75, muzzle_width=0.38, eyes=0.38, eye=0.15, ears="floppy", ear=1.1,
                      coat="dog"),
    "fox": AnimalFace(width=0.95, muzzle=0.75, muzzle_width=0.24, eyes=0.42, eye=0.14, ear=0.95, coat="fox",
                      patch=1.25),
    "bear": AnimalFace(width=1.0, muzzle=0.5, muzzle_width=0.38, eyes=0.4, eye=0.11, ears="round", ear=0.55,
                       coat="brown"),
    "rabbit": AnimalFace(width=0.8, muzzle=0.3, muzzle_width=0.32, eyes=0.58, eye=0.17, ear=1.9, whiskers=True,
                         coat="cat"),
    "monkey": AnimalFace(width=0.9, muzzle=0.35, muzzle_width=0.5, muzzle_drop=0.5, eyes=0.3, eye=0.13, ears="round",
                         ear=0.65, coat="brown", patch=1.8),
    "cow": AnimalFace(width=0.75, muzzle=0.95, muzzle_width=0.42, muzzle_drop=0.55, eyes=0.6, eye=0.14, ears="floppy",
                      ear=0.8, horns=0.8, coat="cow", patch=1.2),
    "sheep": AnimalFace(width=0.85, muzzle=0.7, muzzle_width=0.34, muzzle_drop=0.5, eyes=0.55, eye=0.12, ears="floppy",
                        ear=0.75, coat="wool", patch=0.5),
    "pig": AnimalFace(width=0.95, muzzle=0.6, muzzle_width=0.4, eyes=0.45, eye=0.1, ears="pointed", ear=0.7, coat="pig",
                      patch=1.1),
    "tiger": AnimalFace(width=1.05, muzzle=0.45, muzzle_width=0.44, eyes=0.42, eye=0.13, ears="round", ear=0.55,
                        whiskers=True, coat="tiger", patch=1.5),
    "owl": AnimalFace(width=1.05, depth=0.8, eyes=0.42, eye=0.25, beak=0.3, ears="pointed", ear=0.45, coat="brown",
                      patch=1.7),
    "eagle": AnimalFace(width=0.72, depth=0.85, eyes=0.45, eye=0.13, beak=0.5, ears="none", coat="sand", patch=1.3),
}  # fmt: skip

_VIEW = Viewpoint(yaw=(-55, 55), pitch=(-15, 25), roll=(-25, 25))

SPECIES = (
    Species("human face", "face", build_human_face, _VIEW, _BONES),
    Species("clown face", "face", build_clown_face, _VIEW, _BONES),
    *(
        Species(f"{name} face", "face", partial(build_animal_face, kind=kind), _VIEW, _BONES + _ANIMAL_BONES)
        for name, kind in _KINDS.items()
    ),
)

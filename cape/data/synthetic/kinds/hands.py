"""Hands: a palm and jointed fingers, of people, gloves, robots and cartoons."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from cape.data.synthetic.camera import Viewpoint
from cape.data.synthetic.frames import Frame
from cape.data.synthetic.kinds.humans import SKIN
from cape.data.synthetic.materials import Material, any_colour, any_material, pick, plain, shade
from cape.data.synthetic.solids import Body
from cape.data.synthetic.species import Species, chain

FINGERS = ("thumb", "index finger", "middle finger", "ring finger", "little finger")


@dataclass(frozen=True, slots=True)
class Hand:
    """Proportions of a kind; the unit is the length of the palm.

    Attributes:
        fingers: which fingers it has, the thumb first.
        joints: joints of a finger between its root and its tip.
        length: of the longest finger; `radius` at its root.
        palm: half its width.
        made_of: skin, cloth or metal.
    """

    fingers: tuple[str, ...] = FINGERS
    joints: int = 2
    length: float = 1.0
    radius: float = 0.12
    palm: float = 0.42
    made_of: Literal["skin", "cloth", "metal", "leather"] = "skin"


_RELATIVE = {"thumb": 0.78, "index finger": 0.92, "middle finger": 1.0, "ring finger": 0.93, "little finger": 0.74}


def build_hand(body: Body, rng: np.random.Generator, *, kind: Hand) -> None:
    """Adds a left or a right hand: wrist at the origin, fingers along +y, palm to +z."""
    skin = _surface(kind, rng)
    nail = plain(shade(skin.colour, 1.25), 0.5)
    mirror = 1.0 if rng.random() < 0.5 else -1.0
    palm = kind.palm
    hand = Frame.of()
    if kind.made_of == "metal":
        body.box(hand.at(0, 0.5, 0), hand.axes(palm, 0.48, 0.14), skin)
    else:
        body.ellipsoid(hand.at(0, 0.5, 0), hand.axes(palm * 1.05, 0.62, 0.2), skin)
        body.limb([hand.at(-palm * 0.6, 0.92, 0), hand.at(palm * 0.6, 0.92, 0)], [0.15, 0.15], skin)
        body.ellipsoid(hand.at(mirror * palm * 0.55, 0.35, 0.06), hand.axes(0.2, 0.32, 0.2), skin)
    sleeve = any_material(rng, 2.0)
    body.limb([hand.at(0, 0.1, 0), hand.at(0, -0.35, 0)], [palm * 0.68, palm * 0.68], skin, flatness=0.7)
    body.tube(hand.at(0, -0.3, 0), hand.at(0, -0.75, 0), palm * 0.85, palm * 0.95, sleeve, flatness=0.75)
    body.keypoint("wrist", hand.at(0, 0.0, 0.1), 0.25)
    grip = rng.random() ** 1.5 * 80
    others = [finger for finger in kind.fingers if finger != "thumb"]
    for finger in kind.fingers:
        curl = float(np.clip(grip + rng.uniform(-25, 25), -5, 95))
        if finger == "thumb":
            root = hand.child(
                mirror * palm * 0.75, 0.25, 0.08, roll=-mirror * rng.uniform(25, 62), pitch=rng.uniform(0, 40)
            )
            curl *= 0.5
        else:
            place = others.index(finger) / max(1, len(others) - 1) * 2 - 1
            spread = place * rng.uniform(4, 14)
            root = hand.child(-mirror * place * palm * 0.75, 0.96, 0, roll=mirror * spread, pitch=curl * 0.7)
        _add_finger(body, kind, finger, root, curl, skin, nail)


def _surface(kind: Hand, rng: np.random.Generator) -> Material:
    if kind.made_of == "skin":
        return plain(pick(rng, SKIN), 0.15)
    if kind.made_of == "cloth":
        return any_material(rng, 2.5)
    if kind.made_of == "metal":
        return plain(any_colour(rng), 0.9)
    return plain(shade(pick(rng, ((0.45, 0.25, 0.12), (0.15, 0.13, 0.12), (0.7, 0.5, 0.2))), 1.0), 0.5)


def _add_finger(body: Body, kind: Hand, finger: str, root: Frame, curl: float, skin: Material, nail: Material) -> None:
    length = kind.length * _RELATIVE[finger]
    shares = (0.42, 0.32, 0.26) if kind.joints == 2 else (0.55, 0.45)
    frame, joints = root, [root.origin]
    for share in shares:
        end = frame.at(0, length * share, 0)
        joints.append(end)
        frame = Frame(end, frame.rotation).child(0, 0, 0, pitch=curl * 0.75)
    radii = np.linspace(kind.radius, kind.radius * 0.72, len(joints)).tolist()
    body.limb(joints, radii, skin)
    last = Frame(joints[-1], frame.rotation).child(0, 0, 0, pitch=-curl * 0.75)
    if kind.made_of == "skin":
        body.ellipsoid(last.at(0, 0, -radii[-1] * 0.75), last.axes(radii[-1] * 0.65, radii[-1], radii[-1] * 0.35), nail)
    words = (
        ("base of the", "first joint of the", "second joint of the")
        if kind.joints == 2
        else ("base of the", "joint of the")
    )
    for word, joint, radius in zip(words, joints, radii, strict=False):
        body.keypoint(f"{word} {finger}", joint, radius * 1.25)
    body.keypoint(f"tip of the {finger}", last.at(0, radii[-1] * 0.6, 0), radii[-1] * 1.1)


_BONES = tuple(
    bone
    for finger in FINGERS
    for bone in (
        *chain(
            "wrist",
            f"base of the {finger}",
            f"first joint of the {finger}",
            f"second joint of the {finger}",
            f"tip of the {finger}",
        ),
        *chain(f"base of the {finger}", f"joint of the {finger}", f"tip of the {finger}"),
    )
)

_FOUR = ("thumb", "index finger", "middle finger", "little finger")
_THREE = ("thumb", "index finger", "little finger")

_KINDS = {
    "human hand": Hand(),
    "glove": Hand(radius=0.16, length=0.95, palm=0.48, made_of="cloth"),
    "cartoon hand": Hand(fingers=_FOUR, joints=1, length=0.85, radius=0.2, palm=0.45, made_of="cloth"),
    "robot hand": Hand(fingers=_FOUR, length=1.2, radius=0.11, palm=0.4, made_of="metal"),
    "robot gripper": Hand(fingers=_THREE, joints=1, length=1.3, radius=0.13, palm=0.35, made_of="metal"),
    "baseball glove": Hand(length=0.7, radius=0.2, palm=0.6, joints=1, made_of="leather"),
}

SPECIES = tuple(
    Species(
        name,
        "hand",
        partial(build_hand, kind=kind),
        Viewpoint(yaw=(-60, 60) if name != "human hand" else (-180, 180), pitch=(-35, 35), roll=(-180, 180)),
        _BONES,
    )
    for name, kind in _KINDS.items()
)

"""Proportions of four-legged animals, and their heads: ears, horns, antlers, tusks, a trunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cape.data.synthetic.frames import Frame, Vector
from cape.data.synthetic.kinds.coats import Coat
from cape.data.synthetic.materials import Material, mottled, plain, shade
from cape.data.synthetic.solids import Body

_DARK = plain((0.06, 0.05, 0.05), 0.8)


@dataclass(frozen=True, slots=True)
class Quadruped:
    """Proportions of a kind; the unit is the distance between shoulders and hips.

    Attributes:
        leg: length of a leg; `leg_radius` at its top.
        girth: half the height of the trunk.
        neck: length; `neck_angle` above the horizontal in degrees; `neck_radius` at the shoulders.
        head: radius of the skull.
        snout: length beyond the skull; `snout_radius` relative to the skull.
        ears: their form; `ear` is their length.
        tail: length; `tail_radius` at its root; `tail_angle` above the horizontal; `tuft` at its tip.
        horns: what grows on the head; `horn` is its length.
        foot: what keypoints call its feet.
        coat: colours and pattern.
        hump, mane, trunk: what only some kinds have.
    """

    leg: float = 0.7
    leg_radius: float = 0.11
    girth: float = 0.27
    neck: float = 0.4
    neck_angle: float = 40.0
    neck_radius: float = 0.16
    head: float = 0.17
    snout: float = 0.2
    snout_radius: float = 0.55
    ears: Literal["pointed", "round", "floppy"] = "pointed"
    ear: float = 0.14
    tail: float = 0.6
    tail_radius: float = 0.04
    tail_angle: float = -40.0
    tuft: float = 0.0
    horns: Literal["none", "curved", "antlers", "nose", "tusks"] = "none"
    horn: float = 0.3
    foot: Literal["paw", "hoof", "foot"] = "paw"
    coat: Coat = "brown"
    hump: float = 0.0
    mane: float = 0.0
    trunk: float = 0.0


def add_head(body: Body, rng: np.random.Generator, kind: Quadruped, fur: Material, chest: Frame, girth: float) -> None:
    """Adds neck and head to the front of a trunk."""
    raised = kind.neck_angle + rng.uniform(-22, 18)
    neck = chest.child(0, girth * 0.45, girth * 0.45, pitch=-raised, yaw=rng.uniform(-15, 15))
    top = neck.at(0, 0, kind.neck)
    middle = neck.at(0, 0, kind.neck * 0.5)
    body.limb(
        [neck.at(0, -0.05, -0.1), middle, top],
        [kind.neck_radius * 1.15, kind.neck_radius * 0.85, kind.neck_radius * 0.68],
        fur,
    )
    if kind.mane:
        hair = mottled(shade(fur.colour, 0.5), shade(fur.colour, 0.3), 8.0)
        back = neck.along(0, 1, 0) * kind.neck_radius * 0.5
        body.limb([neck.origin + back, middle + back, top + back], [kind.mane] * 3, hair)
    head = Frame(top, neck.rotation).child(
        0, kind.head * 0.35, kind.head * 0.3, pitch=raised + rng.uniform(-15, 25), yaw=rng.uniform(-30, 30)
    )
    r, muzzle = kind.head, kind.head * kind.snout_radius
    body.ellipsoid(head.origin, head.axes(r * 0.88, r * 0.95, r * 1.1), fur)
    tip = head.at(0, -r * 0.35, r * 0.75 + kind.snout)
    body.limb([head.at(0, -r * 0.15, r * 0.3), tip], [r * 0.75, muzzle], fur)
    body.ellipsoid(
        head.at(0, -r * 0.3 + muzzle * 0.55, r * 0.75 + kind.snout + muzzle * 0.75),
        head.axes(muzzle * 0.5, muzzle * 0.4, muzzle * 0.4),
        _DARK,
    )
    for side, sign in (("left", 1.0), ("right", -1.0)):
        eye = head.at(sign * r * 0.66, r * 0.3, r * 0.66)
        body.ball(eye, r * 0.19, _DARK)
        body.keypoint(f"{side} eye", eye, r * 0.2)
    body.keypoint("nose", head.at(0, -r * 0.3 + muzzle * 0.55, r * 0.75 + kind.snout + muzzle), muzzle * 0.6)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        _add_ear(body, kind, fur, head, side, sign)
    body.keypoint("neck", middle, kind.neck_radius * 1.3)
    if kind.trunk:
        _add_trunk(body, rng, kind, fur, tip, head)
    bone = mottled((0.85, 0.8, 0.68), (0.45, 0.38, 0.3), 6.0, 0.3)
    if kind.horns == "nose":
        horn = head.at(0, r * 0.2 + kind.horn, r * 0.75 + kind.snout + kind.horn * 0.3)
        body.limb([head.at(0, -r * 0.1, r * 0.75 + kind.snout * 0.9), horn], [muzzle * 0.5, 0.01], bone)
        body.keypoint("tip of the horn", horn)
        return
    for side, sign in (("left", 1.0), ("right", -1.0)):
        _add_horn(body, kind, bone, head, side, sign)


def _add_ear(body: Body, kind: Quadruped, fur: Material, head: Frame, side: str, sign: float) -> None:
    r, long = kind.head, kind.ear
    if kind.ears == "floppy":
        ear = head.child(sign * r * 0.8, r * 0.6, -r * 0.1, roll=sign * 155)
    elif kind.ears == "round":
        ear = head.child(sign * r * 0.65, r * 0.65, -r * 0.1, roll=-sign * 40)
    else:
        ear = head.child(sign * r * 0.5, r * 0.65, -r * 0.15, roll=-sign * 22)
    wide = long * (0.5 if kind.ears == "round" else 0.3)
    body.ellipsoid(ear.at(0, long * 0.45, 0), ear.axes(wide, long * 0.6, long * 0.14), fur)
    if kind.ears != "floppy":
        inner = plain((0.75, 0.5, 0.47))
        body.ellipsoid(ear.at(0, long * 0.42, long * 0.09), ear.axes(wide * 0.65, long * 0.45, long * 0.1), inner)
    body.keypoint(f"tip of the {side} ear", ear.at(0, long, 0), long * 0.12)


def _add_horn(body: Body, kind: Quadruped, bone: Material, head: Frame, side: str, sign: float) -> None:
    r, long = kind.head, kind.horn
    if kind.horns == "curved":
        joints = [
            head.at(sign * r * 0.4, r * 0.75, 0),
            head.at(sign * (r * 0.6 + long * 0.55), r * 0.85 + long * 0.15, 0),
            head.at(sign * (r * 0.6 + long * 0.7), r * 0.9 + long * 0.8, long * 0.1),
        ]
        body.limb(joints, [r * 0.2, r * 0.16, r * 0.03], bone)
        body.keypoint(f"tip of the {side} horn", joints[-1], 0.01)
    elif kind.horns == "antlers":
        base, fork = (
            head.at(sign * r * 0.4, r * 0.75, -r * 0.1),
            head.at(sign * long * 0.45, r + long * 0.5, -long * 0.2),
        )
        tip = head.at(sign * long * 0.6, r + long, long * 0.1)
        body.limb([base, fork, tip], [r * 0.13, r * 0.1, r * 0.05], bone)
        body.limb([fork, head.at(sign * long * 0.2, r + long * 0.95, -long * 0.1)], [r * 0.1, r * 0.04], bone)
        body.limb(
            [(base + fork) / 2, head.at(sign * long * 0.35, r + long * 0.4, long * 0.3)], [r * 0.1, r * 0.04], bone
        )
        body.keypoint(f"tip of the {side} antler", tip, 0.02)
    elif kind.horns == "tusks":
        joints = [
            head.at(sign * r * 0.5, -r * 0.5, r * 0.6),
            head.at(sign * r * 0.6, -r * 0.9 - long * 0.4, r * 0.7 + long * 0.4),
            head.at(sign * r * 0.55, -r * 0.8 - long * 0.4, r * 0.8 + long),
        ]
        body.limb(joints, [r * 0.16, r * 0.13, r * 0.04], plain((0.92, 0.88, 0.78), 0.4))
        body.keypoint(f"tip of the {side} tusk", joints[-1], 0.02)


def _add_trunk(body: Body, rng: np.random.Generator, kind: Quadruped, fur: Material, tip: Vector, head: Frame) -> None:
    frame = Frame(tip, head.rotation).child(0, 0, 0, pitch=rng.uniform(40, 70))
    joints = [frame.origin]
    curl = rng.uniform(-18, 18)
    for _ in range(3):
        frame = frame.child(0, 0, kind.trunk / 3, pitch=curl)
        joints.append(frame.origin)
    body.limb(joints, np.linspace(kind.head * 0.45, kind.head * 0.2, 4).tolist(), fur)
    body.keypoint("tip of the trunk", joints[-1], kind.head * 0.25)

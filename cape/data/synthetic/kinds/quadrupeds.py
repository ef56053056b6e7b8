"""Four-legged animals: a trunk, a neck, a head with what makes the kind, four legs, a tail."""

from __future__ import annotations

from functools import partial

import numpy as np

from cape.data.synthetic.camera import Viewpoint
from cape.data.synthetic.frames import Frame, Vector, point
from cape.data.synthetic.kinds.coats import coat_material
from cape.data.synthetic.kinds.quadruped_heads import Quadruped, add_head
from cape.data.synthetic.materials import Material, plain, shade
from cape.data.synthetic.solids import Body
from cape.data.synthetic.species import Species, both_sides, chain


def build_quadruped(body: Body, rng: np.random.Generator, *, kind: Quadruped) -> None:
    """Adds one animal: trunk along z, shoulders at +z."""
    fur = coat_material(kind.coat, rng)
    dark = plain(shade(fur.colour, 0.45))
    girth = kind.girth * rng.uniform(0.9, 1.15)
    width = girth * rng.uniform(0.75, 0.9)
    chest, rump = Frame.of(0, 0, 0.5), Frame.of(0, 0, -0.5)
    body.ellipsoid(point(0, 0.0, 0), np.diag((width, girth, 0.66)), fur)
    body.ellipsoid(chest.at(0, -0.02, -0.05), np.diag((width * 0.95, girth * 1.05, girth * 1.05)), fur)
    body.ellipsoid(rump.at(0, 0.0, 0.05), np.diag((width * 0.95, girth, girth)), fur)
    if kind.hump:
        body.ellipsoid(point(0, girth * 0.8, 0), np.diag((width * 0.6, kind.hump, 0.28)), fur)
        body.keypoint("top of the hump", point(0, girth * 0.8 + kind.hump, 0))

    add_head(body, rng, kind, fur, chest, girth)
    stride = rng.uniform(5, 32)
    phases = rng.uniform(-1, 1, 4) * stride
    for index, side in enumerate(("left", "right")):
        sign = 1.0 if side == "left" else -1.0
        _add_leg(body, kind, fur, dark, ("shoulder", "elbow", "front"), sign, phases[index], (0.48, width, girth))
    for index, side in enumerate(("left", "right")):
        sign = 1.0 if side == "left" else -1.0
        _add_leg(body, kind, fur, dark, ("hip", "knee", "back"), sign, phases[2 + index], (-0.48, width, girth))
    _add_tail(body, rng, kind, fur, dark, girth)


def _add_leg(
    body: Body,
    kind: Quadruped,
    fur: Material,
    dark: Material,
    words: tuple[str, str, str],
    sign: float,
    swing: float,
    place: tuple[float, float, float],
) -> None:
    side = "left" if sign > 0 else "right"
    z, width, girth = place
    top = Frame.of(sign * width * 0.62, -girth * 0.25, z, pitch=-swing)
    # Elbows bend backwards and knees forwards; a leg in the air bends more.
    bend = (12 + max(0.0, swing) * 1.4) * (1 if words[2] == "front" else -1)
    upper, lower = kind.leg * 0.48, kind.leg * 0.52
    thigh = kind.leg_radius * (1.5 if words[2] == "back" else 1.2)
    first = top.child(0, 0, 0, pitch=bend * 0.8)
    joint = first.at(0, -upper, 0)
    second = Frame(joint, first.rotation).child(0, 0, 0, pitch=-bend * 1.3)
    foot = second.at(0, -lower, 0)
    body.limb([first.at(0, girth * 0.2, 0), joint, foot], [thigh, kind.leg_radius * 0.7, kind.leg_radius * 0.5], fur)
    long = kind.leg_radius * (0.75 if kind.foot == "paw" else 0.6)
    hoof = dark if kind.foot == "hoof" else fur
    body.ellipsoid(second.at(0, -lower, long * 0.5), second.axes(long * 0.85, long * 0.6, long * 1.3), hoof)
    body.keypoint(f"{side} {words[0]}", first.origin, thigh * 1.3)
    body.keypoint(f"{side} {words[1]}", joint, kind.leg_radius)
    body.keypoint(f"{side} {words[2]} {kind.foot}", second.at(0, -lower, long * 0.6), long)


def _add_tail(
    body: Body, rng: np.random.Generator, kind: Quadruped, fur: Material, dark: Material, girth: float
) -> None:
    root = Frame.of(
        0,
        girth * 0.55,
        -0.5 - girth * 0.75,
        pitch=180 + kind.tail_angle + rng.uniform(-20, 25),
        yaw=rng.uniform(-25, 25),
    )
    joints: list[Vector] = [root.origin]
    frame = root
    curl = rng.uniform(-25, 25)
    for _ in range(3):
        frame = frame.child(0, 0, kind.tail / 3, pitch=curl, yaw=rng.uniform(-12, 12))
        joints.append(frame.origin)
    thin = kind.tail_radius * (0.5 if kind.tuft == 0 else 0.7)
    body.limb(joints, np.linspace(kind.tail_radius, thin, 4).tolist(), fur)
    if kind.tuft:
        body.ellipsoid(frame.at(0, 0, 0), frame.axes(kind.tuft * 0.6, kind.tuft * 0.6, kind.tuft * 1.4), dark)
    body.keypoint("root of the tail", joints[0], kind.tail_radius * 1.6)
    body.keypoint("tip of the tail", joints[-1], max(kind.tuft, kind.tail_radius))


_BONES = (
    *both_sides(
        ("{side} eye", "nose"),
        ("{side} eye", "tip of the {side} ear"),
        ("{side} eye", "tip of the {side} horn"),
        ("{side} eye", "tip of the {side} antler"),
        ("nose", "tip of the {side} tusk"),
        ("neck", "{side} shoulder"),
        ("{side} shoulder", "{side} elbow"),
        *((("{side} elbow", "{side} front " + foot)) for foot in ("paw", "hoof", "foot")),
        ("root of the tail", "{side} hip"),
        ("{side} hip", "{side} knee"),
        *((("{side} knee", "{side} back " + foot)) for foot in ("paw", "hoof", "foot")),
    ),
    *chain("left eye", "right eye"),
    *chain("nose", "neck", "root of the tail", "tip of the tail"),
    ("nose", "tip of the trunk"),
    ("nose", "tip of the horn"),
    ("neck", "top of the hump"),
    ("top of the hump", "root of the tail"),
)

_KINDS = {
    "cat": Quadruped(leg=0.5, leg_radius=0.085, girth=0.22, neck=0.2, head=0.19, snout=0.06, neck_radius=0.15, ear=0.2,
                     tail=0.85, tail_radius=0.05, tail_angle=20, coat="cat"),
    "dog": Quadruped(leg=0.62, leg_radius=0.09, girth=0.24, neck=0.3, head=0.18, snout=0.2, ears="floppy", ear=0.26,
                     tail=0.5, tail_radius=0.045, tail_angle=35, coat="dog"),
    "fox": Quadruped(leg=0.5, leg_radius=0.075, girth=0.2, neck=0.25, head=0.17, snout=0.2, snout_radius=0.3, ear=0.24,
                     tail=0.7, tail_radius=0.11, tail_angle=-15, tuft=0.11, coat="fox"),
    "wolf": Quadruped(leg=0.7, leg_radius=0.09, girth=0.26, neck=0.3, neck_angle=20, head=0.18, snout=0.24,
                      snout_radius=0.4, ear=0.19, tail=0.6, tail_radius=0.08, tail_angle=-55, coat="grey"),
    "lion": Quadruped(leg=0.58, girth=0.26, neck=0.25, head=0.22, snout=0.13, ears="round", ear=0.13, tail=0.9,
                      tuft=0.07, tail_radius=0.035, mane=0.27, coat="sand"),
    "tiger": Quadruped(leg=0.56, girth=0.27, neck=0.25, neck_angle=15, head=0.21, snout=0.1, ears="round", ear=0.12,
                       tail=0.9, tail_radius=0.045, coat="tiger"),
    "bear": Quadruped(leg=0.55, leg_radius=0.16, girth=0.38, neck=0.25, neck_angle=10, neck_radius=0.26, head=0.25,
                      snout=0.16, ears="round", ear=0.12, tail=0.12, tail_radius=0.05, coat="brown"),
    "rabbit": Quadruped(leg=0.32, leg_radius=0.1, girth=0.32, neck=0.12, neck_radius=0.2, head=0.24, snout=0.08,
                        ear=0.55, tail=0.1, tail_radius=0.11, tail_angle=30, coat="cat"),
    "horse": Quadruped(leg=0.95, leg_radius=0.095, girth=0.29, neck=0.58, neck_angle=48, neck_radius=0.2, head=0.17,
                       snout=0.32, ear=0.15, tail=0.75, tail_radius=0.06, tail_angle=-65, tuft=0.13, mane=0.1,
                       foot="hoof", coat="horse"),
    "zebra": Quadruped(leg=0.85, leg_radius=0.09, girth=0.3, neck=0.5, neck_angle=42, neck_radius=0.19, head=0.17,
                       snout=0.28, ears="round", ear=0.16, tail=0.5, tail_radius=0.03, tuft=0.06, tail_angle=-65,
                       mane=0.08, foot="hoof", coat="zebra"),
    "cow": Quadruped(leg=0.62, leg_radius=0.1, girth=0.36, neck=0.35, neck_angle=18, neck_radius=0.22, head=0.2,
                     snout=0.24, snout_radius=0.68, ears="floppy", ear=0.2, tail=0.65, tail_radius=0.03, tuft=0.06,
                     tail_angle=-75, horns="curved", horn=0.22, foot="hoof", coat="cow"),
    "sheep": Quadruped(leg=0.45, leg_radius=0.07, girth=0.4, neck=0.25, neck_angle=25, neck_radius=0.22, head=0.17,
                       snout=0.15, ears="floppy", ear=0.17, tail=0.18, tail_radius=0.07, foot="hoof", coat="wool"),
    "deer": Quadruped(leg=0.9, leg_radius=0.075, girth=0.24, neck=0.48, neck_angle=55, neck_radius=0.14, head=0.15,
                      snout=0.2, snout_radius=0.4, ear=0.2, tail=0.15, tail_radius=0.05, horns="antlers", horn=0.55,
                      foot="hoof", coat="deer"),
    "giraffe": Quadruped(leg=1.25, leg_radius=0.1, girth=0.3, neck=1.35, neck_angle=68, neck_radius=0.2, head=0.15,
                         snout=0.22, ear=0.16, tail=0.55, tail_radius=0.03, tuft=0.06, tail_angle=-70, foot="hoof",
                         coat="giraffe"),
    "elephant": Quadruped(leg=0.72, leg_radius=0.18, girth=0.46, neck=0.22, neck_angle=15, neck_radius=0.3, head=0.3,
                          snout=0.08, ears="round", ear=0.5, tail=0.5, tail_radius=0.035, tail_angle=-75, horns="tusks",
                          horn=0.3, trunk=0.85, foot="foot", coat="grey"),
    "camel": Quadruped(leg=0.95, leg_radius=0.09, girth=0.3, neck=0.65, neck_angle=35, neck_radius=0.15, head=0.15,
                       snout=0.22, ears="round", ear=0.1, tail=0.4, tail_radius=0.03, tuft=0.05, tail_angle=-70,
                       hump=0.3, foot="foot", coat="sand"),
    "rhinoceros": Quadruped(leg=0.5, leg_radius=0.16, girth=0.4, neck=0.3, neck_angle=-5, neck_radius=0.28, head=0.24,
                            snout=0.3, ear=0.14, tail=0.35, tail_radius=0.03, tail_angle=-70, horns="nose", horn=0.25,
                            foot="foot", coat="grey"),
    "pig": Quadruped(leg=0.36, leg_radius=0.1, girth=0.36, neck=0.2, neck_angle=5, neck_radius=0.27, head=0.23,
                     snout=0.2, snout_radius=0.55, ears="pointed", ear=0.2, tail=0.25, tail_radius=0.025, tail_angle=20,
                     foot="hoof", coat="pig"),
}  # fmt: skip

SPECIES = tuple(
    Species(
        f"{name} body",
        "animal body",
        partial(build_quadruped, kind=kind),
        Viewpoint(yaw=(10, 150), pitch=(-5, 22), mirror=True),
        _BONES,
    )
    for name, kind in _KINDS.items()
)

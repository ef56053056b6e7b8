"""Faces of people, seen close: eyes, brows, nose, lips, ears, and what some wear."""
# ruff: noqa: RUF005 — vectors are moved by adding tuples to them

from __future__ import annotations

import numpy as np

from cape.data.synthetic.frames import Frame, Vector, point
from cape.data.synthetic.kinds.humans import HAIR, SKIN
from cape.data.synthetic.materials import Colour, Material, any_colour, any_material, mottled, pick, plain, shade
from cape.data.synthetic.solids import Body

_IRIS: tuple[Colour, ...] = ((0.25, 0.15, 0.08), (0.25, 0.4, 0.55), (0.3, 0.42, 0.22), (0.1, 0.07, 0.05))
_PUPIL = plain((0.03, 0.03, 0.03), 0.9)
_WHITE = plain((0.93, 0.92, 0.9), 0.4)


def on_ellipsoid(x: float, y: float, radii: tuple[float, float, float], lift: float = 0.0) -> Vector:
    """The point of an ellipsoid's front at x and y."""
    wide, high, deep = radii
    return point(x, y, deep * max(0.0, 1 - (x / wide) ** 2 - (y / high) ** 2) ** 0.5 + lift)


def _add_eye(body: Body, at: Vector, radius: float, iris: Material, gaze: float) -> None:
    body.ellipsoid(at, np.diag((radius, radius * 0.72, radius * 0.6)), _WHITE)
    body.ellipsoid(at + (gaze, 0, radius * 0.36), np.diag((radius * 0.5, radius * 0.55, radius * 0.3)), iris)
    body.ellipsoid(at + (gaze, 0, radius * 0.52), np.diag((radius * 0.26, radius * 0.28, radius * 0.2)), _PUPIL)


def build_human_face(body: Body, rng: np.random.Generator) -> None:
    """Adds a person's head: its middle at the origin, 1 from there to the crown, facing +z."""
    skin = plain(pick(rng, SKIN), 0.15)
    radii = wide, _, _ = (float(rng.uniform(0.68, 0.8)), 1.0, 0.85)
    colour = pick(rng, HAIR)
    hair = mottled(colour, shade(colour, 0.55), 6.0, 0.2)
    body.ellipsoid(point(0, 0, 0), np.diag(radii), skin)
    body.ellipsoid(point(0, -0.45, 0.08), np.diag((wide * 0.78, 0.58, 0.66)), skin)
    body.limb([point(0, -0.6, -0.2), point(0, -1.35, -0.3)], [0.4, 0.45], skin)
    tilt = Frame.of(0, 0.1, -0.12, pitch=-rng.uniform(66, 92))
    body.ellipsoid(tilt.origin, tilt.axes(wide * 1.1, 0.98, 1.02), hair, low=0.05, high=1.0)
    if rng.random() < 0.4:
        for sign in (1.0, -1.0):
            strand = [point(sign * wide * 0.9, 0.3, -0.2), point(sign * (wide + 0.05), -0.9, -0.25)]
            body.limb(strand, [0.22, 0.26], hair)
    iris, gaze = plain(pick(rng, _IRIS, 0.03), 0.5), float(rng.uniform(-0.03, 0.03))
    brow_lift, smile, gape = rng.uniform(-0.03, 0.06), rng.uniform(-0.06, 0.1), max(0.0, rng.uniform(-0.12, 0.16))
    lips = plain(_lip_colour(skin.colour, rng))
    for side, sign in (("left", 1.0), ("right", -1.0)):
        eye = on_ellipsoid(sign * 0.29, 0.1, radii, -0.06)
        _add_eye(body, eye, 0.145, iris, gaze)
        body.limb(
            [
                on_ellipsoid(sign * 0.17, 0.17, radii, 0.02),
                on_ellipsoid(sign * 0.29, 0.21, radii, 0.02),
                on_ellipsoid(sign * 0.43, 0.16, radii, 0.01),
            ],
            [0.02, 0.035, 0.02],
            skin,
        )
        brows = [
            on_ellipsoid(sign * x, y + brow_lift, radii, 0.0) for x, y in ((0.13, 0.31), (0.3, 0.37), (0.46, 0.29))
        ]
        body.limb(brows, [0.045, 0.045, 0.025], hair)
        body.keypoint(f"outer corner of the {side} eye", on_ellipsoid(sign * 0.42, 0.09, radii), 0.08)
        body.keypoint(f"center of the {side} eye", eye + (0, 0, 0.08), 0.1)
        body.keypoint(f"inner corner of the {side} eye", on_ellipsoid(sign * 0.16, 0.08, radii), 0.08)
        body.keypoint(f"outer end of the {side} eyebrow", brows[2], 0.05)
        body.keypoint(f"inner end of the {side} eyebrow", brows[0], 0.05)
    tip = on_ellipsoid(0, -0.22, radii, 0.2)
    body.limb([on_ellipsoid(0, 0.12, radii, -0.04), tip], [0.07, 0.1], skin)
    body.keypoint("bridge of the nose", on_ellipsoid(0, 0.1, radii, 0.03), 0.06)
    body.keypoint("tip of the nose", tip + (0, 0, 0.09), 0.06)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        body.ellipsoid(tip + (sign * 0.1, -0.03, -0.1), np.diag((0.075, 0.07, 0.09)), skin)
        body.ball(tip + (sign * 0.06, -0.09, -0.02), 0.03, plain(shade(skin.colour, 0.35)))
        body.keypoint(f"{side} nostril", tip + (sign * 0.06, -0.09, 0.0), 0.05)
    front = float(on_ellipsoid(0, -0.5, radii)[2]) + 0.09
    corners = {sign: point(sign * 0.24, -0.5 + smile, front - 0.13) for sign in (1.0, -1.0)}
    upper, lower = point(0, -0.465, front), point(0, -0.53 - gape, front - 0.02)
    if gape:
        body.ellipsoid(point(0, -0.5 - gape / 2, front - 0.07), np.diag((0.2, 0.05 + gape / 2, 0.06)), _PUPIL)
    body.limb([corners[1.0], upper, corners[-1.0]], [0.02, 0.045, 0.02], lips)
    body.limb([corners[1.0], lower, corners[-1.0]], [0.02, 0.055, 0.02], lips)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        body.keypoint(f"{side} corner of the mouth", corners[sign], 0.06)
    body.keypoint("middle of the upper lip", upper + (0, 0, 0.03), 0.05)
    body.keypoint("middle of the lower lip", lower + (0, 0, 0.03), 0.05)
    body.keypoint("chin", point(0, -0.95 - gape * 0.2, 0.45), 0.1)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        ear = point(sign * wide * 1.0, 0.0, -0.08)
        body.ellipsoid(ear, np.diag((0.08, 0.24, 0.15)), skin)
        body.keypoint(f"{side} ear lobe", ear + (0, -0.2, 0.03), 0.08)
    if rng.random() < 0.25:
        _add_beard(body, hair, radii)
    if rng.random() < 0.2:
        _add_spectacles(body, rng, radii)


def _lip_colour(colour: Colour, rng: np.random.Generator) -> Colour:
    """The colour of lips on this skin."""
    red, green, blue = shade(colour, 0.85)
    return red, green * float(rng.uniform(0.5, 0.8)), blue * float(rng.uniform(0.6, 0.9))


def _add_beard(body: Body, hair: Material, radii: tuple[float, float, float]) -> None:
    body.ellipsoid(point(0, -0.78, 0.14), np.diag((radii[0] * 0.72, 0.34, 0.6)), hair)


def _add_spectacles(body: Body, rng: np.random.Generator, radii: tuple[float, float, float]) -> None:
    frame = plain(shade(any_colour(rng), 0.5), 0.7)
    z = radii[2] + 0.1
    angles = np.linspace(0, 2 * np.pi, 9)
    for sign in (1.0, -1.0):
        ring = [point(sign * 0.3 + 0.2 * np.cos(angle), 0.09 + 0.17 * np.sin(angle), z) for angle in angles]
        body.limb(ring, [0.02] * 9, frame)
        body.limb([point(sign * 0.5, 0.12, z), point(sign * radii[0], 0.1, 0)], [0.02, 0.02], frame)
    body.limb([point(-0.1, 0.12, z), point(0.1, 0.12, z)], [0.02, 0.02], frame)


def build_clown_face(body: Body, rng: np.random.Generator) -> None:
    """Adds a clown's head: a person's features in loud colours, round nose and tufts of hair."""
    build_human_face(body, rng)
    red = plain((0.85, 0.1, 0.1), 0.6)
    body.ball(body.keypoints["tip of the nose"][0] - (0, 0, 0.12), 0.2, red)
    where, _ = body.keypoints["tip of the nose"]
    body.keypoint("tip of the nose", where + (0, 0, 0.06), 0.1)
    tuft = mottled(any_colour(rng), any_colour(rng), 4.0)
    for sign in (1.0, -1.0):
        body.ball(point(sign * 0.85, 0.45, -0.15), 0.42, tuft)
    hat = any_material(rng, 2.0)
    body.limb([point(0, 0.85, -0.1), point(0, 1.75, -0.15)], [0.42, 0.04], hat)
    body.keypoint("tip of the hat", point(0, 1.75, -0.12), 0.06)

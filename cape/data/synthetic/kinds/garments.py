"""Garments, laid out or hung up; left and right as of who wears them."""
# ruff: noqa: RUF005 — vectors are moved by adding tuples to them

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from cape.data.synthetic.camera import Viewpoint
from cape.data.synthetic.frames import Frame, Vector, point
from cape.data.synthetic.kinds.shapes import SIDES
from cape.data.synthetic.materials import Material, any_material, plain, shade
from cape.data.synthetic.solids import Body
from cape.data.synthetic.species import Species, both_sides

_THIN = 0.3
"""Depth of a garment over its width."""


_ARMHOLE = 0.17
"""Half the width of a sleeve at the shoulder."""


@dataclass(frozen=True, slots=True)
class Top:
    """Proportions of what is worn on the upper body; the unit is its length without a skirt.

    Attributes:
        width: half of it at the chest; `hem` at the hem.
        length: from the shoulders to the hem.
        sleeve: length of a sleeve; 0 for none; `cuff` is half its width at the end.
        collar: half the width of the neck.
        hood: whether it has one.
        waist: half the width at the waist, where a skirt begins; 0 for none.
        open: whether it buttons up the front.
    """

    width: float = 0.36
    hem: float = 0.36
    length: float = 1.0
    sleeve: float = 0.38
    cuff: float = 0.13
    collar: float = 0.15
    hood: bool = False
    waist: float = 0.0
    open: bool = False


def build_top(body: Body, rng: np.random.Generator, *, kind: Top) -> None:
    """Adds a garment of the upper body: shoulders at y = 0, front to +z."""
    cloth = any_material(rng, 3.0)
    trim = plain(shade(cloth.colour, float(rng.uniform(0.5, 1.4))))
    wide, hem = kind.width * rng.uniform(0.9, 1.15), kind.hem * rng.uniform(0.9, 1.15)
    long = kind.length * rng.uniform(0.9, 1.1)
    chest = point(0, -0.26, 0) if kind.sleeve else point(0, -0.4, 0)
    _add_yoke(body, kind, cloth, wide, chest)
    lean = float(rng.uniform(-0.06, 0.06))
    end = point(lean, -long, 0)
    if kind.waist:
        waist = point(lean * 0.4, -0.52, 0)
        body.tube(chest, waist, wide, kind.waist, cloth, flatness=_THIN)
        body.tube(waist, end, kind.waist, hem, cloth, flatness=_THIN * 1.4)
        for side, x in SIDES:
            body.keypoint(f"{side} end of the waist", waist + (x * kind.waist, 0, 0), 0.05)
    else:
        body.tube(chest, end, wide, hem, cloth, flatness=_THIN)
    body.limb([end + (hem, 0.01, 0), end + (0, 0.01, hem * _THIN), end + (-hem, 0.01, 0)], [0.012] * 3, trim)
    if kind.open:
        front = wide * _THIN + 0.012
        body.limb(
            [point(0, -0.06, kind.collar * _THIN), chest + (0, 0, front), end + (0, 0, hem * _THIN)], [0.014] * 3, trim
        )
        for height in np.linspace(-0.2, -long + 0.1, 5).tolist():
            body.ball(point(lean * -height / long, height, front), 0.022, plain((0.92, 0.9, 0.85), 0.5))
    if kind.hood:
        body.ellipsoid(point(0, 0.14, -0.05), np.diag((0.2, 0.24, 0.13)), cloth)
        body.ellipsoid(point(0, 0.1, 0.05), np.diag((0.14, 0.17, 0.07)), plain(shade(cloth.colour, 0.4)))
        body.keypoint("top of the hood", point(0, 0.38, -0.05), 0.05)
    depth = 0.09 if kind.sleeve else 0.19
    ring = [point(x * kind.collar, -0.01 - (1 - abs(x)) * depth, (1 - abs(x)) * 0.12) for x in (1, 0.6, 0, -0.6, -1)]
    body.limb(ring, [0.022] * 5, trim)
    for side, x in SIDES:
        body.keypoint(f"{side} end of the collar", point(x * kind.collar, -0.01, 0.01), 0.05)
    body.keypoint("middle of the collar", ring[2], 0.06)
    body.keypoint("middle of the hem", end + (0, 0, hem * _THIN), 0.04)
    for side, x in SIDES:
        shoulder = point(x * wide * 0.92, -0.085, 0.02) if kind.sleeve else point(x * kind.collar * 1.4, -0.02, 0.02)
        body.keypoint(f"{side} shoulder", shoulder, 0.09)
        body.keypoint(f"{side} armpit", point(x * wide, -0.4, 0.02), 0.1)
        body.keypoint(f"{side} end of the hem", end + (x * hem, 0.01, 0), 0.05)
        if kind.sleeve:
            sleeve = Frame.of(x * wide * 0.8, -0.18, 0, roll=x * rng.uniform(12, 80), pitch=rng.uniform(-15, 15))
            elbow = sleeve.child(0, -kind.sleeve * 0.5, 0, roll=-x * rng.uniform(0, 45) * (kind.sleeve > 0.6))
            last = elbow.at(0, -kind.sleeve * 0.5, 0)
            body.limb([sleeve.origin, elbow.origin], [_ARMHOLE, (_ARMHOLE + kind.cuff) / 2], cloth, flatness=0.45)
            body.tube(elbow.origin, last, (_ARMHOLE + kind.cuff) / 2, kind.cuff, cloth, flatness=0.45)
            body.tube(
                elbow.at(0, -kind.sleeve * 0.46, 0), last, kind.cuff * 1.04, kind.cuff * 1.04, trim, flatness=0.45
            )
            body.keypoint(f"outer end of the {side} cuff", last + elbow.along(x * kind.cuff, 0, 0), 0.06)
            body.keypoint(f"inner end of the {side} cuff", last - elbow.along(x * kind.cuff, 0, 0), 0.06)


def _add_yoke(body: Body, kind: Top, cloth: Material, wide: float, chest: Vector) -> None:
    """What lies above the chest: shoulders for sleeves, or two straps."""
    neck = kind.collar
    if kind.sleeve:
        edge = point(0, -0.1, 0)
        body.tube(point(0, -0.02, 0), edge, neck * 1.15, wide * 0.97, cloth, flatness=_THIN)
        body.tube(edge, chest, wide * 0.97, wide, cloth, flatness=_THIN)
        return
    body.tube(point(0, -0.19, 0), chest, neck * 1.75, wide, cloth, flatness=_THIN)
    for _, x in SIDES:
        for z in (1.0, -1.0):
            foot = point(x * neck * 1.35, -0.22, z * neck * _THIN)
            body.limb([point(x * neck * 1.2, -0.02, 0), foot], [0.05, 0.06], cloth, flatness=0.4)


def build_trousers(body: Body, rng: np.random.Generator, *, long: float, flare: float) -> None:
    """Adds trousers: waist at y = 0, front to +z."""
    cloth = any_material(rng, 3.0)
    belt = plain(shade(cloth.colour, float(rng.uniform(0.4, 1.3))), 0.3)
    waist, hip = 0.28 * rng.uniform(0.9, 1.1), 0.33 * rng.uniform(0.9, 1.1)
    body.tube(point(0, 0, 0), point(0, -0.3, 0), waist, hip, cloth, flatness=0.4)
    body.tube(point(0, 0, 0), point(0, -0.06, 0), waist * 1.03, waist * 1.06, belt, flatness=0.42)
    crotch = point(0, -0.46, 0.06)
    for side, x in SIDES:
        body.keypoint(f"{side} end of the waist", point(x * waist, -0.01, 0), 0.05)
    body.keypoint("middle of the waist", point(0, -0.02, waist * 0.42), 0.05)
    body.keypoint("crotch", crotch, 0.16)
    for side, x in SIDES:
        leg = Frame.of(x * hip * 0.5, -0.3, 0, roll=x * rng.uniform(1, 16), pitch=rng.uniform(-12, 12))
        knee = leg.child(0, -long * 0.5, 0, roll=-x * rng.uniform(0, 12), pitch=rng.uniform(0, 20))
        last = knee.at(0, -long * 0.5, 0)
        body.limb([leg.at(0, 0.02, 0), knee.origin], [hip * 0.53, hip * 0.42 * (1 + flare) / 1.2], cloth, flatness=0.6)
        cuff = hip * 0.4 * (1 + flare)
        body.tube(knee.origin, last, hip * 0.42 * (1 + flare) / 1.2, cuff, cloth, flatness=0.6)
        body.keypoint(f"outer end of the {side} leg hem", last + knee.along(x * cuff, 0, 0), 0.06)
        body.keypoint(f"inner end of the {side} leg hem", last - knee.along(x * cuff, 0, 0), 0.06)


def build_skirt(body: Body, rng: np.random.Generator) -> None:
    """Adds a skirt: waist at y = 0, front to +z."""
    cloth = any_material(rng, 3.0)
    belt = plain(shade(cloth.colour, float(rng.uniform(0.4, 1.3))), 0.3)
    waist, hem, long = rng.uniform(0.24, 0.3), rng.uniform(0.35, 0.65), rng.uniform(0.5, 0.95)
    end = point(rng.uniform(-0.08, 0.08), -long, 0)
    body.tube(point(0, 0, 0), end, waist, hem, cloth, flatness=0.45)
    body.tube(point(0, 0, 0), point(0, -0.07, 0), waist * 1.05, waist * 1.14, belt, flatness=0.45)
    for side, x in SIDES:
        body.keypoint(f"{side} end of the waist", point(x * waist, 0, 0), 0.05)
        body.keypoint(f"{side} end of the hem", end + (x * hem, 0, 0), 0.05)
    body.keypoint("middle of the waist", point(0, -0.01, waist * 0.46), 0.05)
    body.keypoint("middle of the hem", end + (0, 0, hem * 0.45), 0.05)


_BONES = (
    *both_sides(
        ("middle of the collar", "{side} end of the collar"),
        ("{side} end of the collar", "{side} shoulder"),
        ("{side} shoulder", "outer end of the {side} cuff"),
        ("outer end of the {side} cuff", "inner end of the {side} cuff"),
        ("inner end of the {side} cuff", "{side} armpit"),
        ("{side} armpit", "{side} end of the hem"),
        ("{side} armpit", "{side} end of the waist"),
        ("{side} end of the hem", "middle of the hem"),
        ("{side} end of the waist", "middle of the waist"),
        ("{side} end of the waist", "{side} end of the hem"),
        ("{side} end of the waist", "outer end of the {side} leg hem"),
        ("outer end of the {side} leg hem", "inner end of the {side} leg hem"),
        ("inner end of the {side} leg hem", "crotch"),
        ("top of the hood", "{side} end of the collar"),
    ),
)

_VIEW = Viewpoint(yaw=(-45, 45), pitch=(-15, 25), roll=(-40, 40))

_TOPS = {
    "T-shirt": Top(),
    "long-sleeved shirt": Top(sleeve=0.85, cuff=0.08, open=True),
    "tank top": Top(width=0.3, hem=0.33, sleeve=0.0, collar=0.18),
    "hooded jacket": Top(width=0.38, hem=0.35, sleeve=0.85, cuff=0.1, hood=True, open=True),
    "short dress": Top(width=0.29, hem=0.55, length=1.35, sleeve=0.25, cuff=0.12, waist=0.23),
    "evening dress": Top(width=0.27, hem=0.5, length=1.9, sleeve=0.0, collar=0.17, waist=0.22),
    "coat": Top(width=0.38, hem=0.5, length=1.5, sleeve=0.85, cuff=0.13, open=True),
}

SPECIES = (
    *(Species(name, "garment", partial(build_top, kind=kind), _VIEW, _BONES) for name, kind in _TOPS.items()),
    Species("trousers", "garment", partial(build_trousers, long=1.1, flare=0.0), _VIEW, _BONES),
    Species("shorts", "garment", partial(build_trousers, long=0.4, flare=0.35), _VIEW, _BONES),
    Species("skirt", "garment", build_skirt, _VIEW, _BONES),
)

"""Vehicles: with four wheels, with two, in the air, on the water; left and right as of their driver."""
# ruff: noqa: RUF005 — vectors are moved by adding tuples to them

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from cape.data.synthetic.camera import Viewpoint
from cape.data.synthetic.frames import Frame, point
from cape.data.synthetic.kinds.shapes import ENDS, SIDES, hoop, metal, prism, wheel
from cape.data.synthetic.materials import any_colour, any_material, plain
from cape.data.synthetic.solids import Body
from cape.data.synthetic.species import Species, both_sides, chain

_GLASS = plain((0.2, 0.26, 0.3), 0.9)


@dataclass(frozen=True, slots=True)
class Car:
    """Proportions of what drives on four wheels; the unit is half its length.

    Attributes:
        width: half of it.
        deck: height of the bonnet above the ground; `roof` of the roof.
        front: z where the windscreen meets the bonnet; `back` where the cabin ends.
        slope: how far the roof is shorter than the cabin at its front and its back.
        wheel: radius of a wheel.
        bed: whether the part behind the cabin is an open box.
    """

    width: float = 0.42
    deck: float = 0.45
    roof: float = 0.75
    front: float = 0.35
    back: float = -0.75
    slope: tuple[float, float] = (0.35, 0.25)
    wheel: float = 0.17
    bed: bool = False


def build_car(body: Body, rng: np.random.Generator, *, kind: Car) -> None:
    """Adds a vehicle: wheels on y = 0, front to +z."""
    paint = plain(any_colour(rng), float(rng.uniform(0.3, 0.9)))
    second = paint if rng.random() < 0.7 else plain(any_colour(rng), 0.5)
    wide, deck, roof = kind.width, kind.deck * rng.uniform(0.93, 1.07), kind.roof * rng.uniform(0.95, 1.07)
    low = kind.wheel * 0.8
    frame = Frame.of()
    nose = min(1.0, kind.front + 0.02) if kind.front > 0.9 else 1.0
    hull = [
        (-1.0, low, wide),
        (-1.0, deck * 0.96, wide),
        (kind.front, deck, wide),
        (nose, deck * 0.9, wide),
        (nose, low, wide),
    ]
    prism(body, frame, hull, paint)
    top = wide * 0.86
    ahead, behind = kind.front - kind.slope[0], kind.back + kind.slope[1]
    cabin = [(kind.back, deck, wide * 0.99), (behind, roof, top), (ahead, roof, top), (kind.front, deck, wide * 0.99)]
    prism(body, frame, cabin, _GLASS)
    body.box(point(0, roof, (ahead + behind) / 2), np.diag((top * 1.01, 0.025, (ahead - behind) / 2 + 0.02)), second)
    for post in (0.08, 0.5, 0.92):
        lower, upper = kind.back + post * (kind.front - kind.back), behind + post * (ahead - behind)
        for _, x in SIDES:
            body.limb([point(x * wide, deck, lower), point(x * top, roof, upper)], [0.025, 0.025], second)
    if kind.bed:
        for _, x in SIDES:
            body.box(
                point(x * wide * 0.96, deck + 0.08, (kind.back - 1) / 2),
                np.diag((0.03, 0.1, (kind.back + 1) / 2)),
                paint,
            )
    lamp, red = plain((0.95, 0.93, 0.8), 0.9), plain((0.75, 0.08, 0.06), 0.8)
    for end, z in ENDS:
        for side, x in SIDES:
            centre = point(x * wide * 0.92, kind.wheel, z * 0.6)
            wheel(body, centre, kind.wheel, 0.08, rng)
            body.keypoint(
                f"center of the {end} {side} wheel", point(x * (wide * 0.92 + 0.085), kind.wheel, z * 0.6), 0.03
            )
    for side, x in SIDES:
        at = point(x * wide * 0.72, (low + deck) * 0.58, nose)
        body.ellipsoid(at, np.diag((0.09, 0.06, 0.03)), lamp)
        body.keypoint(f"{side} headlight", at, 0.04)
    for side, x in SIDES:
        at = point(x * wide * 0.8, (low + deck) * 0.62, -1.0)
        body.ellipsoid(at, np.diag((0.07, 0.06, 0.03)), red)
        body.keypoint(f"{side} tail light", at, 0.04)
    for end, z in (("front", ahead), ("back", behind)):
        for side, x in SIDES:
            body.keypoint(f"{end} {side} corner of the roof", point(x * top, roof + 0.02, z), 0.05)
    for side, x in SIDES:
        mirror = point(x * (wide + 0.07), deck + 0.06, kind.front - 0.12)
        body.ellipsoid(mirror, np.diag((0.06, 0.045, 0.03)), paint)
        body.keypoint(f"{side} wing mirror", mirror, 0.05)


def build_bicycle(body: Body, rng: np.random.Generator, *, motor: bool) -> None:
    """Adds a bicycle or a motorcycle: wheels on y = 0, front to +z."""
    paint, steel, dark = plain(any_colour(rng), 0.6), metal(rng), plain((0.1, 0.1, 0.1), 0.2)
    r = 0.34 if not motor else 0.3
    steer = float(rng.uniform(-30, 30))
    head = Frame.of(0, 0.78, 0.38, yaw=steer)
    front, back = head.at(0, r - 0.78, 0.2), point(0, r, -0.55)
    for centre, axis in ((front, head.along(0, 0, 1)), (back, point(0, 0, 1))):
        if motor:
            across = np.cross((0, 1, 0), axis) * 0.07
            body.cylinder(centre - across, centre + across, r, r, dark)
            for sign in (1.1, -1.1):
                body.disc(centre + across * sign, across, r * 0.6, steel)
        else:
            hoop(body, centre, axis * r, point(0, r, 0), 0.025, dark)
            for angle in np.linspace(0, np.pi, 4)[:-1] + rng.uniform(0, 1):
                spoke = np.cos(angle) * axis * r + np.sin(angle) * point(0, r, 0)
                body.tube(centre - spoke, centre + spoke, 0.008, 0.008, steel, hollow=False)
    body.keypoint("center of the front wheel", front, 0.12)
    body.keypoint("center of the back wheel", back, 0.12)
    crank, saddle = point(0, 0.32, -0.1), point(0, 0.86, -0.28)
    thick = 0.028 if not motor else 0.045
    if motor:
        body.ellipsoid(point(0, 0.62, 0.1), np.diag((0.15, 0.15, 0.3)), paint)
        body.ellipsoid(point(0, 0.36, 0.0), np.diag((0.16, 0.2, 0.26)), steel)
        saddle = point(0, 0.7, -0.35)
        body.ellipsoid(saddle, np.diag((0.15, 0.09, 0.33)), dark)
        body.limb([point(-0.16, 0.25, 0.05), point(-0.18, 0.3, -0.75)], [0.05, 0.07], steel)
        body.ball(head.at(0, 0.05, 0.14), 0.12, plain((0.95, 0.93, 0.8), 0.9))
        body.keypoint("headlight", head.at(0, 0.05, 0.25), 0.06)
        body.keypoint("end of the exhaust pipe", point(-0.18, 0.3, -0.78), 0.08)
    else:
        tube = [crank, head.at(0, -0.15, 0.03), head.at(0, -0.02, 0), saddle - (0, 0.15, -0.05), crank, back]
        body.limb(tube, [thick] * 6, paint)
        body.limb([back, saddle - (0, 0.15, -0.05), saddle], [thick * 0.7] * 3, paint)
        body.ellipsoid(saddle, np.diag((0.09, 0.04, 0.15)), dark)
    body.limb([front, head.at(0, 0, 0), head.at(0, 0.14, 0)], [thick] * 3, steel)
    for side, x in SIDES:
        end = head.at(x * 0.3, 0.16, -0.12)
        body.limb([head.at(0, 0.12, 0), head.at(x * 0.2, 0.18, 0.02), end], [thick * 0.9] * 3, steel)
        body.keypoint(f"{side} end of the handlebar", end, 0.05)
    body.keypoint("saddle", saddle + (0, 0.04, 0), 0.1)
    turned = float(rng.uniform(0, 360)) if not motor else 0.0
    for side, x in SIDES:
        reach = Frame.of(*crank, pitch=turned + (180 if x < 0 and not motor else 0))
        pedal = reach.at(x * 0.14, 0, 0.15)
        body.limb([reach.at(x * 0.05, 0, 0), reach.at(x * 0.06, 0, 0.15), pedal], [0.02] * 3, steel)
        body.box(pedal, np.diag((0.05, 0.015, 0.04)), dark)
        body.keypoint(f"{side} pedal", pedal, 0.05)


def build_aeroplane(body: Body, rng: np.random.Generator) -> None:
    """Adds an aeroplane: nose to +z."""
    paint, second = plain(any_colour(rng), 0.5), any_material(rng, 1.5)
    r, sweep, span = float(rng.uniform(0.11, 0.15)), rng.uniform(0.0, 0.45), rng.uniform(0.75, 1.1)
    body.limb([point(0, 0, 0.75), point(0, 0, -0.4), point(0, 0.06, -0.98)], [r, r, r * 0.3], paint)
    body.ellipsoid(point(0, 0, 0.75), np.diag((r, r, 0.25)), paint)
    body.ellipsoid(point(0, r * 0.5, 0.72), np.diag((r * 0.7, r * 0.6, 0.14)), _GLASS)
    body.keypoint("nose of the aircraft", point(0, 0, 0.98), 0.05)
    body.keypoint("cockpit", point(0, r * 1.05, 0.72), 0.04)
    for side, x in SIDES:
        tip = point(x * span, 0.08, 0.1 - sweep)
        body.polygon(
            [point(x * r * 0.8, -0.03, 0.3), tip + (0, 0, 0.06), tip - (0, 0, 0.1), point(x * r * 0.8, -0.03, -0.15)],
            second,
        )
        body.keypoint(f"tip of the {side} wing", tip, 0.04)
        engine = point(x * span * 0.42, -0.06, 0.2 - sweep * 0.4)
        body.limb([engine, engine - (0, 0, 0.2)], [0.07, 0.05], paint)
        body.keypoint(f"{side} engine", engine + (0, 0, 0.05), 0.06)
        end = point(x * span * 0.38, 0.1, -0.98 - sweep * 0.2)
        body.polygon([point(0, 0.07, -0.75), end + (0, 0, 0.05), end - (0, 0, 0.06), point(0, 0.07, -0.97)], second)
        body.keypoint(f"tip of the {side} tailplane", end, 0.03)
    fin = point(0, 0.45, -1.02)
    body.polygon([point(0, 0.05, -0.65), fin + (0, 0, 0.1), fin - (0, 0, 0.05), point(0, 0.05, -0.97)], second)
    body.keypoint("tip of the tail fin", fin, 0.03)


def build_helicopter(body: Body, rng: np.random.Generator) -> None:
    """Adds a helicopter: nose to +z."""
    paint, steel = any_material(rng, 1.0), metal(rng)
    body.ellipsoid(point(0, 0, 0.25), np.diag((0.28, 0.3, 0.5)), paint)
    body.ellipsoid(point(0, 0.03, 0.42), np.diag((0.24, 0.25, 0.36)), _GLASS)
    body.limb([point(0, 0.08, -0.1), point(0, 0.12, -1.15)], [0.15, 0.05], paint)
    fin = point(0, 0.42, -1.25)
    body.polygon([point(0, 0.1, -1.0), fin, fin - (0, 0, 0.12), point(0, 0.08, -1.2)], paint)
    hub = point(0, 0.45, 0.2)
    body.limb([point(0, 0.25, 0.2), hub], [0.06, 0.05], steel)
    start = float(rng.uniform(0, 180))
    for angle in (start, start + 90):
        blade = Frame.of(*hub, yaw=angle)
        body.box(hub, blade.axes(0.05, 0.012, 1.05), plain((0.15, 0.15, 0.16)))
    body.disc(point(0.08, 0.2, -1.2), point(1, 0, 0), 0.16, steel)
    body.keypoint("nose of the aircraft", point(0, -0.02, 0.77), 0.06)
    body.keypoint("rotor hub", hub, 0.07)
    body.keypoint("tail rotor", point(0.08, 0.2, -1.2), 0.1)
    body.keypoint("tip of the tail fin", fin, 0.04)
    for side, x in SIDES:
        rail = [point(x * 0.27, -0.4, 0.65), point(x * 0.27, -0.45, 0.5), point(x * 0.27, -0.45, -0.3)]
        body.limb(rail, [0.025] * 3, steel)
        for z in (0.4, -0.1):
            body.limb([point(x * 0.15, -0.2, z), point(x * 0.27, -0.44, z)], [0.02, 0.02], steel)
        body.keypoint(f"front end of the {side} skid", rail[0], 0.04)
        body.keypoint(f"back end of the {side} skid", rail[2], 0.04)


def build_sailing_boat(body: Body, rng: np.random.Generator) -> None:
    """Adds a sailing boat: bow to +z."""
    paint, cloth, spar = plain(any_colour(rng), 0.4), any_material(rng, 1.2), plain((0.6, 0.45, 0.28))
    wide = float(rng.uniform(0.2, 0.3))
    rim = [
        (0.0, 1.0),
        (wide, 0.35),
        (wide, -0.5),
        (wide * 0.7, -0.9),
        (-wide * 0.7, -0.9),
        (-wide, -0.5),
        (-wide, 0.35),
    ]
    deck = [point(x, 0.12, z) for x, z in rim]
    keel = [point(x * 0.45, -0.18, z * 0.82) for x, z in rim]
    body.polygon(deck, spar)
    for index in range(len(rim)):
        body.polygon([deck[index - 1], deck[index], keel[index]], paint)
        body.polygon([deck[index - 1], keel[index], keel[index - 1]], paint)
    top, foot, swing = (
        point(0, rng.uniform(1.5, 1.9), 0.15),
        point(0, 0.12, 0.15),
        Frame.of(0, 0.35, 0.15, yaw=rng.uniform(-45, 45)),
    )
    boom = swing.at(0, 0, -0.85)
    body.limb([foot, top], [0.035, 0.02], spar)
    body.limb([swing.origin, boom], [0.025, 0.02], spar)
    body.polygon([swing.at(0, 0.03, -0.03), top, boom + (0, 0.03, 0)], cloth)
    body.polygon([point(0, 0.2, 0.92), top * 0.9, point(0.08, 0.25, 0.22)], cloth)
    for name, where in (
        ("bow", deck[0]),
        ("top of the mast", top),
        ("foot of the mast", foot),
        ("end of the boom", boom),
    ):
        body.keypoint(name, where, 0.05)
    for side, x in SIDES:
        body.keypoint(f"{side} corner of the stern", point(x * wide * 0.7, 0.12, -0.9), 0.04)


_BONES = (
    *both_sides(
        ("center of the front {side} wheel", "center of the back {side} wheel"),
        ("front {side} corner of the roof", "back {side} corner of the roof"),
        ("front {side} corner of the roof", "{side} headlight"),
        ("back {side} corner of the roof", "{side} tail light"),
        ("{side} headlight", "center of the front {side} wheel"),
        ("{side} tail light", "center of the back {side} wheel"),
        ("{side} wing mirror", "front {side} corner of the roof"),
        ("saddle", "{side} pedal"),
        ("center of the front wheel", "{side} end of the handlebar"),
        ("cockpit", "{side} engine"),
        ("{side} engine", "tip of the {side} wing"),
        ("tip of the tail fin", "tip of the {side} tailplane"),
        ("nose of the aircraft", "front end of the {side} skid"),
        ("front end of the {side} skid", "back end of the {side} skid"),
        ("end of the boom", "{side} corner of the stern"),
        ("bow", "{side} corner of the stern"),
    ),
    *chain("front left corner of the roof", "front right corner of the roof"),
    *chain("back left corner of the roof", "back right corner of the roof"),
    *chain("left headlight", "right headlight"),
    *chain("left tail light", "right tail light"),
    *chain("center of the back wheel", "saddle", "center of the front wheel", "headlight"),
    *chain("saddle", "end of the exhaust pipe"),
    *chain("nose of the aircraft", "cockpit", "tip of the tail fin"),
    *chain("nose of the aircraft", "rotor hub", "tail rotor", "tip of the tail fin"),
    *chain("bow", "foot of the mast", "top of the mast", "end of the boom"),
)

_VIEW = Viewpoint(yaw=(-180, 180), pitch=(3, 32), roll=(-6, 6))
_SIDEWAYS = Viewpoint(yaw=(30, 150), pitch=(-5, 25), roll=(-8, 8), mirror=True)

_KINDS = {
    "car": Car(),
    "bus": Car(width=0.32, deck=0.48, roof=0.78, front=0.98, back=-0.98, slope=(0.06, 0.02), wheel=0.12),
    "van": Car(width=0.4, deck=0.55, roof=0.95, front=0.72, back=-0.97, slope=(0.32, 0.05), wheel=0.16),
    "pickup truck": Car(
        width=0.4, deck=0.48, roof=0.8, front=0.4, back=-0.25, slope=(0.25, 0.08), wheel=0.18, bed=True
    ),
    "taxi cab": Car(width=0.46, deck=0.52, roof=0.95, front=0.3, back=-0.85, slope=(0.2, 0.3), wheel=0.2),
}

SPECIES = (
    *(Species(name, "vehicle", partial(build_car, kind=kind), _VIEW, _BONES) for name, kind in _KINDS.items()),
    Species("bicycle", "vehicle", partial(build_bicycle, motor=False), _SIDEWAYS, _BONES),
    Species("motorcycle", "vehicle", partial(build_bicycle, motor=True), _SIDEWAYS, _BONES),
    Species(
        "aeroplane", "vehicle", build_aeroplane, Viewpoint(yaw=(-180, 180), pitch=(-25, 60), roll=(-25, 25)), _BONES
    ),
    Species("helicopter", "vehicle", build_helicopter, Viewpoint(yaw=(15, 165), pitch=(-25, 35), mirror=True), _BONES),
    Species("sailing boat", "vehicle", build_sailing_boat, _SIDEWAYS, _BONES),
)

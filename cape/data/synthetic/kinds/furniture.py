"""Furniture: seats, tables, beds and cupboards; left and right as of someone who sits in it or leans against it."""
# ruff: noqa: RUF005 — vectors are moved by adding tuples to them

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from cape.data.synthetic.camera import Viewpoint
from cape.data.synthetic.frames import Frame, point
from cape.data.synthetic.kinds.shapes import ENDS, SIDES, metal, wood_or_paint
from cape.data.synthetic.materials import Material, any_material, plain, shade
from cape.data.synthetic.solids import Body
from cape.data.synthetic.species import Bones, Species, both_sides, chain


@dataclass(frozen=True, slots=True)
class Seat:
    """Proportions of what has a flat top on legs; the unit is about a chair's height of seat.

    Attributes:
        width, depth: half of the top's.
        height: of the top; `thickness` is half of the top's.
        back: height of the backrest above the top; 0 for none.
        arms: height of armrests; 0 for none.
        leg: half the thickness of a leg; `splay` is how far the feet stand out.
        soft: whether the top is a cushion.
        part: what keypoints call the top; `rest` what they call the backrest.
    """

    width: float = 0.5
    depth: float = 0.48
    height: float = 1.0
    thickness: float = 0.06
    back: float = 1.05
    arms: float = 0.0
    leg: float = 0.05
    splay: float = 0.0
    soft: bool = False
    part: str = "seat"
    rest: str = "backrest"


def build_seat(body: Body, rng: np.random.Generator, *, kind: Seat) -> None:
    """Adds a chair, a sofa, a table or a bed: feet at y = 0, front to +z."""
    frame_material = wood_or_paint(rng)
    top_material = any_material(rng, 1.5) if kind.soft or rng.random() < 0.4 else frame_material
    wide, deep = kind.width * rng.uniform(0.88, 1.12), kind.depth * rng.uniform(0.9, 1.1)
    high, thick = kind.height * rng.uniform(0.9, 1.12), kind.thickness
    body.box(point(0, high - thick, 0), np.diag((wide, thick, deep)), top_material)
    for end, z in ENDS:
        for side, x in SIDES:
            body.keypoint(f"{end} {side} corner of the {kind.part}", point(x * wide, high, z * deep), 0.05)
    slim = kind.leg * rng.uniform(0.7, 1.3)
    square = rng.random() < 0.5
    for end, z in ENDS:
        for side, x in SIDES:
            head = point(x * (wide - slim), high - 2 * thick, z * (deep - slim))
            foot = point(x * (wide - slim + kind.splay), 0, z * (deep - slim + kind.splay))
            if square and not kind.splay:
                body.box((head + foot) / 2, np.diag((slim, head[1] / 2, slim)), frame_material)
            else:
                body.limb([head, foot], [slim, slim * 0.75], frame_material)
            body.keypoint(f"foot of the {end} {side} leg", foot, slim * 1.5)
    if kind.back:
        _add_back(body, rng, kind, frame_material, top_material, (wide, deep, high))
    if kind.arms:
        for side, x in SIDES:
            rail = [point(x * wide, high + kind.arms, z * deep * 0.9) for z in (-1, 1)]
            if kind.soft:
                body.box(
                    point(x * wide, (high + kind.arms) / 2 + 0.1, 0),
                    np.diag((0.12, (high + kind.arms) / 2 - 0.1, deep)),
                    top_material,
                )
                body.keypoint(f"front end of the {side} armrest", point(x * wide, high + kind.arms, deep), 0.13)
            else:
                body.limb([point(x * wide, high, deep * 0.7), rail[1], rail[0]], [0.04] * 3, frame_material)
                body.keypoint(f"front end of the {side} armrest", rail[1], 0.07)


def _add_back(
    body: Body,
    rng: np.random.Generator,
    kind: Seat,
    frame_material: Material,
    top_material: Material,
    size: tuple[float, float, float],
) -> None:
    wide, deep, high = size
    rest = Frame.of(0, high, -deep + 0.05, pitch=-rng.uniform(0, 14))
    long = kind.back * rng.uniform(0.85, 1.15)
    if kind.soft:
        body.box(
            rest.at(0, long / 2 - kind.thickness, 0), rest.axes(wide, long / 2 + kind.thickness, 0.13), top_material
        )
    else:
        for _, x in SIDES:
            body.limb(
                [rest.at(x * (wide - 0.05), -0.1, 0), rest.at(x * (wide - 0.05), long, 0)],
                [0.05, 0.045],
                frame_material,
            )
        if rng.random() < 0.5:
            body.box(rest.at(0, long * 0.62, 0), rest.axes(wide - 0.04, long * 0.36, 0.035), top_material)
        else:
            for height in np.linspace(0.35, 0.95, int(rng.integers(2, 5))).tolist():
                body.box(rest.at(0, long * height, 0), rest.axes(wide - 0.04, 0.06, 0.03), frame_material)
    for side, x in SIDES:
        body.keypoint(f"top {side} corner of the {kind.rest}", rest.at(x * (wide - 0.02), long, 0), 0.15)


def build_stool(body: Body, rng: np.random.Generator) -> None:
    """Adds a round stool on three legs."""
    frame_material, top = wood_or_paint(rng), any_material(rng, 2.0)
    wide, high = rng.uniform(0.35, 0.5), rng.uniform(0.9, 1.3)
    body.cylinder(point(0, high, 0), point(0, high - 0.12, 0), wide, wide, top)
    body.keypoint("middle of the seat", point(0, high, 0), 0.03)
    splay = rng.uniform(1.0, 1.4)
    for name, x, z in (("front", 0.0, 0.8), ("left", 0.7, -0.4), ("right", -0.7, -0.4)):
        foot = point(x * wide * splay, 0, z * wide * splay)
        body.limb([point(x * wide, high - 0.1, z * wide), foot], [0.05, 0.04], frame_material)
        body.keypoint(f"top of the {name} leg", point(x * wide, high - 0.12, z * wide), 0.12)
        body.keypoint(f"foot of the {name} leg", foot, 0.07)


def build_office_chair(body: Body, rng: np.random.Generator) -> None:
    """Adds a swivel chair: a cushion on a column and four feet with castors."""
    cushion, steel = any_material(rng, 2.0), metal(rng)
    high = rng.uniform(0.85, 1.1)
    body.limb([point(0, 0.15, 0), point(0, high, 0)], [0.07, 0.06], steel)
    for end, z in ENDS:
        for side, x in SIDES:
            foot = point(x * 0.42, 0.06, z * 0.42)
            body.limb([point(0, 0.2, 0), foot], [0.06, 0.04], steel)
            body.ball(foot - (0, 0.03, 0), 0.07, plain((0.1, 0.1, 0.1)))
            body.keypoint(f"foot of the {end} {side} leg", foot, 0.1)
    seat = Frame.of(0, high, 0, yaw=rng.uniform(-50, 50))
    body.ellipsoid(seat.origin, seat.axes(0.5, 0.12, 0.48), cushion)
    for side, x in SIDES:
        body.limb(
            [seat.at(x * 0.45, 0, -0.1), seat.at(x * 0.55, 0.4, -0.15), seat.at(x * 0.55, 0.42, 0.3)], [0.04] * 3, steel
        )
        body.keypoint(f"front end of the {side} armrest", seat.at(x * 0.55, 0.42, 0.3), 0.06)
    rest = seat.child(0, 0.15, -0.45, pitch=-rng.uniform(2, 18))
    long = rng.uniform(0.8, 1.2)
    body.limb([rest.at(0, -0.15, 0.1), rest.at(0, 0.25, -0.05)], [0.05, 0.05], steel)
    body.ellipsoid(rest.at(0, long * 0.55, 0), rest.axes(0.46, long * 0.5, 0.09), cushion)
    body.keypoint("front of the seat", seat.at(0, 0, 0.47), 0.06)
    body.keypoint("top of the backrest", rest.at(0, long * 1.04, 0), 0.06)
    body.keypoint("bottom of the backrest", rest.at(0, long * 0.08, 0.02), 0.1)


def build_cupboard(body: Body, rng: np.random.Generator, *, shelves: bool) -> None:
    """Adds a wardrobe with two doors, or an open bookcase."""
    board = wood_or_paint(rng)
    wide, high, deep = rng.uniform(0.4, 0.65), rng.uniform(0.8, 1.2), rng.uniform(0.22, 0.38)
    if shelves:
        body.box(point(0, 0, -deep), np.diag((wide, high, 0.02)), plain(shade(board.colour, 0.7)))
        for x in (1.0, -1.0):
            body.box(point(x * wide, 0, 0), np.diag((0.03, high, deep)), board)
        for name, y in (("top", 1.0), ("upper", 0.33), ("lower", -0.33), ("bottom", -1.0)):
            body.box(point(0, y * high * 0.97, 0), np.diag((wide, 0.03, deep)), board)
            if name in ("upper", "lower"):
                for side, x in SIDES:
                    body.keypoint(
                        f"{side} end of the {name} shelf", point(x * wide * 0.96, y * high * 0.97, deep), 0.04
                    )
                _add_books(body, rng, (wide, y * high * 0.97 + 0.03, deep, high * 0.5))
    else:
        body.box(point(0, 0, 0), np.diag((wide, high, deep)), board)
        door = board if rng.random() < 0.5 else any_material(rng, 1.0)
        knob = metal(rng)
        for side, x in SIDES:
            body.box(point(x * wide * 0.5, 0.03, deep), np.diag((wide * 0.46, high * 0.9, 0.025)), door)
            handle = point(x * wide * 0.1, 0.0, deep + 0.05)
            body.limb([handle + (0, 0.1, 0), handle - (0, 0.1, 0)], [0.025, 0.025], knob)
            body.keypoint(f"{side} door handle", handle, 0.04)
    for name, y in (("top", 1.0), ("bottom", -1.0)):
        for end, z in ENDS:
            for side, x in SIDES:
                body.keypoint(f"{name} {end} {side} corner", point(x * wide, y * high, z * deep), 0.05)


def _add_books(body: Body, rng: np.random.Generator, shelf: tuple[float, float, float, float]) -> None:
    wide, y, deep, room = shelf
    x = -wide * 0.9
    while x < wide * 0.5:
        half, tall = float(rng.uniform(0.03, 0.09)), float(rng.uniform(0.22, 0.4)) * room
        body.box(point(x + half, y + tall, -deep * 0.2), np.diag((half, tall, deep * 0.55)), any_material(rng, 3.0))
        x += 2 * half + float(rng.uniform(0.0, 0.12))


_AROUND = ("front left", "front right", "back right", "back left", "front left")


def _seat_bones(part: str, rest: str) -> Bones:
    """The outline of a top, its legs, and what rises from it."""
    return (
        *chain(*(f"{corner} corner of the {part}" for corner in _AROUND)),
        *((f"{corner} corner of the {part}", f"foot of the {corner} leg") for corner in _AROUND[:4]),
        *both_sides(
            (f"back {{side}} corner of the {part}", f"top {{side}} corner of the {rest}"),
            (f"front {{side}} corner of the {part}", "front end of the {side} armrest"),
        ),
        (f"top left corner of the {rest}", f"top right corner of the {rest}"),
    )


_STOOL_BONES = tuple(
    bone
    for name in ("front", "left", "right")
    for bone in chain("middle of the seat", f"top of the {name} leg", f"foot of the {name} leg")
)

_OFFICE_BONES = (
    *chain("front of the seat", "bottom of the backrest", "top of the backrest"),
    *both_sides(
        ("bottom of the backrest", "front end of the {side} armrest"),
        ("front of the seat", "foot of the front {side} leg"),
        ("bottom of the backrest", "foot of the back {side} leg"),
    ),
)

_CUPBOARD_BONES = (
    *chain(*(f"top {corner} corner" for corner in _AROUND)),
    *chain(*(f"bottom {corner} corner" for corner in _AROUND)),
    *((f"top {corner} corner", f"bottom {corner} corner") for corner in _AROUND[:4]),
    *both_sides(
        ("{side} door handle", "top front {side} corner"),
        ("{side} end of the upper shelf", "{side} end of the lower shelf"),
    ),
    *chain("left end of the upper shelf", "right end of the upper shelf"),
    *chain("left end of the lower shelf", "right end of the lower shelf"),
)

_VIEW = Viewpoint(yaw=(-70, 70), pitch=(3, 38), roll=(-6, 6))

_KINDS = {
    "chair": Seat(),
    "armchair": Seat(width=0.6, depth=0.55, height=0.75, thickness=0.16, back=0.9, arms=0.4, soft=True),
    "sofa": Seat(width=1.4, depth=0.55, height=0.7, thickness=0.18, back=0.75, arms=0.35, soft=True),
    "bench": Seat(width=1.2, depth=0.3, height=0.8, thickness=0.05, back=0.75, arms=0.3, leg=0.055),
    "table": Seat(width=1.0, depth=0.6, height=1.15, thickness=0.045, back=0.0, leg=0.065, part="tabletop"),
    "coffee table": Seat(width=0.8, depth=0.5, height=0.5, thickness=0.04, back=0.0, splay=0.08, part="tabletop"),
    "bed": Seat(
        width=0.75, depth=1.3, height=0.55, thickness=0.15, back=0.6, leg=0.07, part="mattress", rest="headboard"
    ),
}

SPECIES = (
    *(
        Species(name, "furniture", partial(build_seat, kind=kind), _VIEW, _seat_bones(kind.part, kind.rest))
        for name, kind in _KINDS.items()
    ),
    Species("stool", "furniture", build_stool, _VIEW, _STOOL_BONES),
    Species("office chair", "furniture", build_office_chair, _VIEW, _OFFICE_BONES),
    Species("wardrobe", "furniture", partial(build_cupboard, shelves=False), _VIEW, _CUPBOARD_BONES),
    Species("bookcase", "furniture", partial(build_cupboard, shelves=True), _VIEW, _CUPBOARD_BONES),
)

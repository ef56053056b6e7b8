"""Colours and patterns of animals."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from cape.data.synthetic.materials import Colour, Material, mottled, pick, plain, shade, spotted, striped

Coat: TypeAlias = Literal[
    "brown", "cat", "dog", "fox", "grey", "sand", "tiger", "horse", "zebra", "cow", "wool", "deer", "giraffe", "pig"
]
"""A name for the colours and the pattern of a kind's fur or skin."""

_BLACK: Colour = (0.09, 0.08, 0.08)
_WHITE: Colour = (0.9, 0.88, 0.84)
_GREY: Colour = (0.45, 0.44, 0.43)
_BROWN: Colour = (0.38, 0.24, 0.13)
_TAN: Colour = (0.72, 0.54, 0.34)
_GINGER: Colour = (0.78, 0.42, 0.15)

_COLOURS: dict[Coat, tuple[Colour, ...]] = {
    "brown": (_BROWN, (0.26, 0.17, 0.1), _BLACK, _TAN),
    "cat": (_GREY, _BLACK, _GINGER, _WHITE, _TAN),
    "dog": (_BROWN, _BLACK, _TAN, _WHITE, _GREY),
    "fox": (_GINGER, (0.7, 0.33, 0.12)),
    "grey": (_GREY, (0.33, 0.31, 0.3), (0.55, 0.53, 0.5)),
    "sand": (_TAN, (0.78, 0.62, 0.4)),
    "tiger": ((0.85, 0.5, 0.16),),
    "horse": (_BROWN, _BLACK, _WHITE, (0.45, 0.2, 0.1), _GREY),
    "zebra": (_WHITE,),
    "cow": (_WHITE, _BROWN, _TAN),
    "wool": (_WHITE, (0.8, 0.76, 0.68), (0.25, 0.22, 0.2)),
    "deer": ((0.55, 0.34, 0.18), _TAN),
    "giraffe": ((0.88, 0.74, 0.48),),
    "pig": ((0.87, 0.62, 0.56), (0.8, 0.52, 0.47), (0.3, 0.24, 0.22)),
}


def coat_material(coat: Coat, rng: np.random.Generator) -> Material:
    """The coat of one animal."""
    colour = pick(rng, _COLOURS[coat], 0.05)
    chance = rng.random()
    if coat in ("tiger", "zebra"):
        return striped(colour, _BLACK, float(rng.uniform(4, 6) if coat == "tiger" else rng.uniform(5, 7)))
    if coat == "giraffe":
        return spotted(colour, (0.5, 0.27, 0.1), float(rng.uniform(0.9, 1.3)))._replace(bias=0.4)
    if coat == "cow" and chance < 0.7:
        return spotted(colour, _BLACK if colour[0] > 0.6 else _WHITE, float(rng.uniform(0.25, 0.45)))
    if coat == "cat" and chance < 0.4:
        return striped(colour, shade(colour, 0.4), float(rng.uniform(4, 7)))
    if coat in ("cat", "dog", "horse") and chance < 0.6:
        return spotted(colour, _WHITE if colour[0] < 0.7 else _BROWN, float(rng.uniform(0.3, 0.6)))
    if coat == "deer" and chance < 0.5:
        return spotted(colour, _WHITE, 3.0)._replace(bias=-1.6)
    if coat == "wool":
        return mottled(colour, shade(colour, 0.55), 5.0)
    if coat == "pig":
        return plain(colour)
    return mottled(colour, shade(colour, 0.62), float(rng.uniform(2, 6)))

"""What surfaces look like: two colours and a pattern that mixes them."""

from __future__ import annotations

import colorsys
from typing import NamedTuple, TypeAlias

import numpy as np

Colour: TypeAlias = tuple[float, float, float]
"""RGB, 0–1."""


class Material(NamedTuple):
    """A surface. The second colour's share is a sum of waves and noise, steepened, moved and clipped to 0–1.

    Attributes:
        colour: where the share is 0.
        second: where the share is 1.
        stripes: weight of bands across a part.
        checks: weight of a chessboard.
        blotches: weight of smooth noise.
        contrast: how steeply the sum turns from one colour into the other.
        bias: share at a sum of 0.
        frequency: periods per unit of length of the body.
        gloss: strength of the highlight, 0–1.
    """

    colour: Colour
    second: Colour
    stripes: float = 0.0
    checks: float = 0.0
    blotches: float = 0.0
    contrast: float = 0.0
    bias: float = 0.0
    frequency: float = 1.0
    gloss: float = 0.1


def plain(colour: Colour, gloss: float = 0.1) -> Material:
    """One colour."""
    return Material(colour, colour, gloss=gloss)


def striped(colour: Colour, second: Colour, frequency: float, gloss: float = 0.1) -> Material:
    """Wavy bands across a part, as a tiger's."""
    return Material(colour, second, stripes=1.0, blotches=0.4, contrast=3.0, bias=0.4, frequency=frequency, gloss=gloss)


def banded(colour: Colour, second: Colour, frequency: float, gloss: float = 0.1) -> Material:
    """Straight bands with sharp edges, as a sailor shirt's."""
    return Material(colour, second, stripes=1.0, contrast=6.0, bias=0.5, frequency=frequency, gloss=gloss)


def checked(colour: Colour, second: Colour, frequency: float, gloss: float = 0.1) -> Material:
    """A chessboard."""
    return Material(colour, second, checks=1.0, contrast=6.0, bias=0.5, frequency=frequency, gloss=gloss)


def spotted(colour: Colour, second: Colour, frequency: float, gloss: float = 0.1) -> Material:
    """Blotches with sharp edges, as a cow's."""
    return Material(colour, second, blotches=1.0, contrast=5.0, bias=-0.3, frequency=frequency, gloss=gloss)


def mottled(colour: Colour, second: Colour, frequency: float, gloss: float = 0.1) -> Material:
    """Soft changes between two colours, as of fur, wood or stone."""
    return Material(colour, second, blotches=1.0, contrast=0.8, bias=0.5, frequency=frequency, gloss=gloss)


def jittered(colour: Colour, rng: np.random.Generator, amount: float = 0.06) -> Colour:
    """A colour near this one."""
    red, green, blue = (np.asarray(colour) + rng.uniform(-amount, amount, 3)).clip(0.02, 1.0).tolist()
    return red, green, blue


def shade(colour: Colour, factor: float) -> Colour:
    """A darker (factor below 1) or brighter colour."""
    red, green, blue = (min(1.0, part * factor) for part in colour)
    return red, green, blue


def any_colour(rng: np.random.Generator) -> Colour:
    """A colour such as people paint things: any hue, from grey to vivid, from dark to bright."""
    hue, saturation, value = rng.random(3).tolist()
    return colorsys.hsv_to_rgb(hue, saturation**1.3 * 0.95, 0.18 + 0.8 * value)


def any_material(rng: np.random.Generator, frequency: float = 2.0) -> Material:
    """A surface of anything: plain or patterned, dull or glossy."""
    colour, second = any_colour(rng), any_colour(rng)
    gloss = float(rng.uniform(0.0, 0.6))
    frequency *= float(rng.uniform(0.6, 1.8))
    patterns = (striped, banded, checked, spotted, mottled)
    choice = int(rng.integers(len(patterns) + 4))
    if choice >= len(patterns):
        return mottled(colour, shade(colour, 0.75), frequency, gloss)
    return patterns[choice](colour, second, frequency, gloss)


def pick(rng: np.random.Generator, colours: tuple[Colour, ...], amount: float = 0.06) -> Colour:
    """One of some colours, a little changed."""
    return jittered(colours[int(rng.integers(len(colours)))], rng, amount)

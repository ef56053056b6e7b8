"""The option --box: where the objects are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click

from cape.support import Box


def box_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --box X,Y,W,H, repeatable; the command takes `boxes`, a tuple of `Box`."""
    return click.option(
        "--box",
        "boxes",
        metavar="X,Y,W,H",
        callback=_parse_boxes,
        multiple=True,
        help="The object, in pixels; repeatable.  [default: the whole image]",
    )(command)


def _parse_boxes(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[Box, ...]:
    boxes = []
    for value in values:
        try:
            x, y, width, height = (float(part) for part in value.split(","))
        except ValueError:
            raise click.BadParameter(f"{value!r} is not x,y,width,height in pixels") from None
        if not (all(map(math.isfinite, (x, y, width, height))) and width > 0 and height > 0):
            raise click.BadParameter(f"{value!r}: width and height must be more than 0")
        boxes.append(Box(x, y, width, height))
    return tuple(boxes)

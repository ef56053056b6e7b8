"""Colours of visible surfaces: pattern, light, highlight and the darkness of corners."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from cape.data.synthetic.materials import Material
from cape.data.synthetic.raster import Surfaces
from cape.data.synthetic.solids import Solids

_TILE = 128
"""Side of the noise tile that patterns are looked up in, in samples."""

_SAMPLES = 14.0
"""Samples of the noise tile per period of a pattern."""


@cache
def noise_tile() -> npt.NDArray[np.float32]:
    """Smooth noise that repeats without a seam, uniformly distributed over 0–1, float32 [128, 128]."""
    rng = np.random.default_rng(7)
    field = np.zeros((_TILE, _TILE))
    for cells, weight in ((8, 1.0), (16, 0.6), (32, 0.35), (64, 0.2)):
        coarse = rng.standard_normal((cells, cells))
        tripled = cv2.resize(np.tile(coarse, (3, 3)), (3 * _TILE, 3 * _TILE), interpolation=cv2.INTER_CUBIC)
        field += weight * tripled[_TILE : 2 * _TILE, _TILE : 2 * _TILE]
    ranks = field.ravel().argsort().argsort()
    return (ranks / ranks.size).astype(np.float32).reshape(_TILE, _TILE)


def shade_surfaces(
    solids: Solids,
    surfaces: Surfaces,
    materials: Sequence[Material],
    scale: float,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Colours of all pixels that show a surface.

    Args:
        solids: as they were drawn.
        surfaces: what is visible.
        materials: what `solids.materials` points to.
        scale: pixels per unit of length of the body, which patterns are measured in.
        rng: draws the light.

    Returns:
        Indices of the pixels in the flattened picture, int64 [N], and their RGB, 0–1 and beyond, float32 [3, N].
    """
    size = surfaces.index.shape[0]
    pixels = np.flatnonzero(surfaces.index.ravel() >= 0)
    if not len(pixels):
        return pixels, np.zeros((3, 0), dtype=np.float32)
    index = surfaces.index.ravel()[pixels].astype(np.intp)
    rows = np.take(_surface_table(solids, surfaces, materials, scale), index, axis=1)
    row, column = np.divmod(pixels.astype(np.int32), size)
    x, y, z = column.astype(np.float32), row.astype(np.float32), surfaces.depth.ravel()[pixels]
    gxx, gxy, gxz, gyy, gyz, gzz, bx, by, bz = rows[:9]
    nx = gxx * x + gxy * y + gxz * z - bx
    ny = gxy * x + gyy * y + gyz * z - by
    nz = gxz * x + gyz * y + gzz * z - bz
    # Both sides of open tubes and flat polygons can be seen: the normal is the one towards the camera (−z).
    scale_n = -np.sign(nz) / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)

    share = _pattern_share(rows, x, y, z)
    grain, colours, differences, gloss = share[1], rows[17:20], rows[20:23], rows[27]
    light = _light(rng)
    lambert = (nx * light[0] + ny * light[1] + nz * light[2]) * scale_n
    ambient = float(rng.uniform(0.35, 0.6))
    # A light half-way round the object: no side is black, and the change from lit to unlit is soft.
    brightness = ambient + (1.15 - ambient) * np.maximum(0.75 * lambert + 0.25, 0.0)
    brightness *= 0.92 + 0.16 * grain
    brightness *= _openness(surfaces.depth, z, row, column, scale)
    half = light - np.array([0.0, 0.0, 1.0])
    half /= np.sqrt(half @ half)
    shine = np.maximum((nx * half[0] + ny * half[1] + nz * half[2]) * scale_n, 0.0)
    shine *= shine
    shine *= shine
    shine *= shine
    shine *= shine
    albedo = colours + differences * share[0]
    return pixels, albedo * brightness + gloss * shine


def _surface_table(
    solids: Solids, surfaces: Surfaces, materials: Sequence[Material], scale: float
) -> npt.NDArray[np.float32]:
    """What shading a pixel takes, one column per surface, float32 [28, F]."""
    gradient, solid = surfaces.gradient, surfaces.solid
    palette = np.array([(*m.colour, *m.second, *m[2:]) for m in materials])[solids.materials[solid]].T
    colour, second, (stripes, checks, blotches, contrast, bias, frequency, gloss) = np.split(palette, (3, 6))
    # Patterns run along a solid's third axis and across its first, in units of the body's length.
    inverse = surfaces.inverse[solid]
    lengths = np.sqrt((solids.basis[solid] ** 2).sum(axis=1))
    along = inverse[:, 2] * lengths[:, 2, None] * (frequency / scale)[:, None]
    across = (inverse[:, 0] * lengths[:, 0, None] + 0.5 * inverse[:, 1] * lengths[:, 1, None]) * (frequency / scale)[
        :, None
    ]
    # Places are in the picture, not from each solid's origin: the constants take up the difference.
    origin = solids.origin[solid]
    table = np.concatenate(
        [
            gradient[:, (0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2)].T,
            (surfaces.offset + (gradient @ origin[:, :, None])[:, :, 0]).T,
            along.T,
            (along * origin).sum(axis=1)[None],
            across.T,
            (across * origin).sum(axis=1)[None],
            colour,
            second - colour,
            np.stack([stripes * contrast, checks * contrast, 2 * blotches * contrast, bias - blotches * contrast]),
            gloss[None],
        ]
    )
    return table.astype(np.float32)


def _pattern_share(
    rows: npt.NDArray[np.float32],
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.float32],
    z: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Share of the second colour, 0–1, and the noise it was made with, float32 [N] each."""
    stripes, checks, blotches, bias = rows[23:27]
    along = rows[9] * x + rows[10] * y + rows[11] * z - rows[12]
    across = rows[13] * x + rows[14] * y + rows[15] * z - rows[16]
    column = (along * _SAMPLES + 4096.0).astype(np.int32) & (_TILE - 1)
    row = (across * _SAMPLES + 4096.0).astype(np.int32) & (_TILE - 1)
    noise = noise_tile().ravel()[row * _TILE + column]
    # Where the pattern has noise, some of it in the phase makes the bands wavy.
    wave = np.sin((2 * np.pi) * along + blotches * (noise - 0.5))
    share = stripes * wave + blotches * noise + bias
    if checks.any():
        share += checks * np.sign(wave * np.sin((2 * np.pi) * across))
    return share.clip(0.0, 1.0), noise


def _light(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A direction towards a light above and on the camera's side, as a unit vector [3]."""
    light = np.array([rng.uniform(-1.0, 1.0), rng.uniform(-1.2, 0.1), rng.uniform(-1.2, -0.4)])
    return np.asarray(light / np.sqrt(light @ light))


def _openness(
    depth: npt.NDArray[np.float32],
    z: npt.NDArray[np.float32],
    row: npt.NDArray[np.int32],
    column: npt.NDArray[np.int32],
    scale: float,
) -> npt.NDArray[np.float32]:
    """How little of the light is taken by nearer surfaces around pixels, 0.55–1, float32 [N]."""
    # The mean depth around a pixel is smooth: half the resolution shows it as well.
    coarse = np.minimum(depth[::2, ::2], z.max())
    reach = max(3, round(depth.shape[0] / 40) | 1)
    around = np.asarray(cv2.blur(coarse, (reach, reach)))
    near = around.ravel()[(row >> 1) * around.shape[1] + (column >> 1)]
    return np.asarray((1.0 - (z - near) * (1.6 / scale)).clip(0.55, 1.0), dtype=np.float32)

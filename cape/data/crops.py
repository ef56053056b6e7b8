"""From an annotated object to what a model sees of it: one affine warp, plain or augmented.

Plain crops are those of `cape.geometry`, pixel for pixel: what is trained is what is served.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from cape.data.dataset import AnnotatedObject
from cape.geometry import BOX_PADDING, Crop


@dataclass(frozen=True, slots=True)
class Warp:
    """How a crop differs from the plain one; both turn about its centre.

    Attributes:
        rotation: in radians, from the x axis towards the y axis: clockwise as seen.
        scale: size of the object in the crop ÷ its size in the plain crop.
    """

    rotation: float = 0.0
    scale: float = 1.0


PLAIN = Warp()


@dataclass(frozen=True, slots=True)
class Jitter:
    """Augmentation of the published models: rotation ±15°, scale ±15 %, both uniform.

    Attributes:
        rotation_degrees: largest rotation either way.
        scale: largest change of the scale either way, less than 1.
    """

    rotation_degrees: float = 15.0
    scale: float = 0.15

    def draw(self, generator: np.random.Generator) -> Warp:
        """Draws a warp."""
        rotation = math.radians(generator.uniform(-self.rotation_degrees, self.rotation_degrees))
        return Warp(rotation, generator.uniform(1 - self.scale, 1 + self.scale))


@dataclass(frozen=True, slots=True, eq=False)
class CroppedObject:
    """An object as models see it.

    Attributes:
        image: RGB, uint8 [size, size, 3], black where the crop reaches over the picture's edge.
        keypoints: float32 [K, 2], fractions of the crop; 0 where hidden.
        visible: bool [K]; False also where the crop cuts the keypoint off.
    """

    image: npt.NDArray[np.uint8]
    keypoints: npt.NDArray[np.float32]
    visible: npt.NDArray[np.bool_]


def crop_object(
    annotated: AnnotatedObject, *, size: int, padding: float = BOX_PADDING, warp: Warp = PLAIN
) -> CroppedObject:
    """Cuts an object out of its picture.

    Args:
        annotated: the object.
        size: side of the crop, in pixels.
        padding: side of the plain crop ÷ longer side of the box.
        warp: augmentation.
    """
    box = annotated.box
    crop = Crop.around(box.x, box.y, box.width, box.height, size=size, padding=padding)
    points = crop.to_crop(annotated.keypoints)
    if warp == PLAIN:
        image = crop.extract(annotated.image)
    else:
        matrix = _matrix(crop, warp)
        image = np.asarray(cv2.warpAffine(annotated.image, matrix, (size, size), flags=cv2.INTER_LINEAR), np.uint8)
        points = ((points - 0.5) @ _turn(warp).T + 0.5).astype(np.float32)
    # What the crop cuts off can neither be learnt from nor be asked for.
    visible = annotated.visible & ((points >= 0) & (points <= 1)).all(axis=1)
    return CroppedObject(image, np.where(visible[:, np.newaxis], points, np.float32(0)), visible)


def _turn(warp: Warp) -> npt.NDArray[np.float64]:
    """Rotation and scaling, [2, 2]."""
    cosine, sine = math.cos(warp.rotation) * warp.scale, math.sin(warp.rotation) * warp.scale
    return np.array([[cosine, -sine], [sine, cosine]], dtype=np.float64)


def _matrix(crop: Crop, warp: Warp) -> npt.NDArray[np.float64]:
    """Picture → warped crop, both in pixels, [2, 3]: the plain crop's matrix, then the turn about its centre."""
    turn = _turn(warp) * (crop.size / crop.side)
    centre = np.array([crop.left + crop.side / 2, crop.top + crop.side / 2], dtype=np.float64)
    return np.column_stack((turn, crop.size / 2 - turn @ centre))

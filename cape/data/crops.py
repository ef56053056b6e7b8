"""From an annotated object to what a model sees of it: one affine warp, plain or augmented.

Plain crops are those of `cape.geometry`, pixel for pixel: what is trained is what is served.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

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


Distribution: TypeAlias = Literal["uniform", "normal"]


@dataclass(frozen=True, slots=True)
class Jitter:
    """Random rotation and scale of crops.

    Attributes:
        rotation_degrees: 'uniform': largest rotation either way; 'normal': standard deviation, clipped at twice this.
        scale: 'uniform': largest change of the object's size either way, less than 1; 'normal': standard deviation of
            the size of the crop, clipped at once this.
        rotation_distribution: of the rotation. The public GraphCape and CapeX code draws both from clipped normals.
        scale_distribution: of the scale.
        rotation_probability: share of crops that are rotated; 0.6 in that code.
    """

    rotation_degrees: float = 15.0
    scale: float = 0.15
    rotation_distribution: Distribution = "uniform"
    scale_distribution: Distribution = "uniform"
    rotation_probability: float = 1.0

    def draw(self, generator: np.random.Generator) -> Warp:
        """Draws a warp."""
        degrees, scale = self.rotation_degrees, self.scale
        if self.rotation_distribution == "normal":
            degrees = float(np.clip(generator.normal(0, degrees), -2 * degrees, 2 * degrees))
        else:
            degrees = generator.uniform(-degrees, degrees)
        if self.rotation_probability < 1 and generator.random() >= self.rotation_probability:
            degrees = 0.0
        if self.scale_distribution == "normal":
            # A larger crop shows a smaller object.
            return Warp(math.radians(degrees), 1 / float(np.clip(generator.normal(1, scale), 1 - scale, 1 + scale)))
        return Warp(math.radians(degrees), generator.uniform(1 - scale, 1 + scale))


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

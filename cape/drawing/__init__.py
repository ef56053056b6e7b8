"""Draws poses, legible on light and on dark images."""

from cape.drawing.files import write_image
from cape.drawing.panels import side_by_side
from cape.drawing.pose import draw_pose
from cape.drawing.strokes import keypoint_colour
from cape.images import read_image

__all__ = ["draw_pose", "keypoint_colour", "read_image", "side_by_side", "write_image"]

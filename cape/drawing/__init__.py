"""Pictures of poses that a person can read, on light and on dark photographs."""

from cape.drawing.files import read_image, write_image
from cape.drawing.panels import side_by_side
from cape.drawing.pose import draw_pose
from cape.drawing.strokes import keypoint_colour

__all__ = ["draw_pose", "keypoint_colour", "read_image", "side_by_side", "write_image"]

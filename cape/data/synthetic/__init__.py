"""A procedural data set: articulated bodies of many kinds, drawn with their keypoints from a seed."""

from cape.data.synthetic.dataset import SyntheticDataset

__all__ = ["SyntheticDataset"]

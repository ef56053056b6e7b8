"""CVAT's auto-annotation: this file is a function for cvat-sdk and `cvat-cli`.

    cvat-cli task auto-annotate 137 --function-module gateway.labelling.cvat \
        -p target=str:localhost:50051 -p support=str:supports/…

It answers skeletons. Their label in CVAT is named after the support's category (or `label`), their points after its
keypoints. It needs cvat-sdk, which is not part of the extra `gateway`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cvat_sdk.auto_annotation as cvataa

from cape.client import Box, Client, ConnectionOptions

if TYPE_CHECKING:
    import PIL.Image

JPEG_QUALITY = 95


class SkeletonFunction:
    """Finds the keypoints of a registered support.

    Attributes:
        spec: the label with its keypoints, as cvat-sdk asks for it.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        support: str = "",
        label: str = "",
        model: str = "",
        threshold: float = 0.1,
        token: str = "",
    ) -> None:
        """Reads the support from the server.

        Args:
            target: "host:port" of the server.
            support: name of a registered support, "supports/{id}".
            label: name of the skeleton label in CVAT; empty for the support's category.
            model: "models/{system}"; empty for the server's default.
            threshold: keypoints with lower scores are marked as outside.
            token: API token.

        Raises:
            CapeError: the server cannot be reached, or does not know the support.
        """
        self._client = Client(target, ConnectionOptions(token=token or None))
        self._support, self._model, self._threshold = support, model, threshold
        definition = self._client.get_support(support, images=False).definition
        points = [cvataa.keypoint_spec(name, index) for index, name in enumerate(definition.names)]
        self.spec = cvataa.DetectionFunctionSpec(
            labels=[cvataa.skeleton_label_spec(label or definition.category, 0, points)]
        )

    def detect(self, context: Any, image: PIL.Image.Image, boxes: Sequence[Box] = ()) -> list[Any]:
        """The skeletons of an image, as cvat-sdk's driver asks for them.

        Args:
            context: of the driver; its `conf_threshold` is used instead of `threshold`.
            image: a frame.
            boxes: the objects; empty to let the service find one.
        """
        threshold = getattr(context, "conf_threshold", None)
        threshold = self._threshold if threshold is None else threshold
        encoded = io.BytesIO()
        image.convert("RGB").save(encoded, "JPEG", quality=JPEG_QUALITY)
        pose = self._client.estimate(
            encoded.getvalue(), self._support, boxes=boxes or None, model=self._model, find_box=True
        )
        return [
            cvataa.skeleton(
                0,
                [
                    cvataa.keypoint(
                        index,
                        [float(part) for part in instance.keypoints[index]],
                        outside=not (instance.located[index] and instance.scores[index] >= threshold),
                    )
                    for index in range(len(instance.names))
                ],
            )
            for instance in pose.instances
        ]


def create(**parameters: Any) -> SkeletonFunction:
    """What cvat-cli calls with the parameters of the command line."""
    return SkeletonFunction(**parameters)

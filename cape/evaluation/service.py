"""Predictions of a running service, over gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from cape.client import Client, ConnectionOptions, ModelInfo, PoseEstimate
from cape.client.errors import CapeError, FailedPreconditionError
from cape.evaluation.estimator import EpisodeAnswer, EstimatedPose, EstimationError, QueryObject
from cape.modalities import MissingModalityError
from cape.support import ImageSource, SupportDefinition

CONCURRENT = 16
"""Concurrent queries; more than one lets the server form batches."""

BARE_PIXELS = 4 * 2**20
"""Maximum bytes of an image to send as raw pixels; larger ones are sent as PNG, which is lossless too."""


class ServiceEstimator:
    """An `Estimator` that calls a server. Registers each support once and sends its queries concurrently.

    Deletes the supports that it registered.

    Args:
        target: "host:port".
        options: TLS, token, timeout, retries.
        model: "models/{system}"; empty for the server's default.
        concurrent: number of concurrent queries.

    Raises:
        EstimationError: the server does not answer, or has no such model.
    """

    def __init__(
        self, target: str, options: ConnectionOptions | None = None, model: str = "", concurrent: int = CONCURRENT
    ) -> None:
        self._client = Client(target, options)
        try:
            info = _find_model(self._client.models(), model, target)
        except CapeError as error:
            self._client.close()
            raise EstimationError(f"{target}: {error}") from None
        except BaseException:
            self._client.close()
            raise
        self._model = info.name
        self._pool = ThreadPoolExecutor(concurrent, thread_name_prefix="query")
        self._name = f"{target}: {info.system}, {info.backbone}, {info.engine} {info.precision}, version {info.version}"

    @property
    def name(self) -> str:
        """Address, system, backbone, engine, precision, version."""
        return self._name

    def estimate(self, support: SupportDefinition, queries: Sequence[QueryObject]) -> EpisodeAnswer:
        """See `Estimator.estimate`."""
        try:
            registered = self._client.create_support(_sendable(support))
        except CapeError as error:
            raise EstimationError(f"{support.category}: the support was refused: {error}") from None
        try:
            answers = list(self._pool.map(lambda query: self._ask(registered.name, query), queries))
        except FailedPreconditionError as error:
            raise MissingModalityError(str(error)) from None
        except CapeError as error:
            raise EstimationError(f"{support.category}: {error}") from None
        finally:
            # Supports that existed before are not deleted.
            if not registered.already_existed:
                self._client.delete_support(registered.name)
        poses = tuple(
            EstimatedPose(instance.keypoints, instance.scores, instance.located)
            for answer in answers
            for instance in answer.instances
        )
        return EpisodeAnswer(poses, answers[0].provenance.modalities)

    def close(self) -> None:
        """Closes the connection."""
        self._pool.shutdown(cancel_futures=True)
        self._client.close()

    def _ask(self, support: str, query: QueryObject) -> PoseEstimate:
        return self._client.estimate(_encoded(query.image), support, boxes=[query.box], model=self._model)


def _find_model(models: Sequence[ModelInfo], name: str, target: str) -> ModelInfo:
    for model in models:
        if model.name == name or (not name and model.is_default):
            return model
    known = ", ".join(model.name for model in models)
    raise EstimationError(f"{target}: there is no model {name!r}; it has {known}")


def _sendable(support: SupportDefinition) -> SupportDefinition:
    examples = tuple(
        replace(example, image=None if example.image is None else _encoded(example.image))
        for example in support.examples
    )
    return replace(support, examples=examples)


def _encoded(image: ImageSource) -> ImageSource:
    if not isinstance(image, np.ndarray) or image.nbytes <= BARE_PIXELS:
        return image
    pixels: npt.NDArray[np.uint8] = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), dtype=np.uint8)
    _, content = cv2.imencode(".png", pixels, (cv2.IMWRITE_PNG_COMPRESSION, 1))
    return bytes(content)

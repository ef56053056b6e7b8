"""Calls a capeserve server from Python: `Client`, and `AsyncClient` for asyncio.

    with Client("localhost:50051") as client:
        support = client.create_support(read_support("cat.yaml"))
        pose = client.estimate("query.jpg", support.name)
        print(pose.instances[0].names, pose.instances[0].keypoints)

Both have the same methods. Failed calls raise a `CapeError`; images that cannot be read or sent raise OSError or
ValueError. Calls are retried while the server is unavailable or full; see `ConnectionOptions`. Timeout, token and
attempts can be overridden per call: `client.estimate("query.jpg", support.name, timeout=2)`.
"""

from cape.client.answers import (
    LatencyPercentiles,
    ModelInfo,
    ModelPerformance,
    PaperFigures,
    PoseEstimate,
    PoseInstance,
    Provenance,
    Query,
    Timing,
)
from cape.client.asynchronous import AsyncClient
from cape.client.connection import CallOptions, ConnectionOptions
from cape.client.errors import (
    CancelledError,
    CapeError,
    DeadlineExceededError,
    FailedPreconditionError,
    FieldViolation,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ServerError,
    UnauthenticatedError,
    UnavailableError,
)
from cape.client.synchronous import Client
from cape.support import (
    Box,
    ImageSource,
    KeypointDefinition,
    Modality,
    RegisteredSupport,
    SupportDefinition,
    SupportExample,
)

__all__ = [
    "AsyncClient",
    "Box",
    "CallOptions",
    "CancelledError",
    "CapeError",
    "Client",
    "ConnectionOptions",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "FieldViolation",
    "ImageSource",
    "InvalidRequestError",
    "KeypointDefinition",
    "LatencyPercentiles",
    "Modality",
    "ModelInfo",
    "ModelPerformance",
    "NotFoundError",
    "OverloadedError",
    "PaperFigures",
    "PermissionDeniedError",
    "PoseEstimate",
    "PoseInstance",
    "Provenance",
    "Query",
    "RegisteredSupport",
    "ResourceExhaustedError",
    "ServerError",
    "SupportDefinition",
    "SupportExample",
    "Timing",
    "UnauthenticatedError",
    "UnavailableError",
]

"""What a gateway is started with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cape.client import ConnectionOptions

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
"""Example annotations and images: beside this package in a checkout, and in `gateway/examples` in a wheel."""

PACKAGED_EXAMPLES = Path(__file__).resolve().parent / "examples"


def default_examples() -> Path:
    """Folder of the example supports that come with capeserve."""
    return PACKAGED_EXAMPLES if PACKAGED_EXAMPLES.is_dir() else EXAMPLES


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Settings of a gateway.

    Attributes:
        target: "host:port" of the capeserve server.
        connection: TLS, timeout and message size. Its token is used for callers that send none.
        examples: folder of example supports (YAML files and their images) that the playground offers.
        documentation: folder of the built documentation site, served under /docs; None for none.
        allowed_origins: origins of other web pages that may call the API (CORS), such as "https://example.com".
        max_body_bytes: largest request body. Base64 makes an image a third larger than the gRPC message it becomes.
        state: folder in which labelling back ends remember what they learnt; None for memory only.
    """

    target: str = "localhost:50051"
    connection: ConnectionOptions = field(default_factory=ConnectionOptions)
    examples: Path | None = field(default_factory=default_examples)
    documentation: Path | None = None
    allowed_origins: tuple[str, ...] = ()
    max_body_bytes: int = 96 * 2**20
    state: Path | None = None

"""Everything that can be set about a server, in one typed object.

Read once, at the edge, weakest first: defaults, a YAML or TOML file, environment variables (`CAPESERVE_` and
the field's name in capitals), command line flags. Nothing further down reads the environment.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import unquote

import yaml
from pydantic import ByteSize, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from service.process.cpus import available_cpus

ENVIRONMENT_PREFIX = "CAPESERVE_"
MIB = 1024 * 1024


class SettingsError(ValueError):
    """Settings that cannot be used; the message names the setting and is one line."""


def default_registry() -> str:
    """Where supports are kept unless told otherwise: a file in the user's state folder (XDG)."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return f"sqlite:///{Path(state) / 'capeserve' / 'supports.sqlite3'}"


class _Environment(EnvSettingsSource):
    """Environment variables, without those that Kubernetes makes up.

    A Kubernetes service called "capeserve" puts CAPESERVE_PORT=tcp://10.0.0.1:50051 into every pod around it.
    """

    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__call__().items() if not str(value).startswith("tcp://")}


class Settings(BaseSettings):
    """Settings of a server. Sizes take bytes, or text such as '16MiB'."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, extra="forbid", frozen=True)

    repository: Path = Field(description="Folder that `capeserve export` wrote.")
    default_system: str = Field("", description="System that answers requests without a model; empty: the first.")
    engine: Literal["auto", "onnxruntime", "openvino", "triton"] = Field(
        "auto",
        description="What runs the models: ONNX Runtime or OpenVINO in this process, or a Triton server; auto: "
        "OpenVINO where it is installed and there is no accelerator, else ONNX Runtime.",
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="Of the arithmetic: bfloat16 with engine openvino on CPUs that have it, float16 on GPUs.",
    )
    triton_url: str = Field(
        "127.0.0.1:8001",
        pattern=r"^[^/\s]+:\d+$",
        description="HOST:PORT of Triton's gRPC, with engine triton.",
    )
    providers: tuple[str, ...] = Field(
        (),
        description="ONNX Runtime execution providers, in order (flag: repeat it; environment: JSON); empty: the best.",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of the engine; unset: one per CPU.")
    max_batch: int | None = Field(
        None,
        ge=1,
        description="Most crops in one run of the image backbone; unset: what pays, 4 on CPUs, on others all that the "
        "model takes. Triton has its own.",
    )

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every network.")
    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    share_port: bool = Field(
        False,
        description="Share the gRPC port with other processes of this user (SO_REUSEPORT): the kernel spreads "
        "connections over them.",
    )
    metrics_port: int = Field(9464, ge=0, le=65535, description="Prometheus port; 0 turns it off.")
    max_connection_age_seconds: float = Field(
        0.0,
        ge=0,
        description="Ask clients to connect anew after so long, which spreads them over new replicas; calls that run "
        "are finished; 0: never.",
    )
    max_connections: int = Field(1000, ge=1, description="Client connections at a time; more are closed at once.")
    reflection: bool = Field(True, description="Let clients list services and read the protos.")
    health_port: int = Field(
        0, ge=0, le=65535, description="Another port, of health alone and without TLS, for probes; 0 turns it off."
    )

    tls_certificate: Path | None = Field(
        None, description="PEM file of the server's certificate and its chain; turns TLS on, read again when replaced."
    )
    tls_key: Path | None = Field(None, description="PEM file of its private key.")
    tls_client_authority: Path | None = Field(
        None, description="PEM file of the authority whose certificates clients must show (mutual TLS)."
    )
    tokens: Path | None = Field(
        None, description="File that `capeserve token` writes: every call but health needs one of its tokens."
    )

    registry: str = Field(
        default_factory=default_registry,
        description="Keeps supports: sqlite:///FILE (a fourth slash if absolute), sqlite:// for memory, "
        "or redis://HOST for several replicas; rediss:// with TLS; redis+sentinel://HOST,HOST/SERVICE by Sentinel.",
    )

    max_tenant_storage_bytes: ByteSize = Field(
        ByteSize(0), ge=0, description="Most bytes of a tenant's registered supports; 0: no limit."
    )

    max_message_bytes: ByteSize = Field(
        ByteSize(32 * MIB),
        ge=1024,
        description="Largest request; larger ones gRPC refuses unread (RESOURCE_EXHAUSTED).",
    )
    message_memory_bytes: ByteSize = Field(
        ByteSize(1024 * MIB),
        ge=1024,
        description="Memory for request messages; calls beyond it wait before they are read.",
    )
    max_answer_bytes: ByteSize = Field(
        ByteSize(32 * MIB),
        ge=1024,
        description="Largest answer; queries whose answer could be larger are refused before they are computed.",
    )
    max_image_bytes: ByteSize = Field(ByteSize(16 * MIB), ge=1, description="Largest image of a request.")
    max_image_pixels: int = Field(50_000_000, ge=1, description="Most pixels of an image, checked before decoding.")
    max_image_scans: int = Field(100, ge=1, description="Most scans of a progressive JPEG; encoders write about 10.")
    decode_seconds: float = Field(
        10.0, gt=0, description="Time limit of decoding one image; while all threads exceed it, liveness fails."
    )
    decode_memory_bytes: ByteSize = Field(
        ByteSize(1024 * MIB), ge=1, description="Memory for images being decoded, 8 bytes a pixel; more wait."
    )
    max_boxes: int = Field(64, ge=1, description="Most boxes of a request.")
    max_batch_items: int = Field(256, ge=1, description="Most requests of a BatchEstimatePose.")
    batch_concurrency: int = Field(16, ge=1, description="Items of one batch that are worked on at a time.")
    stream_concurrency: int = Field(16, ge=1, description="Unanswered requests of one stream before it stops reading.")
    max_in_flight: int = Field(256, ge=1, description="Calls at a time; more get RESOURCE_EXHAUSTED.")
    max_queue: int = Field(1024, ge=1, description="Rows waiting for the engine; more get RESOURCE_EXHAUSTED.")
    decode_threads: int = Field(
        default_factory=available_cpus,
        ge=1,
        description="Images decoded at a time; default: one per CPU.",
    )

    support_cache_bytes: ByteSize = Field(ByteSize(256 * MIB), ge=0, description="Memory for encoded supports.")
    text_cache_bytes: ByteSize = Field(
        ByteSize(64 * MIB),
        ge=0,
        description="Memory for text embeddings, and as much for a language model's questions.",
    )
    definition_cache_bytes: ByteSize = Field(ByteSize(16 * MIB), ge=0, description="Memory for support definitions.")

    default_deadline_seconds: float = Field(
        30.0, gt=0, description="Deadline of requests that bring none, and the longest of a stream's items."
    )
    hang_seconds: float = Field(60.0, gt=0, description="An engine run that takes longer counts as hung.")
    drain_seconds: float = Field(30.0, ge=0, description="On SIGTERM, how long running calls may take to finish.")

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is logged."
    )
    logged_calls: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of successful calls that get a line in the log, 0 to 1; failed ones always do.",
    )
    log_format: Literal["text", "json"] = Field("text", description="Lines for people, or one JSON object a line.")
    tracing_endpoint: str = Field(
        "",
        pattern=r"^(https?://[^/\s]+:\d+)?$",
        description="OTLP collector (gRPC) that gets traces, http://HOST:PORT or https://HOST:PORT; empty: no traces.",
    )
    tracing_sample_ratio: float = Field(
        1.0, ge=0, le=1, description="Share of traces to record, 0 to 1; a caller's traceparent decides for its own."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leaves only what is passed in: `load_settings` reads the other sources."""
        return (init_settings,)

    @model_validator(mode="after")
    def _an_image_fits_in_a_message(self) -> Self:
        # Room for the rest of the message, so that a slightly oversized image still gets a field error.
        if self.max_message_bytes < self.max_image_bytes + 1024:
            raise ValueError("max_message_bytes must be larger than max_image_bytes by at least 1024")
        return self

    @model_validator(mode="after")
    def _a_certificate_comes_with_its_key(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key: one is of no use without the other")
        if self.tls_client_authority is not None and self.tls_certificate is None:
            raise ValueError("tls_client_authority needs tls_certificate and tls_key")
        return self

    def describe(self) -> str:
        """Every setting in one line for the log, with secrets masked."""
        return " ".join(f"{name}={without_secrets(str(value))}" for name, value in self)


SECRET_PARAMETERS = re.compile(r"pass|pwd|secret|token|key|cred|auth|user|sig", re.IGNORECASE)
"""Query parameters of a URL whose values are masked."""


def without_secrets(url: str) -> str:
    """A URL with user, password and secret query parameters masked; any other text is returned as it is."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    path, question, query = rest.partition("?")
    if "@" in path:
        # Everything before the last @, also where a password holds a slash or another @.
        path = f"***@{path.rpartition('@')[2]}"
    pairs = []
    for pair in filter(None, re.split(r"[&;]", query)):
        name, equals, _ = pair.partition("=")
        pairs.append(f"{name}=***" if equals and SECRET_PARAMETERS.search(unquote(name)) else pair)
    masked = "&".join(pairs)
    if "@" in masked and "@" not in path:  # the question mark is part of a password
        return f"{scheme}://***@{masked.rpartition('@')[2]}"
    return f"{scheme}://{path}{question}{masked}"


def load_settings(config: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Merges a file, the environment and flags.

    Args:
        config: YAML (.yaml, .yml) or TOML (.toml) file with fields of `Settings`.
        flags: fields that were given on the command line; None values count as not given.

    Raises:
        SettingsError: a file that cannot be read, or a value that cannot be used.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    from_file = _read_file(config) if config is not None else {}
    try:
        return Settings(**(from_file | _Environment(Settings)() | given))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            flag, variable = f"--{name.replace('_', '-')}", f"{ENVIRONMENT_PREFIX}{name.upper()}"
            raise SettingsError(f"{name} is required: {flag}, {variable}, or {name} in a file") from None
        raise SettingsError(f"{name}: {first['msg']}" if name else first["msg"]) from None
    except ValueError as error:  # pydantic-settings raises its own for values that are not JSON where JSON is due
        raise SettingsError(str(error).splitlines()[0]) from None


def _read_file(path: Path) -> dict[str, Any]:
    """Reads a settings file into a dictionary; raises SettingsError."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            return tomllib.loads(text)
        if path.suffix in {".yaml", ".yml"}:
            document = yaml.safe_load(text)
        else:
            raise SettingsError(f"{path}: a settings file ends in .yaml, .yml or .toml")
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {' '.join(str(error).split())}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: expected settings by name, not a {type(document).__name__}")
    return {str(name): value for name, value in document.items()}

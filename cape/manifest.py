"""The model manifest, `cape.json`, which describes an exported repository.

It is the contract between `export`, which writes it, and `service`, which reads it: systems, components, shapes,
limits, precision, origin of the weights and difference from PyTorch. The service has no other source for these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from cape.capellm.configuration import InstructionConfiguration, Readout, SpecialTokens
from cape.manifest_components import (
    DEFAULT_SCHEDULING as DEFAULT_SCHEDULING,
)
from cape.manifest_components import (
    ComponentManifest as ComponentManifest,
)
from cape.manifest_components import (
    InnerPath as InnerPath,
)
from cape.manifest_components import (
    ModalityUse as ModalityUse,
)
from cape.manifest_components import (
    Name as Name,
)
from cape.manifest_components import (
    Precision as Precision,
)
from cape.manifest_components import (
    PrecisionCost as PrecisionCost,
)
from cape.manifest_components import (
    Role as Role,
)
from cape.manifest_components import (
    Scheduling as Scheduling,
)
from cape.manifest_components import (
    Strict as Strict,
)
from cape.manifest_components import (
    TensorSpec as TensorSpec,
)
from cape.manifest_components import (
    VariantManifest as VariantManifest,
)
from cape.manifest_components import (
    VariantName as VariantName,
)

MANIFEST_NAME = "cape.json"
"""File name of the manifest, at the root of an exported repository."""

MODEL_FILE = "1/model.onnx"
"""Path of a component's graph inside its folder: version 1, as Triton lays repositories out."""

QUERY_SUFFIX = "_query"
"""Suffix of a system's Triton ensemble, '<system>_query', which takes a query's crop and support tokens."""


class ManifestError(ValueError):
    """A repository's manifest is missing, unreadable or invalid."""


class TextEncoderManifest(Strict):
    """How texts are converted to inputs of the text encoder."""

    kind: str = Field(description="Architecture: 'gte', 'bert', 'clip' ...")
    name: str = Field(description="Name of the text encoder: 'gte-base-en-v1.5'.")
    dimension: int = Field(ge=1)
    max_tokens: int = Field(ge=1, description="Texts are truncated to this many tokens.")
    tokenizer: InnerPath = Field(description="Path of a tokenizers JSON file, relative to the repository.")
    tokenizer_sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="Digest of that file; None in older exports.",
    )
    pad_token_id: int = Field(ge=0)


class Modalities(Strict):
    """Modalities that a system requires of a support."""

    image: ModalityUse
    text: ModalityUse

    @model_validator(mode="after")
    def _something_is_used(self) -> Modalities:
        uses = {self.image, self.text}
        if uses == {"unused"} or uses == {"optional", "unused"}:
            raise ValueError("a system needs a required modality or a choice of two")
        return self


class ParityEntry(Strict):
    """Difference between an exported graph and PyTorch in float32, over all cases that the export ran."""

    output: str = Field(description="'<component>.<output>', or 'chain.<output>' for the components run in sequence.")
    cases: int = Field(ge=1)
    largest: float = Field(ge=0, description="Largest absolute difference.")
    p999: float = Field(ge=0, description="99.9th percentile of the absolute difference.")
    scale: float = Field(ge=0, description="Standard deviation of the PyTorch output, for scale.")


class SourceManifest(Strict):
    """Origin of the weights."""

    checkpoint: str = Field(description="File or folder name of the checkpoint.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    trained: bool = Field(description="False for random weights, whose answers are meaningless.")


class _System(Strict):
    """Fields common to all systems."""

    components: dict[Role, Name] = Field(description="Role → name of a component of the repository.")
    backbone: str = Field(description="Image encoder.")
    modalities: Modalities
    parameters: int = Field(ge=1)
    parity: tuple[ParityEntry, ...] = ()
    precisions: tuple[PrecisionCost, ...] = Field((), description="Measured cost of reduced precisions.")
    source: SourceManifest | None = Field(None, description="Its own weights, if not the repository's.")
    query: tuple[Role, ...] = Field((), description="Roles that run for a query with a cached support, in order.")

    def _require(self, *roles: Role) -> None:
        for role in roles:
            if role not in self.components:
                raise ValueError(f"components: no {role}")


class SystemManifest(_System):
    """A system that encodes a support to tokens and finds keypoints with them."""

    pipeline: Literal["support_tokens"] = "support_tokens"
    backbone_channels: int = Field(ge=1)
    feature_size: int = Field(ge=1, description="Side of the backbone's last feature map, in cells.")
    similarity_size: int = Field(ge=1, description="Side of the similarity maps, in cells.")
    model_width: int = Field(ge=1, description="Width of a support token.")
    pathways: int = Field(ge=1, description="P, support tokens per keypoint; 2 for decision-level fusion.")
    text_encoder: TextEncoderManifest | None = None

    @model_validator(mode="after")
    def _text_needs_an_encoder(self) -> SystemManifest:
        reads_text = self.modalities.text != "unused"
        if reads_text and (self.text_encoder is None or "text_encoder" not in self.components):
            raise ValueError("a system that reads text needs a text encoder")
        return self

    @property
    def text_model(self) -> str:
        """Name of the text encoder; empty if there is none."""
        return self.text_encoder.name if self.text_encoder else ""

    @property
    def main_component(self) -> str:
        """The component that does most of the work, and whose precision speaks for the system."""
        return self.components["image_backbone"]

    @property
    def wording(self) -> str:
        """Everything besides its graphs that affects its answers."""
        return ""


class CacheManifest(Strict):
    """Dimensions of a language model's key-value cache: each [batch items, layers, heads, positions, depth]."""

    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    depth: int = Field(ge=1)


class TextLimits(Strict):
    """Limits on texts, in tokens of the language model's vocabulary."""

    category: int = Field(ge=1)
    name: int = Field(ge=1)
    description: int = Field(ge=1)
    sequence: int = Field(ge=1, description="Image, instruction, one question and its answer together.")


class RoundedWeights(Strict):
    """Effect of quantised weights on answers, compared with float32 on the same questions."""

    weights: Literal["int8", "int4"] = Field(description="Precision of the language model's weights.")
    answers: int = Field(ge=1, description="Number of keypoints.")
    equal_answers: float = Field(ge=0, le=1, description="Share of answers that are identical token for token.")
    equal_tokens: float = Field(ge=0, le=1, description="Share of decoded digit tokens that are identical.")
    mean_distance: float = Field(ge=0, description="Distance between keypoints, as a fraction of the crop.")
    largest_distance: float = Field(ge=0)
    tolerance: float = Field(ge=0, description="Mean distance that the export accepted.")


class LanguageSystemManifest(_System):
    """A language model that is asked one question per keypoint about an image."""

    pipeline: Literal["language_model"] = "language_model"
    language: str = Field(description="Architecture of the language model: 'llama'.")
    width: int = Field(ge=1, description="D, width of an image token.")
    image_tokens: int = Field(ge=1, description="N, image tokens per image.")
    cache: CacheManifest
    tokenizer: InnerPath = Field(description="Path of a tokenizers JSON file, relative to the repository.")
    tokenizer_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    special_tokens: SpecialTokens
    instruction: InstructionConfiguration
    readout: Readout = Field(description="How digits are turned into a coordinate.")
    limits: TextLimits
    rounded: RoundedWeights | None = Field(None, description="None: weights are float32.")

    @model_validator(mode="after")
    def _both_components(self) -> LanguageSystemManifest:
        self._require("capellm_vision", "capellm_decoder")
        return self

    @property
    def text_model(self) -> str:
        """Name of the language model."""
        return self.language

    @property
    def main_component(self) -> str:
        """The component that does most of the work, and whose precision speaks for the system."""
        return self.components["capellm_decoder"]

    @property
    def wording(self) -> str:
        """Everything besides its graphs that affects its answers: instruction and readout."""
        return f"{self.tokenizer_sha256};{self.instruction.model_dump_json()};{self.readout}"


DEFAULT_QUERIES: dict[str, tuple[Role, ...]] = {
    "support_tokens": ("image_backbone", "pose_decoder"),
    "language_model": ("capellm_vision", "capellm_decoder"),
}
"""Default query roles by pipeline, for manifests without them."""


def _pipeline(value: Any) -> str:
    if isinstance(value, dict):
        # Repositories older than the second pipeline do not name theirs.
        return str(value.get("pipeline", "support_tokens"))
    return str(getattr(value, "pipeline", ""))


AnySystem: TypeAlias = Annotated[
    Annotated[SystemManifest, Tag("support_tokens")] | Annotated[LanguageSystemManifest, Tag("language_model")],
    Discriminator(_pipeline),
]
"""A system of any pipeline."""


class Manifest(Strict):
    """The content of `cape.json`."""

    format_version: Literal[1] = 1
    capeserve_version: str
    created: str = Field(description="UTC, ISO 8601.")
    image_size: int = Field(ge=1, le=4096, description="Side of the square crop that the backbone takes, in pixels.")
    box_padding: float = Field(gt=0, description="Side of the crop ÷ longer side of the box.")
    max_keypoints: int = Field(ge=1, le=1000)
    keypoint_buckets: tuple[int, ...] = Field(
        min_length=1,
        description="Keypoint counts that supports are padded to, ascending; the last is max_keypoints.",
    )
    max_shots: int = Field(ge=1)
    components: dict[Name, ComponentManifest]
    systems: dict[Name, AnySystem] = Field(min_length=1)
    source: SourceManifest

    @model_validator(mode="after")
    def _refers_only_to_what_is_there(self) -> Manifest:
        buckets = self.keypoint_buckets
        if list(buckets) != sorted(set(buckets)) or buckets[-1] != self.max_keypoints:
            raise ValueError("keypoint_buckets must ascend and end with max_keypoints")
        for name, system in self.systems.items():
            for role, component in system.components.items():
                if component not in self.components:
                    raise ValueError(f"systems.{name}.components.{role}: there is no component {component!r}")
        return self

    def scheduling(self, component: str) -> Scheduling:
        """Scheduling of a component: stated in the manifest, else the default of its last role in any system."""
        stated = self.components[component].scheduling
        if stated is not None:
            return stated
        roles = [
            role for system in self.systems.values() for role, name in system.components.items() if name == component
        ]
        return max((DEFAULT_SCHEDULING[role] for role in roles), key=lambda one: one.stage, default=Scheduling(stage=0))

    def query_components(self, system: str) -> tuple[str, ...]:
        """Components that run for a query with a cached support, in order."""
        spec = self.systems[system]
        roles = spec.query or DEFAULT_QUERIES[spec.pipeline]
        return tuple(spec.components[role] for role in roles if role in spec.components)

    def with_scheduling(self) -> Manifest:
        """Returns a copy with all scheduling defaults filled in, as the exporter stores it."""
        components = {
            name: component.model_copy(update={"scheduling": self.scheduling(name)})
            for name, component in self.components.items()
        }
        systems = {
            name: system.model_copy(update={"query": system.query or DEFAULT_QUERIES[system.pipeline]})
            for name, system in self.systems.items()
        }
        return self.model_copy(update={"components": components, "systems": systems})

    @property
    def support_systems(self) -> dict[str, SystemManifest]:
        """Systems that encode supports to tokens."""
        return {name: system for name, system in self.systems.items() if isinstance(system, SystemManifest)}

    @property
    def language_systems(self) -> dict[str, LanguageSystemManifest]:
        """Systems that are language models."""
        return {name: system for name, system in self.systems.items() if isinstance(system, LanguageSystemManifest)}

    def bucket(self, keypoints: int) -> int:
        """Returns the smallest bucket that fits `keypoints` keypoints.

        Raises:
            ValueError: more keypoints than the repository supports.
        """
        for size in self.keypoint_buckets:
            if keypoints <= size:
                return size
        raise ValueError(f"{keypoints} keypoints, at most {self.max_keypoints}")

    def version(self, system: str) -> str:
        """Short digest of a system's graphs and settings. Changes whenever answers may change."""
        import hashlib

        digest = hashlib.sha256()
        for role, component in sorted(self.systems[system].components.items()):
            digest.update(f"{role}:{self.components[component].sha256};".encode())
        digest.update(self.systems[system].wording.encode())
        return digest.hexdigest()[:16]


def read_manifest(repository: Path | str) -> Manifest:
    """Reads and checks the manifest of an exported repository.

    Raises:
        ManifestError: naming the folder, the missing file or the field that is wrong.
    """
    repository = Path(repository)
    path = repository / MANIFEST_NAME
    if not repository.is_dir():
        raise ManifestError(f"{repository}: no such folder; `capeserve export` writes one")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}; is this a folder written by `capeserve export`?") from None
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        # For systems, pydantic adds the pipeline to the error's path; it is not part of the document.
        places = [part for place, part in enumerate(first["loc"]) if not (place == 2 and first["loc"][0] == "systems")]
        field = ".".join(map(str, places))
        raise ManifestError(f"{path}: {field or 'document'}: {first['msg']}") from None
    for name, component in manifest.components.items():
        for file in (MODEL_FILE, *(variant.file for variant in component.variants.values())):
            if not (repository / name / file).is_file():
                raise ManifestError(f"{repository / name / file}: missing, the manifest names it")
    return manifest

"""Model configuration, stored beside the weights.

The defaults are the published ones (multi-modal paper, Table 3, and the public GraphCape and CapeX
configurations), so a file contains only what differs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

SystemName = Literal["flf", "dlf", "capex", "graphcape", "visual_only", "textual_only", "capeformer"]
Pooling = Literal["cls", "mean", "max", "weighted_mean", "last", "projection"]
GraphPlacement = Literal["pre", "post", "both", "none"]
Combination = Literal["agreement", "best", "confidence", "mean"]

IMAGE_SYSTEMS = frozenset({"flf", "dlf", "graphcape", "visual_only", "capeformer"})
"""Systems that use support images."""

TEXT_SYSTEMS = frozenset({"flf", "dlf", "capex", "textual_only"})
"""Systems that read keypoint texts."""


class ConfigurationError(ValueError):
    """An invalid configuration. The message names the field."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BackboneConfiguration(_Strict):
    """The image backbone."""

    kind: Literal["swinv2", "efficientnet_lite0"] = "swinv2"
    image_size: int = Field(default=256, ge=32, multiple_of=32)
    embed_dim: int = Field(default=96, ge=8)
    depths: tuple[int, ...] = (2, 2, 18, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = Field(default=16, ge=2)
    pretrained_windows: tuple[int, ...] = Field(
        default=(),
        description="Swin V2: window of each stage in pretraining, to which positions are scaled; none: its own.",
    )
    drop_path_rate: float = Field(default=0.3, ge=0, lt=1)
    weights: str = Field(
        default="stored",
        description="'stored' in the checkpoint, or 'package:NAME' where an installed package holds them.",
    )

    @model_validator(mode="after")
    def _one_head_count_per_stage(self) -> BackboneConfiguration:
        if len(self.depths) != len(self.heads):
            raise ValueError(f"{len(self.depths)} depths but {len(self.heads)} head counts")
        if self.pretrained_windows and len(self.pretrained_windows) != len(self.depths):
            raise ValueError(f"{len(self.depths)} depths but {len(self.pretrained_windows)} pretrained windows")
        return self

    @property
    def name(self) -> str:
        """'swinv2-tiny', 'swinv2-small', or a name made from its dimensions."""
        if self.kind == "efficientnet_lite0":
            return "efficientnet-lite0"
        known: dict[tuple[int, tuple[int, ...]], str] = {
            (96, (2, 2, 6, 2)): "tiny",
            (96, (2, 2, 18, 2)): "small",
            (128, (2, 2, 18, 2)): "base",
        }
        shape = "-".join(map(str, self.depths))
        return f"swinv2-{known.get((self.embed_dim, self.depths), f'{self.embed_dim}-{shape}')}"

    @property
    def channels(self) -> int:
        """C, channels of the feature map."""
        if self.kind == "efficientnet_lite0":
            return 432  # 112 at stride 16 beside 320 at stride 32
        return int(self.embed_dim * 2 ** (len(self.depths) - 1))

    @property
    def feature_size(self) -> int:
        """Side of the feature map, in cells."""
        return self.image_size // (16 if self.kind == "efficientnet_lite0" else 2 ** (len(self.depths) + 1))


class TextConfiguration(_Strict):
    """The text encoder: an architecture of transformers, and how its states are pooled to one vector per text."""

    kind: Literal["gte", "bert", "clip"] = "gte"
    name: str = "gte-base-en-v1.5"
    pooling: Pooling = Field(
        default="cls",
        description="CLS state; mean, maximum, mean weighted by position, or last state of the tokens; or CLIP's "
        "projected end-of-text state.",
    )
    max_tokens: int = Field(default=77, ge=2, description="Texts are truncated to this many tokens, as published.")
    architecture: dict[str, Any] = Field(
        default_factory=lambda: dict(GTE_BASE),
        description="Arguments of the transformers configuration class.",
    )
    weights: str = Field(default="stored", description="See the backbone's.")

    @property
    def dimension(self) -> int:
        """D of the embeddings."""
        key = "projection_dim" if self.kind == "clip" else "hidden_size"
        return int(self.architecture[key])


GTE_BASE: dict[str, Any] = {
    "vocab_size": 30528,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "type_vocab_size": 0,
    "max_position_embeddings": 8192,
    "pad_token_id": 0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "ntk_factor": 2.0,
}
"""gte-base-en-v1.5: 136.776 M parameters, no token-type table, rotary embedding with fixed NTK scaling."""

MINILM: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
"""all-MiniLM-L6-v2. Its sentence embedding is the mean over tokens."""


class HeadConfiguration(_Strict):
    """Encoder, proposal generator and decoder (Table 3, 'Transformer Head')."""

    width: int = Field(default=256, ge=8, multiple_of=4)
    heads: int = Field(default=8, ge=1)
    feedforward: int = Field(default=768, ge=8)
    gate_width: int = Field(default=128, ge=1, description="Width inside the proposal generator's gate.")
    encoder_layers: int = Field(default=3, ge=1)
    decoder_layers: int = Field(default=3, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    similarity_size: int = Field(default=16, ge=2, description="Side of the similarity map, in cells.")
    graph: GraphPlacement = Field(default="pre", description="Which feed-forward layers are graph convolutions.")

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> HeadConfiguration:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")
        return self


class SystemConfiguration(_Strict):
    """A complete model."""

    system: SystemName = "flf"
    backbone: BackboneConfiguration = BackboneConfiguration()
    text: TextConfiguration | None = TextConfiguration()
    head: HeadConfiguration = HeadConfiguration()
    leading: Literal["image", "text"] = Field(
        default="image", description="FLF: modality that the other is fused into (equations 3 and 4)."
    )
    projections: bool = Field(
        default=True,
        description="FLF: learned W_Q, W_K, W_V (equation 1); if false, only a visual query_proj and γ.",
    )
    combination: Combination = Field(
        default="agreement",
        description="DLF: how the pathways' answers are combined; see `cape.models.dlf_combination.pathway_weights`.",
    )
    agreement_radius: float = Field(
        default=0.1, ge=0, description="DLF, 'agreement': distance up to which answers are averaged ÷ side of the crop."
    )
    shot_visibility: Literal["all", "any"] = Field(
        default="any",
        description="A keypoint counts when it is visible in all shots (as published) or in any of them.",
    )
    modality_dropout: bool = Field(
        default=False, description="FLF: trained with modalities left out, so that a support may lack one."
    )
    max_keypoints: int = Field(default=100, ge=1)
    box_padding: float = Field(default=1.25, gt=0, description="Side of the crop ÷ longer side of the box.")
    trained: bool = Field(default=False, description="False: the weights are random and answers are meaningless.")

    @model_validator(mode="after")
    def _parts_fit_together(self) -> SystemConfiguration:
        if self.reads_text and self.text is None:
            raise ValueError(f"{self.system} reads text and needs a text encoder")
        if not self.reads_text and self.text is not None:
            raise ValueError(f"{self.system} reads no text: set text to null")
        if self.system == "capeformer" and self.head.graph != "none":
            raise ValueError("capeformer has no graph: set head.graph to 'none'")
        if self.head.similarity_size % self.backbone.feature_size:
            raise ValueError(
                f"head.similarity_size {self.head.similarity_size} is not a multiple of the "
                f"backbone's feature map, {self.backbone.feature_size}"
            )
        return self

    @property
    def reads_images(self) -> bool:
        """Whether support images are used."""
        return self.system in IMAGE_SYSTEMS

    @property
    def reads_text(self) -> bool:
        """Whether keypoint texts are used."""
        return self.system in TEXT_SYSTEMS

    @property
    def pathways(self) -> int:
        """P, number of transformers that run in parallel."""
        return 2 if self.system == "dlf" else 1


def parse_configuration(document: str | bytes, source: Path | str) -> SystemConfiguration:
    """Parses a JSON configuration.

    Raises:
        ConfigurationError: naming the source and the invalid field.
    """
    try:
        return SystemConfiguration.model_validate_json(document)
    except ValidationError as error:
        raise first_mistake(error, source) from None


def first_mistake(error: ValidationError, source: Path | str) -> ConfigurationError:
    """Formats the first error in a configuration, with source and field."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "document"
    return ConfigurationError(f"{source}: {field}: {first['msg']}")

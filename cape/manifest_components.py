"""The components of a model manifest: tensors, variants, precision costs, scheduling."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Role = Literal["image_backbone", "text_encoder", "support_fusion", "pose_decoder", "capellm_vision", "capellm_decoder"]
"""Function of a component. A system has one component per role; systems may share components. The last two roles are
those of language models."""

ModalityUse = Literal["required", "optional", "unused"]
"""Whether a support must have a modality. Where several are `optional`, it must have at least one."""


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")]
"""Name of a component or system: a folder of the repository, a label of metrics, part of resource names."""


def _inside(path: str) -> str:
    parts = path.replace("\\", "/").split("/")
    if not path or path.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in path:
        raise ValueError("must be a path inside the repository")
    return path


InnerPath = Annotated[str, AfterValidator(_inside)]
"""Path of a file, relative to the repository and inside it."""


class Strict(BaseModel):
    """A part of the manifest: immutable, without unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorSpec(Strict):
    """An input or output of a component."""

    name: str
    dtype: Literal["uint8", "int64", "float32", "float16"]
    shape: tuple[int | str, ...] = Field(description="Sizes; a name such as 'B' or 'K' for a dynamic size.")


VariantName = Literal["fused", "float16", "int8"]
"""Other graphs of a component. fused: float32 with fewer, larger operators, for GPUs. float16: the same in float16,
with float32 islands. int8: quantised, for CPUs."""

Precision = Literal["float32", "bfloat16", "float16", "int8"]
"""Precision of a system's arithmetic; chosen by the server."""


class VariantManifest(Strict):
    """Another graph of a component with the same inputs and outputs, for machines that run it faster."""

    file: str = Field(description="Path inside the component's folder: 'variants/float16.onnx'.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of the graph file.")
    bytes: int = Field(ge=1, description="Size of the graph with its weights.")
    operators: int = Field(ge=1, description="Nodes of the graph.")


class PrecisionCost(Strict):
    """What a reduced precision does to a system's answers, compared with float32 on the same crops."""

    precision: Literal["bfloat16", "float16", "int8"]
    keypoints: int = Field(ge=1, description="Number of keypoints compared.")
    median_shift: float = Field(ge=0, description="Median distance between keypoints, as a fraction of the crop.")
    p99_shift: float = Field(ge=0, description="99th percentile of that distance.")
    pck_lost: float | None = Field(None, description="Loss of PCK@0.2 in points, if measured on annotated data.")
    emulated: bool = Field(False, description="Simulated by rounding in float32.")


class Scheduling(Strict):
    """Scheduling hints of a component."""

    stage: int = Field(ge=0, description="Position in a request: components with smaller numbers run first.")
    entrance: bool = Field(False, description="Whether requests begin with it. Admission control applies only there.")
    uneven_cost: bool = Field(
        False,
        description="Whether costs of batch items vary widely, as in a language model.",
    )


DEFAULT_SCHEDULING: dict[Role, Scheduling] = {
    "image_backbone": Scheduling(stage=0, entrance=True),
    "capellm_vision": Scheduling(stage=1, entrance=True),
    "text_encoder": Scheduling(stage=2, entrance=True),
    "support_fusion": Scheduling(stage=3),
    "pose_decoder": Scheduling(stage=4),
    "capellm_decoder": Scheduling(stage=5, uneven_cost=True),
}
"""Scheduling of components whose manifest does not state it: repositories of format 1 before 0.2."""


class ComponentManifest(Strict):
    """One graph of the repository."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: Literal["float32", "float16", "bfloat16", "int8", "int4"] = Field(
        "float32", description="Precision of its products; int8 and int4 refer to stored weights."
    )
    max_batch_size: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of the graph file and of its external data.")
    bytes: int = Field(ge=1, description="Size of the graph with its weights.")
    parameters: int = Field(ge=0)
    operators: int | None = Field(None, ge=1, description="Nodes of the graph.")
    variants: dict[VariantName, VariantManifest] = Field(default_factory=dict, description="Alternative graphs.")
    scheduling: Scheduling | None = Field(None, description="None: the default for the component's role.")

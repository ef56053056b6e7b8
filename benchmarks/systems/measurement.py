"""Measures every system of the paper in every form: `capeserve bench systems` writes docs/systems.md.

Each is built at the published size (Swin V2-S, gte-base) with random weights, counted, exported, compared with
PyTorch by the exporter, served by a process of its own and called over gRPC; where the published code's own answers
are at hand, PyTorch and the exported graphs are compared with those too.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.capellm.systems import SYSTEM as CAPELLM
from benchmarks.cost.measurement import Sizes, measure_cost, published_configuration
from benchmarks.harness.machine import describe_machine
from cape.annotations import read_support
from cape.checkpoints import Checkpoint, untrained
from cape.client import Client
from cape.configuration import SystemName
from cape.models.system import SWIN_CLASSIFIER_PARAMETERS
from cape.predictor import Predictor
from cape.pretrained.text_encoders import bert_tokenizer
from export.repository import export_repository
from tests import golden_models as golden

GOLDEN: dict[SystemName, tuple[str, ...]] = {
    "graphcape": ("graphcape_s_1shot",),
    "capex": ("capex_t",),
    "capeformer": ("graphcape_t_mlp",),
}
"""Golden files of the published code, by system."""

NONE = "no published code"

Serve = Callable[[Path], AbstractContextManager[str]]
"""Serves a repository in its own process; yields the target."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of a system.

    Attributes:
        system: which one.
        parameters: in all, the backbone's unused classifier included as in Table 5.
        per_query: multiply-adds of a query whose support set is cached.
        uncached: multiply-adds of a query that brings a new support set.
        parity: largest difference of a keypoint between ONNX Runtime and PyTorch, fraction of the crop.
        golden_torch: largest difference of a keypoint between PyTorch and the published code; None without such code.
        golden_onnx: the same for the exported graphs.
        served: largest difference of a keypoint between the running service and PyTorch, in pixels of the image.
    """

    system: SystemName
    parameters: int
    per_query: int
    uncached: int
    parity: float
    golden_torch: float | None
    golden_onnx: float | None
    served: float


def measure_system(system: SystemName, support: Path, photograph: Path, serve: Serve) -> Row:
    """Builds, exports, serves and compares a system.

    Args:
        system: which one.
        support: annotation of a support image.
        photograph: the query.
        serve: serves the export.
    """
    configuration = published_configuration(system)
    cost = measure_cost(configuration, Sizes())
    tokenizer = bert_tokenizer(configuration.text) if configuration.text is not None else None
    model = untrained(configuration)
    checkpoint = Checkpoint(model, tokenizer, Path(f"untrained-{system}"), "0" * 64)
    definition = read_support(support)
    (expected,) = Predictor(checkpoint).estimate(photograph, definition)
    with tempfile.TemporaryDirectory() as folder:
        exported = export_repository(checkpoint, Path(folder) / "repository")
        with serve(Path(folder) / "repository") as target, Client(target) as client:
            answer = client.estimate(photograph, definition)
    parity = {entry.output: entry.largest for entry in exported.manifest.systems[system].parity}
    located = expected.located
    served = np.abs(answer.instances[0].keypoints - expected.keypoints)[located].max()
    torch_difference, onnx_difference = _golden(system)
    return Row(
        system=system,
        parameters=cost.parameters + SWIN_CLASSIFIER_PARAMETERS,
        per_query=cost.per_query,
        uncached=cost.uncached,
        parity=parity["chain.keypoints"],
        golden_torch=torch_difference,
        golden_onnx=onnx_difference,
        served=float(served),
    )


def _golden(system: SystemName) -> tuple[float | None, float | None]:
    in_torch, exported = [], []
    for name in GOLDEN.get(system, ()):
        case = golden.load(name)
        valid, model = case.mask > 0, golden.published_system(case.state)
        in_torch.append(np.abs(golden.answer(model, case).keypoints.numpy() - case.output[-1])[valid].max())
        with tempfile.TemporaryDirectory() as folder:
            outputs = golden.exported_answer(model, case, Path(folder))
        exported.append(np.abs(outputs["keypoints"] - case.output[-1])[valid].max())
    return (float(max(in_torch)), float(max(exported))) if in_torch else (None, None)


def document(old: str, rows: Sequence[Row], section: str | None) -> str:
    """The document of all systems.

    Args:
        old: its earlier text; a part that is not measured now stays, with its date and machine.
        rows: of the paper's systems; empty if not measured.
        section: of CapeLLM, from `benchmarks.capellm.systems`; None if not measured.
    """
    heading = f"## {CAPELLM}\n"
    table, _, behind = old.partition(heading)
    parts = (systems_table(rows) if rows else table, section if section is not None else behind and heading + behind)
    return "\n".join(part.strip() + "\n" for part in parts if part)


def systems_table(rows: Sequence[Row]) -> str:
    """The measurements of the paper's systems, as Markdown."""
    lines = [
        "# Systems",
        "",
        "Every system of the paper at the published size (Swin V2-S; gte-base where it reads text), random weights.",
        "Made by `capeserve bench systems --output docs/systems.md`; nothing here is typed by hand.",
        "",
        "| system | parameters, M | multiply-adds of a query, cached support, G | new support, G | ONNX − PyTorch "
        "| PyTorch − published code | ONNX − published code | service − PyTorch, px |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| `{row.system}` | {row.parameters / 1e6:.3f} | {row.per_query / 1e9:.3f} | {row.uncached / 1e9:.3f} "
        f"| {row.parity:.1e} | {_or_none(row.golden_torch)} | {_or_none(row.golden_onnx)} | {row.served:.1e} |"
        for row in rows
    ]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return "\n".join(
        [
            *lines,
            "",
            "Differences are the largest of a keypoint coordinate: as fractions of the crop, and for the service in",
            "pixels of the photograph (512 pixels high), from a request over gRPC to its answer. Parameters count the",
            "1000-class head that the public code keeps in its backbone and never runs, as the paper's Table 5 does;",
            "multiply-adds are for 17 keypoints, one support image and texts of 6 tokens (`capeserve bench cost`",
            "explains every difference from Table 5). The published code's answers are the golden files of",
            "`tests/data/golden`: GraphCape with Swin V2-S, CapeX and the decoder without a graph with Swin V2-T.",
            "",
            f"{describe_machine()}, {today}.",
            "",
        ]
    )


def _or_none(value: float | None) -> str:
    return NONE if value is None else f"{value:.1e}"

"""An exported repository → the same with its image backbone in int8: static, calibrated on crops, and checked.

Weights become int8 per output channel, activations uint8 with scales from calibration, both written as pairs of
QuantizeLinear and DequantizeLinear (QDQ), which ONNX Runtime, OpenVINO and TensorRT read. Only the backbone is worth
it, nine tenths of a query; the pose decoder's keypoints are read off small differences.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from cape.manifest import (
    MANIFEST_NAME,
    MODEL_FILE,
    AnySystem,
    Manifest,
    Role,
    read_manifest,
)
from export.graph import ExportError, graph_digest
from export.repository import check_output, written_whole
from export.triton.configurations import write_configurations
from export.triton.options import TritonOptions

ROLE: Role = "image_backbone"
"""What is quantised."""

QUANTISED = ("MatMul", "Gemm", "Conv")
"""Operators that are quantised, where they have weights: attention's products of two activations are small."""

Progress = Callable[[str, int, int], None]

Check = Callable[[Path], None]
"""Looks at the finished repository before it is put in its place; raises `ExportError` to refuse it."""


def quantise_repository(
    source: Path,
    output: Path,
    crops: Sequence[npt.NDArray[np.uint8]],
    check: Check,
    *,
    force: bool = False,
    progress: Progress = lambda step, done, total: None,
) -> Manifest:
    """Writes a copy of a repository whose image backbones are in int8, whole or not at all.

    Args:
        source: an exported repository; stays as it is.
        output: folder of the result; must not exist, or be empty, unless `force`.
        crops: RGB, uint8 [size, size, 3] each: what activations are calibrated on.
        check: judges the result; see `Check`.
        force: replace what is there.
        progress: told about every step.

    Returns:
        The manifest of the result.

    Raises:
        ManifestError: `source` is no repository.
        ExportError: the output is there already, a backbone is not in float32 or has TensorRT plans, there are no
            crops, or `check` refuses.
    """
    manifest = read_manifest(source)
    systems = manifest.systems.values()
    backbones = sorted({part for system in systems for role, part in system.components.items() if role == ROLE})
    if not backbones:
        raise ExportError(f"{source}: no system has an {ROLE}")
    for name in backbones:
        if (precision := manifest.components[name].precision) != "float32":
            raise ExportError(f"{source}: {name} is in {precision}; float32 is needed")
        if any((source / name).glob("*/*.plan")):
            raise ExportError(f"{source}: {name} has TensorRT plans, which Triton would serve; quantise without them")
    if not crops:
        raise ExportError("calibration: no images")
    if output.resolve() == source.resolve():
        raise ExportError(f"{output} is the repository itself; choose another folder")
    check_output(output, force)
    with written_whole(output) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True, copy_function=_link)
        components = dict(manifest.components)
        for done, name in enumerate(backbones):
            progress(f"calibrating {name} on {len(crops)} images", done, len(backbones) + 1)
            _take_out(partial / name / MODEL_FILE)
            quantise_graph(source / name / MODEL_FILE, partial / name / MODEL_FILE, crops)
            digest, size = graph_digest(partial / name / MODEL_FILE)
            changes = {"precision": "int8", "sha256": digest, "bytes": size}
            components[name] = components[name].model_copy(update=changes)
        changed = {name: _without_parity(system) for name, system in manifest.systems.items()}
        quantised = manifest.model_copy(update={"components": components, "systems": changed})
        (partial / MANIFEST_NAME).unlink()
        (partial / MANIFEST_NAME).write_text(quantised.model_dump_json(indent=2) + "\n", encoding="utf-8")
        for configuration in partial.glob("*/config.pbtxt"):
            configuration.unlink()  # a link: writing to it would change the source's
        write_configurations(partial, quantised, TritonOptions())
        progress("checking the accuracy", len(backbones), len(backbones) + 1)
        check(partial)
    return quantised


def quantise_graph(source: Path, target: Path, crops: Sequence[npt.NDArray[np.uint8]]) -> None:
    """Quantises one backbone.

    Args:
        source: graph in float32, with an input `image`.
        target: file to write.
        crops: what to calibrate on.
    """
    # Its warnings advise what is done here.
    onnxruntime.set_default_logger_severity(3)
    try:
        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(target),
                _Crops(crops),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                # 7 bits: where a CPU has no VNNI, two products of 8 bits overflow the 16 that they are added in.
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(QUANTISED),
                nodes_to_exclude=sensitive_nodes(onnx.load(prepared).graph),
                extra_options={"MatMulConstBOnly": True},
            )
    finally:
        onnxruntime.set_default_logger_severity(2)


def sensitive_nodes(graph: onnx.GraphProto) -> list[str]:
    """Products that stay in float32: the first, on pixels, the last, which makes the features, and depthwise
    convolutions, whose few weights a channel leave errors nothing to average out over."""
    products = [node for node in graph.node if node.op_type in QUANTISED]
    ends = [products[0].name, products[-1].name] if products else []
    depthwise = [
        node.name for node in products if any(field.name == "group" and field.i > 1 for field in node.attribute)
    ]
    return list(dict.fromkeys([*ends, *depthwise]))


class _Crops(CalibrationDataReader):
    """Crops as the calibrator asks for them, one at a time."""

    def __init__(self, crops: Sequence[npt.NDArray[np.uint8]]) -> None:
        self._left: Iterator[npt.NDArray[np.uint8]] = iter(crops)

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        crop = next(self._left, None)
        return None if crop is None else {"image": crop[np.newaxis]}


def _without_parity(system: AnySystem) -> AnySystem:
    """A system's manifest without what was measured with the float32 backbone."""
    if ROLE not in system.components:
        return system
    kept = tuple(entry for entry in system.parity if entry.output.partition(".")[0] not in ("chain", ROLE))
    return system.model_copy(update={"parity": kept})


def _take_out(graph: Path) -> None:
    """Removes a graph and its external data: links, which writing would change for the source too."""
    for file in (graph, graph.with_name(graph.name + ".data")):
        file.unlink(missing_ok=True)


def _link(source: str, target: str) -> None:
    """Links where both are on one disk, else copies."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)

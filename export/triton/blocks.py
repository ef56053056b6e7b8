"""Pieces of a config.pbtxt: text in protobuf's text format, as a person would write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cape.manifest import TensorSpec
from export.triton.options import TritonOptions

CONFIGURATION = "config.pbtxt"
"""What Triton calls the description of a model, in the model's folder."""

DATA_TYPES = {"uint8": "TYPE_UINT8", "int64": "TYPE_INT64", "float32": "TYPE_FP32", "float16": "TYPE_FP16"}

QUEUE_SECONDS = 30
"""Longest wait in a queue: the service's default deadline."""

ENGINE_CACHE = "/tmp/capeserve-tensorrt"
"""Where ONNX Runtime keeps the TensorRT engines that it builds; mount a volume there to build them once."""


def tensors(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """The fields `input` and `output`; the first axis is the batch, which Triton does not list."""
    return "\n".join(
        f"{field} [\n" + ",\n".join(_tensor(spec) for spec in specs) + "\n]"
        for field, specs in (("input", inputs), ("output", outputs))
    )


def queue_policy() -> str:
    """What becomes of requests that wait too long, within `dynamic_batching`.

    Callers with less time than the timeout set a gRPC deadline: when it passes, Triton takes the request out. Two
    fields that one would expect are left out, as Triton 2.51 does not survive them in ensembles (both were seen):

    - `max_queue_size`: it hangs, and then crashes, when that turns away a step;
    - `allow_timeout_override`: it locks up when two steps of a request are refused at the moment they are queued,
      which a caller's timeout of a few microseconds brings about.
    """
    return (
        "  default_queue_policy {\n"
        "    timeout_action: REJECT\n"
        f"    default_timeout_microseconds: {QUEUE_SECONDS * 1_000_000}\n"
        "  }"
    )


def placement(options: TritonOptions, profiles: Mapping[str, tuple[str, str, str]] | None = None) -> str:
    """Where a model runs, in how many instances, and with what.

    Args:
        options: what was chosen.
        profiles: input → smallest, usual and largest shape, which TensorRT builds its engine for.
    """
    kind = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "gpu": "KIND_GPU"}[options.device]
    # On a CPU one run takes every core. On a GPU a second instance copies while the first computes.
    count = 2 if options.device == "gpu" else 1
    text = f"instance_group [ {{ kind: {kind} count: {count} }} ]\n" + parameter(
        "intra_op_thread_count", str(options.threads)
    )
    if options.accelerator == "openvino":
        text += '\noptimization { execution_accelerators { cpu_execution_accelerator [ { name: "openvino" } ] } }'
    if options.accelerator == "tensorrt":
        text += _tensorrt(profiles or {})
    return text


def plan_placement(profiles: int) -> str:
    """Where a TensorRT plan runs: on every GPU, with all its optimisation profiles.

    Triton takes the profile that fits a request best; of one that it is not told about it would use none.
    """
    names = ", ".join(f'"{index}"' for index in range(profiles))
    return f"instance_group [ {{ kind: KIND_GPU count: 1 profile: [ {names} ] }} ]"


def version_policy() -> str:
    """Which versions are served: cape.json describes version 1 and no other."""
    return "version_policy { specific { versions: [ 1 ] } }"


def parameter(key: str, value: str) -> str:
    """A free parameter."""
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


def warmup(name: str, batch: int, shapes: Sequence[tuple[TensorSpec, Sequence[int]]]) -> str:
    """A request that a model answers before it counts as ready.

    Args:
        name: what it is called in Triton's log.
        batch: its batch size.
        shapes: inputs and their shapes without the batch.
    """
    inputs = "\n".join(
        f'  inputs {{ key: "{spec.name}" value {{ data_type: {DATA_TYPES[spec.dtype]} '
        f"dims: {_dims(shape)} zero_data: true }} }}"
        for spec, shape in shapes
    )
    return f'model_warmup [ {{\n  name: "{name}"\n  batch_size: {batch}\n{inputs}\n}} ]'


def step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    """One model of an ensemble; the maps go from the model's names to the ensemble's."""
    lines = [f'    model_name: "{model}"', "    model_version: 1"]
    for field, names in (("input_map", inputs), ("output_map", outputs)):
        lines += [f'    {field} {{ key: "{own}" value: "{shared}" }}' for own, shared in names.items()]
    return "  step [ {\n" + "\n".join(lines) + "\n  } ]"


def _tensorrt(profiles: Mapping[str, tuple[str, str, str]]) -> str:
    parameters = {
        "precision_mode": "FP32",
        "trt_engine_cache_enable": "true",
        "trt_engine_cache_path": ENGINE_CACHE,
        "trt_timing_cache_enable": "true",
    }
    for index, which in enumerate(("min", "opt", "max")):
        shapes = ",".join(f"{name}:{shape[index]}" for name, shape in profiles.items())
        parameters[f"trt_profile_{which}_shapes"] = shapes
    lines = "\n".join(f'    parameters {{ key: "{key}" value: "{value}" }}' for key, value in parameters.items())
    return (
        "\noptimization { execution_accelerators {\n"
        f'  gpu_execution_accelerator [ {{\n    name: "tensorrt"\n{lines}\n  }} ]\n}} }}'
    )


def _tensor(spec: TensorSpec) -> str:
    return f'  {{ name: "{spec.name}" data_type: {DATA_TYPES[spec.dtype]} dims: {_dims(spec.shape[1:])} }}'


def _dims(shape: Sequence[int | str]) -> str:
    return "[ " + ", ".join("-1" if isinstance(size, str) else str(size) for size in shape) + " ]"

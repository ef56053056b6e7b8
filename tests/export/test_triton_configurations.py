"""Every exported repository is a Triton model repository: its configurations are right before a server sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from cape.manifest import read_manifest
from export.graph import ExportError
from export.repository import export_repository
from export.tensorrt.build import Engine
from export.tensorrt.engines import PLAN, BuiltEngine, EngineRequest, serve_plans
from export.tensorrt.profiles import profiles
from export.triton.configurations import TEMPLATES, write_configurations
from export.triton.options import LARGEST_BATCH, TritonOptions

ModelConfig = model_config_pb2.ModelConfig


def configurations(repository: Path) -> dict[str, Any]:
    """Every config.pbtxt, parsed, by folder."""
    paths = repository.glob("*/config.pbtxt")
    return {path.parent.name: text_format.Parse(path.read_text(), ModelConfig()) for path in paths}


SYSTEMS: dict[str, dict[str, Any]] = {"flf": {}, "dlf": {}, "graphcape": {"text": None}}


@pytest.fixture(scope="module", params=SYSTEMS)
def exported(request: pytest.FixtureRequest, tiny_export: Callable[..., Path]) -> tuple[str, Path]:
    return request.param, tiny_export(request.param, **SYSTEMS[request.param])


def test_every_folder_has_a_configuration_of_its_name(exported: tuple[str, Path]) -> None:
    system, repository = exported
    parsed = configurations(repository)
    assert set(parsed) == {path.name for path in repository.iterdir() if path.is_dir()}
    assert set(parsed) >= {system, f"{system}_support", f"{system}_query", *read_manifest(repository).components}
    for name, config in parsed.items():
        assert config.name == name
        assert list(config.version_policy.specific.versions) == [1]
        assert (repository / name / "1").is_dir()


def test_components_have_the_manifests_tensors_and_identity(exported: tuple[str, Path]) -> None:
    parsed = configurations(exported[1])
    for name, component in read_manifest(exported[1]).components.items():
        config = parsed[name]
        assert (config.backend, config.max_batch_size) == (
            "onnxruntime",
            LARGEST_BATCH.get(name, component.max_batch_size),
        )
        assert config.parameters["sha256"].string_value == component.sha256
        for specs, tensors in ((component.inputs, config.input), (component.outputs, config.output)):
            shapes = {spec.name: [-1 if isinstance(size, str) else size for size in spec.shape[1:]] for spec in specs}
            assert {tensor.name: list(tensor.dims) for tensor in tensors} == shapes


def test_batching_is_dynamic_bounded_and_rejects_who_waits_too_long(exported: tuple[str, Path]) -> None:
    for config in configurations(exported[1]).values():
        if config.platform == "ensemble":
            continue
        batching = config.dynamic_batching
        assert all(1 < size <= config.max_batch_size for size in batching.preferred_batch_size)
        policy = batching.default_queue_policy
        assert policy.timeout_action == model_config_pb2.ModelQueuePolicy.REJECT
        assert policy.default_timeout_microseconds > 0
        assert (policy.max_queue_size, policy.allow_timeout_override) == (0, False), "see `blocks.queue_policy`"
        assert config.response_cache.enable == (config.name == "text_encoder")


def test_models_are_warmed_up_at_every_number_of_keypoints(exported: tuple[str, Path]) -> None:
    parsed = configurations(exported[1])
    warm = [request.inputs["adjacency"].dims[0] for request in parsed["pose_decoder"].model_warmup]
    assert warm == list(read_manifest(exported[1]).keypoint_buckets)
    assert [request.batch_size for request in parsed["image_backbone"].model_warmup] == [1, 4, 8, 16]


def test_ensembles_connect_tensors_that_exist_and_fit(exported: tuple[str, Path]) -> None:
    parsed = configurations(exported[1])
    for config in (config for config in parsed.values() if config.platform == "ensemble"):
        shapes = {tensor.name: list(tensor.dims) for tensor in config.input}
        steps = list(config.ensemble_scheduling.step)
        assert config.max_batch_size == min(parsed[step.model_name].max_batch_size for step in steps)
        for step in steps:
            model = parsed[step.model_name]
            assert set(step.input_map) == {tensor.name for tensor in model.input}
            produced = {tensor.name: list(tensor.dims) for tensor in model.output}
            shapes |= {shared: produced[own] for own, shared in step.output_map.items()}
        for step in steps:
            for tensor in parsed[step.model_name].input:
                source = shapes[step.input_map[tensor.name]]
                assert len(source) == len(tensor.dims), (config.name, step.model_name, tensor.name)
                assert all(-1 in pair or pair[0] == pair[1] for pair in zip(source, tensor.dims, strict=True))
        assert all(tensor.name in shapes for tensor in config.output)


@pytest.mark.parametrize(
    ("options", "kind", "instances", "accelerators"),
    [
        (TritonOptions(), "KIND_AUTO", 1, []),
        (TritonOptions("cpu", "openvino", threads=4), "KIND_CPU", 1, ["openvino"]),
        (TritonOptions("gpu", "tensorrt"), "KIND_GPU", 2, ["tensorrt"]),
    ],
)
def test_device_and_accelerator_are_chosen_at_export(
    exported: tuple[str, Path],
    tmp_path: Path,
    options: TritonOptions,
    kind: str,
    instances: int,
    accelerators: list[str],
) -> None:
    manifest = read_manifest(exported[1])
    for name in manifest.components:
        (tmp_path / name).mkdir()
    write_configurations(tmp_path, manifest, options)
    config = configurations(tmp_path)["pose_decoder"]
    (group,) = config.instance_group
    assert (model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind), group.count) == (kind, instances)
    assert config.parameters["intra_op_thread_count"].string_value == str(options.threads)
    chosen = config.optimization.execution_accelerators
    found = [*chosen.cpu_execution_accelerator, *chosen.gpu_execution_accelerator]
    assert [accelerator.name for accelerator in found] == accelerators
    if options.accelerator == "tensorrt":
        largest = found[0].parameters["trt_profile_max_shapes"].split(",")
        assert "adjacency:32x100x100" in largest


def test_choices_that_make_no_sense_are_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from cape.checkpoints import load_checkpoint

    for options in (TritonOptions("gpu", "openvino"), TritonOptions("cpu", "tensorrt")):
        with pytest.raises(ExportError, match="accelerates"):
            export_repository(load_checkpoint(tiny_checkpoint), tmp_path / "out", triton=options)


def test_every_template_is_used_and_explained() -> None:
    names = {path.stem for path in TEMPLATES.glob("*.pbtxt")}
    components = {"image_backbone", "text_encoder", "support_fusion", "pose_decoder", "single_shot"}
    language = {"capellm_vision", "capellm_decoder"}
    assert names == components | language | {"system", "system_support", "system_query"}
    assert (TEMPLATES / "README.md").is_file()


def test_plans_are_served_in_place_of_graphs_with_all_their_profiles(exported: tuple[str, Path]) -> None:
    repository = exported[1]
    manifest = read_manifest(repository)
    options = TritonOptions()
    plans = {
        component: BuiltEngine(
            component,
            repository / component / PLAN,
            Engine(b"", (), (), (), b""),
            profiles(role, manifest.components[component], manifest),
        )
        for system in manifest.systems.values()
        for role, component in system.components.items()
    }
    before = configurations(repository)
    for left_alone in (EngineRequest("rtx", ("sm86",)), EngineRequest("standard", strip_weights=True)):
        serve_plans(repository, list(plans.values()), left_alone, options)
        assert configurations(repository) == before
    serve_plans(repository, list(plans.values()), EngineRequest("standard"), options)
    after = configurations(repository)
    try:
        for name, config in after.items():
            if name not in plans:
                assert config == before[name]
                continue
            assert config.backend == "tensorrt"
            (group,) = config.instance_group
            assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
            assert list(group.profile) == [str(index) for index in range(len(plans[name].profiles))]
            assert not config.HasField("optimization")
            assert (config.input, config.output) == (before[name].input, before[name].output)
            # Every warm-up request fits a profile: Triton would refuse to start otherwise.
            for request in config.model_warmup:
                shapes = {key: (request.batch_size, *value.dims) for key, value in request.inputs.items()}
                assert any(
                    all(
                        all(low <= size <= high for low, size, high in zip(lows, shapes[key], highs, strict=True))
                        for key, (lows, _, highs) in profile.shapes.items()
                    )
                    for profile in plans[name].profiles
                ), (name, request.name)
    finally:
        write_configurations(repository, manifest, options)

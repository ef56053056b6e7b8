"""The warm-up meets every shape that callers are likely to ask for."""

from __future__ import annotations

from pathlib import Path

from cape.manifest import read_manifest
from service.engines.onnx_runtime import OnnxRuntimeEngine
from service.warm_up import warm_up


def test_every_component_runs_with_every_batch_size_and_bucket(tiny_repository: Path, caplog) -> None:
    manifest = read_manifest(tiny_repository)
    engine = OnnxRuntimeEngine(tiny_repository, manifest, 1)
    seen = set()

    class Watched:
        useful_batch = 4

        def run(self, component, inputs, outputs):
            results = engine.run(component, inputs, outputs)
            seen.add((component, *next(iter(results.values())).shape[:2]))
            return results

    runs = warm_up(Watched(), manifest)
    engine.close()
    assert "warm-up of" not in caplog.text, "no run may fail"
    buckets = manifest.keypoint_buckets
    for bucket in buckets:
        assert {("pose_decoder", batch, bucket) for batch in (1, 2, 4)} <= seen
        assert ("text_encoder", 1, bucket) in seen
    assert {shape[1] for shape in seen if shape[0] == "image_backbone"} == {1, 2, 4}
    assert runs == 3 + 5 * len(buckets)

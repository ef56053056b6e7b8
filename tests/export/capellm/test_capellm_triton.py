"""CapeLLM's graphs on a real Triton server: configurations that Triton reads, and the tokens of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from cape.capellm.grammar import AnswerGrammar
from cape.capellm.sequences import OUTPUTS, RowInputs
from cape.manifest import read_manifest
from cape.models.capellm.checkpoint import load_capellm
from cape.models.capellm.predictor import CapeLlmPredictor
from cape.support import SupportDefinition
from export.capellm.graphs import DECODER, VISION
from export.capellm.parity import Decoded, RowsRunner, decode
from export.parity import Runtime
from export.triton.local.environment import Installation
from export.triton.local.server import Ports, TritonProcess, triton_server
from service.engines.triton import TritonEngine
from tests.cape.capellm.conftest import CATEGORY
from tests.conftest import ExportedCapeLlm
from tests.triton_client import counter, infer


@pytest.fixture(scope="module")
def server(
    triton_installation: Installation, tiny_capellm: ExportedCapeLlm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonProcess]:
    with (
        (tmp_path_factory.mktemp("triton") / "log").open("wb") as log,
        triton_server(triton_installation, tiny_capellm.repository, log=log, ports=Ports(0, 0, 0)) as server,
    ):
        yield server


def test_both_configurations_say_what_the_manifest_says(tiny_capellm: ExportedCapeLlm) -> None:
    manifest = read_manifest(tiny_capellm.repository)
    for name, component in manifest.components.items():
        text = (tiny_capellm.repository / name / "config.pbtxt").read_text()
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        assert (config.name, config.backend, config.max_batch_size) == (name, "onnxruntime", component.max_batch_size)
        assert config.parameters["sha256"].string_value == component.sha256
        for specs, tensors in ((component.inputs, config.input), (component.outputs, config.output)):
            shapes = {spec.name: [-1 if isinstance(size, str) else size for size in spec.shape[1:]] for spec in specs}
            assert {tensor.name: list(tensor.dims) for tensor in tensors} == shapes
        batching = config.dynamic_batching
        assert all(1 < size <= component.max_batch_size for size in batching.preferred_batch_size)
        assert batching.default_queue_policy.timeout_action == model_config_pb2.ModelQueuePolicy.REJECT
        assert config.model_warmup
        for request in config.model_warmup:
            assert all(size > 0 for tensor in request.inputs.values() for size in tensor.dims)


def answers(tiny_capellm: ExportedCapeLlm, encode: Any, run: RowsRunner) -> Decoded:
    checkpoint = load_capellm(tiny_capellm.checkpoint)
    predictor = CapeLlmPredictor(checkpoint.model, checkpoint.tokenizer)
    opening, questions = predictor.prompts(SupportDefinition(CATEGORY.name, CATEGORY.keypoints))
    system = read_manifest(tiny_capellm.repository).language_systems["capellm"]
    asked = [(image, question) for image in range(4) for question in questions]
    image_tokens = encode(tiny_capellm.images)
    return decode(run, AnswerGrammar(checkpoint.tokenizer), system.cache, image_tokens, opening, asked)


def test_triton_says_the_tokens_that_this_process_says(tiny_capellm: ExportedCapeLlm, server: TritonProcess) -> None:
    own = Runtime({name: tiny_capellm.repository / name / "1" / "model.onnx" for name in (VISION, DECODER)}, 1)
    expected = answers(
        tiny_capellm,
        lambda images: own.run(VISION, {"image": images})["image_tokens"],
        lambda inputs: own.run(DECODER, inputs),
    )

    def batch(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return infer(tritonclient.grpc, server.grpc, DECODER, inputs, OUTPUTS)

    def encode(images: np.ndarray) -> np.ndarray:
        return infer(tritonclient.grpc, server.grpc, VISION, {"image": images}, ["image_tokens"])["image_tokens"]

    before = {name: counter(server, name, DECODER) for name in ("nv_inference_count", "nv_inference_exec_count")}
    with asyncio.Runner() as runner:
        engine = TritonEngine(server.grpc, read_manifest(tiny_capellm.repository))
        runner.run(engine.open())
        assert engine.healthy

        async def rows_at_once(rows: Sequence[RowInputs]) -> list[Any]:
            found = await asyncio.gather(*(engine.submit(DECODER, row, OUTPUTS) for row in rows))
            return [one.outputs for one in found]

        def row_by_row(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            """As the service sends them: each row a request, all at once."""
            rows = [{name: array[index] for name, array in inputs.items()} for index in range(len(inputs["mask"]))]
            found = runner.run(rows_at_once(rows))
            return {name: np.stack([one[name] for one in found]) for name in OUTPUTS}

        by_rows = answers(tiny_capellm, encode, row_by_row)
        runner.run(engine.close())
    assert by_rows.answers == expected.answers
    np.testing.assert_allclose(by_rows.scores, expected.scores, atol=1e-4)
    # The batcher put rows of equal shapes together. How many there were Triton counts a little after it has answered.
    rows, runs = (counter(server, name, DECODER) - count for name, count in before.items())
    assert 0 < runs < rows
    assert answers(tiny_capellm, encode, batch).answers == expected.answers

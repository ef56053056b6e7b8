"""The vLLM path without vLLM: its files in transformers, its client against a small server of the same protocol."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from cape.evaluation.capellm import CapeLlmEstimator, checkpoint_estimator
from cape.evaluation.estimator import QueryObject
from cape.models.capellm.checkpoint import CapeLlmCheckpoint, save_capellm
from cape.models.capellm.predictor import CapeLlmPredictor
from cape.models.capellm.prompter import load_prompter
from cape.models.capellm.vllm import VllmError, VllmPredictor
from cape.support import Box, SupportDefinition
from cli.evaluate import evaluate
from cli.export import export
from export.capellm.vllm import VllmFolders, export_vllm
from tests.cape.capellm.conftest import CATEGORY, Learnt

SUPPORT = SupportDefinition(CATEGORY.name, CATEGORY.keypoints)


@pytest.fixture(scope="module")
def folders(learnt: Learnt, tmp_path_factory: pytest.TempPathFactory) -> VllmFolders:
    checkpoint = CapeLlmCheckpoint(learnt.model, learnt.tokenizer, Path("learnt"), "0" * 64)
    return export_vllm(checkpoint, tmp_path_factory.mktemp("vllm") / "model")


class Completions:
    """What vLLM's documentation says of `/v1/completions`, on a transformers model."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.sizes: list[int] = []

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        self.sizes.append(len(body["prompt_embeds"]))
        prompts = [torch.load(io.BytesIO(base64.b64decode(p)), weights_only=True) for p in body["prompt_embeds"]]
        choices = [
            {"index": index, **self.complete(prompt, body["structured_outputs"]["regex"], body["max_tokens"])}
            for index, prompt in enumerate(prompts)
        ]
        usage = {
            "prompt_tokens": sum(len(prompt) for prompt in prompts),
            "completion_tokens": sum(len(choice["logprobs"]["tokens"]) for choice in choices),
        }
        # In any order: the index says which is which.
        return {"choices": choices[::-1], "usage": usage}

    @torch.inference_mode()
    def complete(self, prompt: torch.Tensor, regex: str, tokens: int) -> dict[str, Any]:
        text, said, logprobs, cache = "", [], [], DynamicCache()
        piece = {"inputs_embeds": prompt[None]}
        for _ in range(tokens):
            output = self.model(**piece, cache=cache, use_cache=True)
            raw = output.logits[0, -1].log_softmax(0)
            if re.fullmatch(regex, text):
                break
            # What may still become a match: completed by a match's own ending, it is one.
            token = next(
                token
                for token in raw.argsort(descending=True).tolist()
                if (spelt := self.tokenizer.decode([token]))
                and re.fullmatch(regex, text + spelt + " [0.000,0.000]"[len(text + spelt) :])
            )
            text, piece = text + self.tokenizer.decode([token]), {"input_ids": torch.tensor([[token]])}
            said.append(self.tokenizer.decode([token]))
            logprobs.append(float(raw[token]))
        return {"text": text, "logprobs": {"tokens": said, "token_logprobs": logprobs}}


@pytest.fixture
def server(folders: VllmFolders) -> Iterator[tuple[str, Completions]]:
    completions = Completions(folders.language)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = self.path == "/v1/completions" and body["model"] == "capellm"
            answer = completions.answer(body) if known else {"error": {"message": f"no model {body['model']}"}}
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", completions
        http.shutdown()
        thread.join()


def test_the_exported_language_model_says_the_same_tokens(learnt: Learnt, folders: VllmFolders) -> None:
    predictor = CapeLlmPredictor(learnt.model, learnt.tokenizer)
    prompts = predictor.prompts(SUPPORT)
    expected = predictor.locate(predictor.encode(list(learnt.images[:2])), prompts).answers
    language = AutoModelForCausalLM.from_pretrained(folders.language).eval()
    prompter, _ = load_prompter(folders.prompter)
    with torch.inference_mode():
        tokens = prompter.image_tokens(torch.from_numpy(learnt.images[:2]))
        embedded = [prompter.prompt(image, prompts.opening, asked) for image in tokens for asked in prompts.questions]
        spoken = [
            language.generate(inputs_embeds=one[None], attention_mask=torch.ones(1, len(one)), max_new_tokens=13)
            for one in embedded
        ]
    # The end token that the folder names ends the answers.
    assert [tuple(one[0].tolist()) for one in spoken] == [(*answer, learnt.tokenizer.end) for answer in expected]


def test_a_server_of_prompt_embeddings_gives_the_answers_of_pytorch(
    learnt: Learnt, folders: VllmFolders, server: tuple[str, Completions]
) -> None:
    url, completions = server
    predictor = CapeLlmPredictor(learnt.model, learnt.tokenizer)
    expected = predictor.locate(predictor.encode(list(learnt.images[:2])), predictor.prompts(SUPPORT))
    remote = VllmPredictor(*load_prompter(folders.prompter), url)
    found = remote.locate(remote.encode(list(learnt.images[:2])), remote.prompts(SUPPORT))
    assert found.answers == expected.answers
    torch.testing.assert_close(found.keypoints, expected.keypoints)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
    # An image's first question alone, so that the others find its keys and values cached.
    assert completions.sizes == [1, 4, 1, 4]


def test_what_the_server_refuses_is_an_error_with_its_words(
    learnt: Learnt, folders: VllmFolders, server: tuple[str, Completions]
) -> None:
    prompter, tokenizer = load_prompter(folders.prompter)
    remote = VllmPredictor(prompter, tokenizer, server[0], model="another")
    tokens, prompts = remote.encode(list(learnt.images[:1])), remote.prompts(SUPPORT)
    with pytest.raises(VllmError, match=r"404 .*no model another"):
        remote.locate(tokens, prompts)
    nobody = VllmPredictor(prompter, tokenizer, "http://127.0.0.1:1")
    with pytest.raises(VllmError, match=r"127\.0\.0\.1:1"):
        nobody.locate(tokens, prompts)
    with pytest.raises(ValueError, match="readout"):
        remote.locate(tokens, prompts, "expectation")


def test_commands_write_a_model_for_vllm_and_ask_its_server(learnt: Learnt, tmp_path: Path) -> None:
    save_capellm(learnt.model, tmp_path / "checkpoint", learnt.tokenizer.tokenizer)
    flags = ["vllm", "--checkpoint", str(tmp_path / "checkpoint"), "--output", str(tmp_path / "vllm")]
    written = CliRunner().invoke(export, flags)
    assert written.exit_code == 0, written.output
    assert f"vllm serve {tmp_path / 'vllm' / 'language'} --served-model-name capellm" in written.output
    again = CliRunner().invoke(export, flags)
    assert "is there already" in again.output
    data = ["--data", "synthetic", "--split", "val", "--shots", "0", "--episodes", "1", "--queries", "1", "--json"]
    asked = ["--checkpoint", str(tmp_path / "vllm" / "prompter"), "--vllm", "http://127.0.0.1:1"]
    unreachable = CliRunner().invoke(evaluate, [*asked, *data])
    assert unreachable.exit_code == 1
    assert "127.0.0.1:1" in unreachable.output
    distribution = CliRunner().invoke(evaluate, [*asked, *data, "--readout", "expectation"])
    assert "readout greedy" in distribution.output


def test_a_server_is_evaluated_like_a_checkpoint(
    learnt: Learnt, folders: VllmFolders, server: tuple[str, Completions]
) -> None:
    prompter, tokenizer = load_prompter(folders.prompter)
    predictor = VllmPredictor(prompter, tokenizer, server[0])
    remote = CapeLlmEstimator(predictor, prompter.configuration, "folder: ", "vLLM")
    own = checkpoint_estimator(CapeLlmCheckpoint(learnt.model, learnt.tokenizer, Path("folder"), "0" * 64))
    query = QueryObject(0, learnt.images[0], Box(5, 5, 40, 40))
    (expected,), (found,) = (each.estimate(SUPPORT, [query]).poses for each in (own, remote))
    np.testing.assert_allclose(found.keypoints, expected.keypoints)
    assert remote.name == "folder: capellm, dinov2-32x1, llama, greedy, vLLM, random weights"

"""Checkpoints and adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cape.capellm.configuration import is_capellm
from cape.checkpoints import CheckpointError
from cape.models.capellm.adapters import add_adapters, merged_state
from cape.models.capellm.checkpoint import load_capellm, save_capellm, untrained_capellm
from cape.models.capellm.predictor import CapeLlmPredictor
from cape.support import SupportDefinition
from tests.cape.capellm.conftest import Learnt, tiny


def test_a_checkpoint_answers_like_the_model_it_was_saved_from(
    learnt: Learnt, cat_support: Callable[[], SupportDefinition], tmp_path: Path
) -> None:
    save_capellm(learnt.model, tmp_path, learnt.tokenizer.tokenizer)
    assert is_capellm(tmp_path) and not is_capellm(tmp_path / "nowhere")
    loaded = load_capellm(tmp_path)
    assert loaded.model.configuration == learnt.model.configuration
    found = []
    for model, tokenizer in ((learnt.model, learnt.tokenizer), (loaded.model, loaded.tokenizer)):
        predictor = CapeLlmPredictor(model, tokenizer)
        located = predictor.locate(predictor.encode(list(learnt.images)), predictor.prompts(cat_support()))
        found.append(located.answers)
    assert found[0] == found[1]


def test_a_damaged_checkpoint_says_what_is_wrong(learnt: Learnt, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: missing"):
        load_capellm(tmp_path)
    save_capellm(learnt.model, tmp_path, learnt.tokenizer.tokenizer)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizers JSON file"):
        load_capellm(tmp_path)
    save_capellm(untrained_capellm(tiny(answer="token")), tmp_path, learnt.tokenizer.tokenizer)
    (tmp_path / "config.json").write_text(tiny().model_dump_json())
    with pytest.raises(CheckpointError, match=r"unexpected \['coordinates"):
        load_capellm(tmp_path)


def test_adapters_train_alone_and_are_merged_in_checkpoints(learnt: Learnt, tmp_path: Path) -> None:
    model = untrained_capellm(tiny())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for tower in (model.vision, model.language):
        add_adapters(tower, rank=2, alpha=4, dropout=0.0)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert all(".lora_" in name or name.startswith("projection.") for name in trained)
    assert sum(".lora_A" in name for name in trained) == 2 * (1 + 2)  # query and value of three layers
    for name, value in model.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    image = torch.randint(0, 256, (1, 56, 56, 3), dtype=torch.uint8)
    ids, positions = torch.tensor([[0, 5, 6, 7]]), torch.arange(20)[None]

    def logits(one: torch.nn.Module) -> torch.Tensor:
        with torch.inference_mode():
            embeddings = one.embed(ids, one.image_tokens(image))
            return one.read(embeddings, torch.ones_like(positions), positions, None).logits

    assert merged_state(model).keys() == before.keys()
    save_capellm(model, tmp_path, learnt.tokenizer.tokenizer)
    loaded = load_capellm(tmp_path).model
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-4, atol=1e-5)
    changed = {key for key, value in loaded.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and all(key.endswith(("q_proj.weight", "v_proj.weight")) for key in changed)

"""Text encoders out of folders and files: every published layout gives the numbers of its own code."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from cape.configuration import TextConfiguration
from cape.models.text import TextEncoder
from cape.pretrained.packages import MINILM_PACKAGE, PretrainedError, package_folder
from cape.pretrained.text_encoders import packaged_text_encoder, read_text_encoder
from cape.pretrained.text_layouts import clip_from_openai, gte_from_original

GTE_CONFIG = {
    "model_type": "new",
    "vocab_size": 200,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "type_vocab_size": 0,
    "max_position_embeddings": 8192,
    "pad_token_id": 0,
    "rope_theta": 500000,
    "rope_scaling": {"factor": 2.0, "type": "ntk"},
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}


def original_gte_state() -> dict[str, torch.Tensor]:
    """Random parameters under the names of the original `NewModel`."""
    torch.manual_seed(0)
    state = {"embeddings.word_embeddings.weight": torch.randn(200, 128)}
    shapes = {
        "attention.qkv_proj.weight": (384, 128), "attention.qkv_proj.bias": (384,),
        "attention.o_proj.weight": (128, 128), "attention.o_proj.bias": (128,),
        "mlp.up_gate_proj.weight": (192, 128), "mlp.down_proj.weight": (128, 96), "mlp.down_proj.bias": (128,),
    }  # fmt: skip
    for layer in range(2):
        for name, shape in shapes.items():
            state[f"encoder.layer.{layer}.{name}"] = torch.randn(shape) / math.sqrt(shape[-1])
    norms = ["embeddings.LayerNorm", *(f"encoder.layer.{i}.{n}" for i in range(2) for n in ("attn_ln", "mlp_ln"))]
    for norm in norms:
        state[f"{norm}.weight"], state[f"{norm}.bias"] = 1 + 0.1 * torch.randn(128), 0.1 * torch.randn(128)
    return state


def original_gte(state: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """CLS states of the original gte-base-en-v1.5 architecture, written out from its description: [N, 128]."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (128,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-12)

    count, length = ids.shape
    x = norm(state["embeddings.word_embeddings.weight"][ids], "embeddings.LayerNorm")
    # Fixed NTK scaling by 2 of base 500,000, over heads of width 64.
    frequency = 1.0 / (1_000_000.0 ** (torch.arange(0, 64, 2) / 64)) / 2 ** (2 / 64)
    angle = torch.outer(torch.arange(length).float(), frequency).repeat(1, 2)

    def rotated(x: torch.Tensor) -> torch.Tensor:
        turned = torch.cat((-x[..., 32:], x[..., :32]), dim=-1)
        return x * angle.cos() + turned * angle.sin()

    for layer in range(2):
        stem = f"encoder.layer.{layer}"
        qkv = F.linear(x, state[f"{stem}.attention.qkv_proj.weight"], state[f"{stem}.attention.qkv_proj.bias"])
        q, k, v = (part.view(count, length, 2, 64).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(rotated(q), rotated(k), v).transpose(1, 2).flatten(2)
        mixed = F.linear(mixed, state[f"{stem}.attention.o_proj.weight"], state[f"{stem}.attention.o_proj.bias"])
        x = norm(x + mixed, f"{stem}.attn_ln")
        up, gate = F.linear(x, state[f"{stem}.mlp.up_gate_proj.weight"]).chunk(2, dim=-1)
        hidden = F.linear(F.gelu(gate) * up, state[f"{stem}.mlp.down_proj.weight"], state[f"{stem}.mlp.down_proj.bias"])
        x = norm(x + hidden, f"{stem}.mlp_ln")
    return x[:, 0]


def folder_with(tmp_path: Path, config: dict[str, object], state: dict[str, torch.Tensor]) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copyfile(package_folder(MINILM_PACKAGE) / "model" / "tokenizer.json", tmp_path / "tokenizer.json")
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "model.safetensors")
    return tmp_path


def encode(configuration: TextConfiguration, state: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    encoder = TextEncoder(configuration).eval()
    encoder.tower.load_state_dict(state)
    with torch.inference_mode():
        return encoder(ids[None], torch.ones_like(ids)[None])[0]


@pytest.mark.parametrize("prefix", ["", "new."])
def test_the_original_gte_layout_gives_the_numbers_of_its_own_code(tmp_path: Path, prefix: str) -> None:
    state = original_gte_state()
    folder = folder_with(tmp_path, GTE_CONFIG, {prefix + key: value for key, value in state.items()})
    tower = read_text_encoder(folder)
    assert (tower.configuration.kind, tower.configuration.pooling) == ("gte", "cls")
    ids = torch.randint(1, 200, (3, 11))
    expected = F.normalize(original_gte(state, ids), dim=-1)
    torch.testing.assert_close(encode(tower.configuration, tower.state, ids), expected, atol=2e-6, rtol=0)


def test_transformers_own_gte_layout_is_read_too(tmp_path: Path) -> None:
    original = original_gte_state()
    config = GTE_CONFIG | {"model_type": "gte"}
    tower = read_text_encoder(folder_with(tmp_path, config, gte_from_original(original)))
    ids = torch.randint(1, 200, (2, 5))
    expected = F.normalize(original_gte(original, ids), dim=-1)
    torch.testing.assert_close(encode(tower.configuration, tower.state, ids), expected, atol=2e-6, rtol=0)


def openai_clip_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    state = {
        "token_embedding.weight": torch.randn(300, 64), "positional_embedding": torch.randn(77, 64) * 0.1,
        "text_projection": torch.randn(64, 24) / 8, "logit_scale": torch.tensor(4.6),
        "ln_final.weight": 1 + 0.1 * torch.randn(64), "ln_final.bias": 0.1 * torch.randn(64),
        "visual.conv1.weight": torch.randn(4, 3, 2, 2),
    }  # fmt: skip
    for layer in range(2):
        stem = f"transformer.resblocks.{layer}"
        shapes = {"attn.in_proj_weight": (192, 64), "attn.in_proj_bias": (192,), "attn.out_proj.weight": (64, 64),
                  "attn.out_proj.bias": (64,), "mlp.c_fc.weight": (256, 64), "mlp.c_fc.bias": (256,),
                  "mlp.c_proj.weight": (64, 256), "mlp.c_proj.bias": (64,)}  # fmt: skip
        for name, shape in shapes.items():
            state[f"{stem}.{name}"] = torch.randn(shape) / math.sqrt(shape[-1])
        for norm in ("ln_1", "ln_2"):
            state[f"{stem}.{norm}.weight"], state[f"{stem}.{norm}.bias"] = torch.ones(64), 0.1 * torch.randn(64)
    return state


def openai_encode_text(state: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """`encode_text` of OpenAI's CLIP, written out from its description: [N, 24]."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (64,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    x = state["token_embedding.weight"][ids] + state["positional_embedding"][: ids.shape[1]]
    for layer in range(2):
        stem = f"transformer.resblocks.{layer}"
        y = norm(x, f"{stem}.ln_1").transpose(0, 1)
        mask = torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)
        y, _ = F.multi_head_attention_forward(
            y, y, y, 64, 1, state[f"{stem}.attn.in_proj_weight"], state[f"{stem}.attn.in_proj_bias"], None, None,
            False, 0.0, state[f"{stem}.attn.out_proj.weight"], state[f"{stem}.attn.out_proj.bias"], attn_mask=mask,
            need_weights=False,
        )  # fmt: skip
        x = x + y.transpose(0, 1)
        hidden = F.linear(norm(x, f"{stem}.ln_2"), state[f"{stem}.mlp.c_fc.weight"], state[f"{stem}.mlp.c_fc.bias"])
        hidden = hidden * torch.sigmoid(1.702 * hidden)
        x = x + F.linear(hidden, state[f"{stem}.mlp.c_proj.weight"], state[f"{stem}.mlp.c_proj.bias"])
    x = norm(x, "ln_final")
    return x[torch.arange(len(ids)), ids.argmax(-1)] @ state["text_projection"]


def test_openai_clip_gives_the_numbers_of_its_own_code(tmp_path: Path) -> None:
    config = {
        "model_type": "clip",
        "projection_dim": 24,
        "text_config": {
            "vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1,
            "intermediate_size": 256, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "eos_token_id": 2,
            "projection_dim": 24,
        },
    }  # fmt: skip
    state = openai_clip_state()
    tower = read_text_encoder(folder_with(tmp_path, config, state))
    ids = torch.randint(1, 299, (3, 9))
    ids[:, 5], ids[:, 6:] = 299, 0
    expected = F.normalize(openai_encode_text(state, ids), dim=-1)
    torch.testing.assert_close(encode(tower.configuration, tower.state, ids), expected, atol=2e-6, rtol=0)
    assert "visual.conv1.weight" not in clip_from_openai(state)


def test_minilm_gives_the_sentence_embeddings_of_its_own_recipe() -> None:
    tower = packaged_text_encoder(MINILM_PACKAGE)
    assert (tower.configuration.kind, tower.configuration.pooling) == ("bert", "mean")
    from transformers import AutoModel, AutoTokenizer

    folder = package_folder(MINILM_PACKAGE) / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    inputs = tokenizer("root of tail", return_tensors="pt")
    with torch.inference_mode():
        states = model(**inputs).last_hidden_state
    expected = F.normalize(states.mean(1), dim=-1)
    ours = encode(tower.configuration, tower.state, inputs["input_ids"])
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_told_which_are_expected(tmp_path: Path, name: str) -> None:
    folder = folder_with(tmp_path, GTE_CONFIG, original_gte_state())
    (folder / name).unlink()
    with pytest.raises(PretrainedError, match=r"config\.json, tokenizer\.json, and model\.safetensors"):
        read_text_encoder(folder)


def test_an_architecture_that_is_not_supported_is_named(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"model_type": "t5"}, {"x": torch.ones(1)})
    with pytest.raises(PretrainedError, match="model_type 't5' is none of"):
        read_text_encoder(folder)


def test_a_package_that_is_not_installed_says_how_to_get_it() -> None:
    with pytest.raises(PretrainedError, match=r"no-such-package: pip install 'capeserve\[demo\]'"):
        packaged_text_encoder("no_such_package")


def test_texts_of_any_length_before_the_cut_give_finite_embeddings() -> None:
    tower = packaged_text_encoder(MINILM_PACKAGE)
    ids = torch.randint(1, 1000, (1, tower.configuration.max_tokens))
    assert tower.configuration.max_tokens == 77
    np.testing.assert_allclose(encode(tower.configuration, tower.state, ids).norm(dim=-1), 1, atol=1e-5)


def bert_state(
    width: int = 64, prefix: str = "", scale: str = "weight", shift: str = "bias"
) -> dict[str, torch.Tensor]:
    from transformers import BertConfig, BertModel

    torch.manual_seed(2)
    model = BertModel(
        BertConfig(**{k: v for k, v in BERT_CONFIG.items() if k != "model_type"}), add_pooling_layer=False
    )
    names = {key: key.replace("LayerNorm.weight", f"LayerNorm.{scale}") for key in model.state_dict()}
    names = {key: name.replace("LayerNorm.bias", f"LayerNorm.{shift}") for key, name in names.items()}
    return {prefix + names[key]: value.clone() for key, value in model.state_dict().items()}


BERT_CONFIG: dict[str, object] = {
    "model_type": "bert", "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1,
    "intermediate_size": 64, "max_position_embeddings": 32,
}  # fmt: skip


def with_pooling(folder: Path, document: dict[str, object]) -> Path:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("cls_token", lambda states, length: states[0]),
        ("mean_tokens", lambda states, length: states[:length].mean(0)),
        ("mean_sqrt_len_tokens", lambda states, length: states[:length].sum(0) / math.sqrt(length)),
        ("max_tokens", lambda states, length: states[:length].amax(0)),
        ("weightedmean_tokens",
         lambda states, length: (torch.arange(1.0, length + 1)[:, None] * states[:length]).sum(0)),
        ("lasttoken", lambda states, length: states[length - 1]),
    ],
)  # fmt: skip
def test_every_pooling_of_sentence_transformers_gives_its_vectors(tmp_path: Path, mode: str, expected: object) -> None:
    folder = with_pooling(folder_with(tmp_path, BERT_CONFIG, bert_state()), {f"pooling_mode_{mode}": True})
    encoder = read_text_encoder(folder)
    model = TextEncoder(encoder.configuration).eval()
    model.tower.load_state_dict(encoder.state)
    ids, mask = torch.randint(1, 100, (1, 2, 7)), torch.ones(1, 2, 7, dtype=torch.int64)
    mask[0, 1, 4:] = 0
    with torch.inference_mode():
        found = model(ids, mask)[0]
        for row, length in ((0, 7), (1, 4)):
            states = model.tower(ids[0, row : row + 1, :length]).last_hidden_state[0]
            assert callable(expected)
            torch.testing.assert_close(found[row], F.normalize(expected(states, length), dim=0), atol=1e-5, rtol=0)


def test_poolings_that_cannot_be_computed_are_named(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, BERT_CONFIG, bert_state())
    with_pooling(folder, {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True})
    with pytest.raises(PretrainedError, match="pooling modes: cls_token and max_tokens; exactly one"):
        read_text_encoder(folder)
    with_pooling(folder, {"pooling_mode": "attention"})
    with pytest.raises(PretrainedError, match="pooling mode 'attention' is not supported"):
        read_text_encoder(folder)
    (folder / "modules.json").write_text(
        json.dumps([{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}])
    )
    with pytest.raises(PretrainedError, match=r"modules\.json: a step 'Dense' after the text encoder"):
        read_text_encoder(folder)


def test_old_names_of_a_bert_are_understood(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, BERT_CONFIG, bert_state(prefix="bert.", scale="gamma", shift="beta"))
    TextEncoder(read_text_encoder(folder).configuration).tower.load_state_dict(read_text_encoder(folder).state)


@pytest.mark.parametrize(
    ("config", "setting", "problem"),
    [
        (BERT_CONFIG, {"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        (BERT_CONFIG, {"is_decoder": True}, "is_decoder True"),
        (GTE_CONFIG, {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "'yarn' scaling"),
        (GTE_CONFIG, {"position_embedding_type": "absolute"}, "position_embedding_type 'absolute'"),
        (GTE_CONFIG, {"logn_attention_scale": True}, "logn_attention_scale True"),
    ],
)
def test_settings_that_would_change_the_numbers_are_refused(
    tmp_path: Path, config: dict[str, object], setting: dict[str, object], problem: str
) -> None:
    state = bert_state() if config is BERT_CONFIG else original_gte_state()
    with pytest.raises(PretrainedError, match=problem):
        read_text_encoder(folder_with(tmp_path, config | setting, state))


def test_limits_and_casing_of_the_tokenizer_are_used_or_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, BERT_CONFIG | {"max_position_embeddings": 512}, bert_state())
    assert read_text_encoder(folder).configuration.max_tokens == 77
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1e30, "do_lower_case": True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24, "do_lower_case": False}))
    assert read_text_encoder(folder).configuration.max_tokens == 24
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    with pytest.raises(PretrainedError, match=r"do_lower_case is false, but tokenizer\.json makes texts lower case"):
        read_text_encoder(folder)


def test_a_text_encoder_in_shards_is_read_whole(tmp_path: Path) -> None:
    folder, state = folder_with(tmp_path, BERT_CONFIG, bert_state()), bert_state()
    (folder / "model.safetensors").unlink()
    names = {key: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, key in enumerate(state)}
    for name in set(names.values()):
        save_file({key: state[key] for key in state if names[key] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    found = read_text_encoder(folder).state
    assert found.keys() == state.keys()


def test_damaged_files_of_a_folder_are_named(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, BERT_CONFIG, bert_state())
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 90868376\n")
    with pytest.raises(PretrainedError, match=r"model\.safetensors: a git-lfs pointer of 90,868,376 bytes"):
        read_text_encoder(folder)
    (folder / "config.json").write_text('{"model_type": "bert",')
    with pytest.raises(PretrainedError, match=r"config\.json: line 1: not JSON"):
        read_text_encoder(folder)

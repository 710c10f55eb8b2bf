"""Sentence encoders: pooled as their folder says, whatever stands beside a text; refusals."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters.tiny_lm import build_tokenizer
from transformers import AutoModel, BertConfig, BertModel

from mmalign.rewards._sentences import load_sentences
from mmalign.types import UserError

CPU = torch.device("cpu")
TEXTS = ["a red fox", "the small red fox jumped over a blue box and ran home", "why?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder as sentence-transformers saves one, with room for 12 tokens."""
    place = tmp_path_factory.mktemp("sentences")
    tokenizer = build_tokenizer(None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            max_position_embeddings=64,
            initializer_range=0.5,
            **sizes,
        )
        BertModel(config, add_pooling_layer=False).save_pretrained(place)
    tokenizer.save_pretrained(place)
    names = ("Transformer", "Pooling", "Normalize")
    write(place / "modules.json", [{"type": f"sentence_transformers.models.{name}"} for name in names])
    write(place / "sentence_bert_config.json", {"max_seq_length": 12})
    (place / "1_Pooling").mkdir()
    pool(place, mean_tokens=True, cls_token=False)
    return place


def write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value))


def pool(place: Path, **modes: bool) -> None:
    settings = {"word_embedding_dimension": 16, **{f"pooling_mode_{k}": v for k, v in modes.items()}}
    write(place / "1_Pooling" / "config.json", settings)


def states(folder: Path, text: str) -> torch.Tensor:
    """Last states of the first 12 tokens, by the library alone."""
    ids = build_tokenizer(None)(text)["input_ids"][:12]
    with torch.no_grad():
        found: torch.Tensor = AutoModel.from_pretrained(folder)(torch.tensor([ids])).last_hidden_state[0]
    return found


def test_vectors_are_pooled_as_the_folder_says(folder: Path) -> None:
    own = [states(folder, text) for text in TEXTS]
    for modes, pooled in (
        ({"mean_tokens": True, "cls_token": False}, [one.mean(0) for one in own]),
        ({"mean_tokens": False, "cls_token": True}, [one[0] for one in own]),
    ):
        pool(folder, **modes)
        encoder = load_sentences(str(folder), "builder.texts", CPU)
        assert encoder.limit == 12
        wanted = torch.nn.functional.normalize(torch.stack(pooled), dim=-1)
        torch.testing.assert_close(encoder.texts(TEXTS), wanted, atol=1e-6, rtol=0)
        # as on other devices: together, the shorter ones padded
        torch.testing.assert_close(encoder._embedded(TEXTS), wanted, atol=1e-6, rtol=0)
        assert torch.equal(encoder.texts(TEXTS[::-1]), encoder.texts(TEXTS).flip(0))
    assert encoder.texts([]).shape == (0, 16)


def test_what_pools_otherwise_is_refused(folder: Path, tmp_path: Path) -> None:
    pool(folder, mean_tokens=False, max_tokens=True)
    with pytest.raises(UserError, match="^builder.texts: .*pools by pooling_mode_max_tokens; only"):
        load_sentences(str(folder), "builder.texts", CPU)
    before = (folder / "modules.json").read_text()
    write(folder / "modules.json", [{"type": "sentence_transformers.models.Dense"}])
    with pytest.raises(UserError, match="has a layer Dense"):
        load_sentences(str(folder), "builder.texts", CPU)
    (folder / "modules.json").write_text("{")
    with pytest.raises(UserError, match="modules.json: cannot be read"):
        load_sentences(str(folder), "builder.texts", CPU)
    (folder / "modules.json").write_text(before)
    with pytest.raises(UserError, match="there is no config.json in"):
        load_sentences(str(tmp_path), "builder.texts", CPU)
    with pytest.raises(UserError, match="there is no folder ./nowhere"):
        load_sentences("./nowhere", "builder.texts", CPU)


def test_an_encoder_that_the_hub_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> str:
        raise ConnectionError("Cannot find an appropriate cached snapshot folder\nfor the revision")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    line = (
        "builder.encoder: some/encoder: is no folder here, and the hub does not give it (ConnectionError); "
        "name a local folder, or null, which compares words"
    )
    with pytest.raises(UserError, match=f"^{re.escape(line)}$"):
        load_sentences("some/encoder", "builder.encoder", CPU)

"""Every broken or foreign model folder is refused in one line that names the file and the rule."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_lm import build_model, build_tokenizer, save_tiny
from transformers import T5Tokenizer

from mmalign.adapters import _loading
from mmalign.adapters.text import Text
from mmalign.types import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(save_tiny(tmp_path_factory.mktemp("model")))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def edit_json(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def shard(folder: Path, names: Callable[[str], str]) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "part.safetensors", metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: names(key) for key in weights}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def refused(folder: Path | str, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        Text(path=str(folder)).build(CPU)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def add_layer(weights: dict[str, torch.Tensor]) -> None:
    for name in [n for n in weights if ".layers.1." in n]:
        weights[name.replace(".layers.1.", ".layers.2.")] = weights[name].clone()


def widen(weights: dict[str, torch.Tensor]) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    weights[name] = torch.cat([weights[name], weights[name]])


BREAKS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no config": (lambda f: (f / "config.json").unlink(), ("config.json", "missing")),
    "config not JSON": (lambda f: (f / "config.json").write_text("{"), ("config.json", "not valid JSON")),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), ("config.json", "JSON object")),
    "no model type": (lambda f: edit_json(f / "config.json", model_type=None), ("config.json", "model_type")),
    "unknown type": (lambda f: edit_json(f / "config.json", model_type="llamo"), ("config.json", "'llamo'")),
    "sizes that clash": (
        lambda f: edit_json(f / "config.json", num_attention_heads=5),
        ("config.json", "hidden size (32) is not a multiple of the number of attention heads (5)"),
    ),
    "another width": (
        lambda f: edit_json(f / "config.json", intermediate_size=80),
        ("weights of another shape", "model.layers.0.mlp.down_proj.weight (file [32, 64], config [32, 80])"),
    ),
    "more layers": (
        lambda f: edit_json(f / "config.json", num_hidden_layers=3),
        ("are missing", "model.layers.2.", "and 5 more"),
    ),
    "layers left over": (
        lambda f: edit_weights(f, add_layer),
        ("has no place for", "model.layers.2."),
    ),
    "wrong shape": (lambda f: edit_weights(f, widen), ("another shape", "mlp.down_proj.weight")),
    "no head": (
        lambda f: edit_weights(f, lambda w: w.pop("lm_head.weight")),
        ("are missing", "lm_head.weight"),
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ("no weights", "model.safetensors")),
    "truncated weights": (lambda f: truncate(f / "model.safetensors"), ("model.safetensors", "not a whole")),
    "garbage weights": (
        lambda f: (f / "model.safetensors").write_bytes(b"<html>404</html>" * 9),
        ("model.safetensors", "not a whole"),
    ),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), ("model.safetensors",)),
    "shard outside": (
        lambda f: shard(f, lambda name: "../part.safetensors"),
        ("index.json", "'../part.safetensors'", "same folder"),
    ),
    "shard missing": (lambda f: shard(f, lambda name: "other.safetensors"), ("other.safetensors", "missing")),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), ("no tokenizer", "tokenizer.json")),
    "broken tokenizer": (lambda f: truncate(f / "tokenizer.json"), ("tokenizer.json", "not valid JSON")),
    "foreign tokenizer": (
        lambda f: (f / "tokenizer.json").write_text('{"model": 3}'),
        ("tokenizer",),
    ),
    "LoRA folder": (lambda f: (f / "adapter_config.json").write_text("{}"), ("LoRA adapter", "lora.path")),
    "vision": (
        lambda f: edit_json(f / "config.json", vision_config={"hidden_size": 8}),
        ("config.json", "vision_config", "use model.adapter: vlm"),
    ),
    "translation": (lambda f: edit_json(f / "config.json", model_type="t5"), ("'t5'", "causal")),
}


@pytest.mark.parametrize("case", BREAKS)
def test_broken_folders_are_refused(folder: Path, case: str) -> None:
    damage, words = BREAKS[case]
    damage(folder)
    refused(folder, *words)


def test_a_whole_folder_loads_and_old_buffers_do_no_harm(folder: Path) -> None:
    key = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(folder, lambda weights: weights.update({key: torch.ones(4)}))
    adapter = Text(path=str(folder)).build(CPU)
    assert next(adapter.policy.parameters()).dtype == torch.float32
    assert not adapter.policy.training


def test_shards_load(folder: Path) -> None:
    before = Text(path=str(folder)).build(CPU)
    shard(folder, lambda name: "part.safetensors")
    after = Text(path=str(folder)).build(CPU)
    theirs = dict(after.policy.named_parameters())
    assert all(torch.equal(p, theirs[n]) for n, p in before.policy.named_parameters())


def test_tied_heads_need_no_weight_of_their_own(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "tied", "qwen2", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    Text(path=path).build(CPU)


def test_pickled_weights_only_when_allowed(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "model.allow_pickle")
    adapter = Text(path=str(folder), allow_pickle=True).build(CPU)
    state = adapter.policy.state_dict()
    assert torch.equal(state["model.norm.weight"], weights["model.norm.weight"])


class _Evil:
    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.sentinel,))


def test_pickled_code_never_runs(folder: Path, tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Evil(sentinel), protocol=2))
    refused(folder, "pytorch_model.bin")
    with pytest.raises(UserError, match="more than tensors"):
        Text(path=str(folder), allow_pickle=True).build(CPU)
    assert not sentinel.exists()


def test_code_in_a_model_folder_never_runs(folder: Path, tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    (folder / "modeling_evil.py").write_text(f"open({str(sentinel)!r}, 'w').close()\n")
    edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    Text(path=str(folder)).build(CPU)  # a known family: its own code is used
    edit_json(folder / "config.json", model_type="evil", auto_map={"AutoConfig": "modeling_evil.Evil"})
    refused(folder, "'evil'")
    assert not sentinel.exists()


def test_tokenizer_wider_than_the_embedding(tmp_path: Path) -> None:
    build_model("llama", 300).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    refused(tmp_path, "has only 300 rows", "does not belong")


def test_paths_that_name_no_model(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_download(*args: object) -> Path:
        raise AssertionError("a path was taken for a hub id")

    monkeypatch.setattr(_loading, "_download", no_download)
    refused(tmp_path / "nothing", f"there is no folder {tmp_path / 'nothing'}")
    refused("./models/llama", "there is no folder ./models/llama")
    refused("a/b/c", "there is no folder a/b/c")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    refused("models/llama", "there is no folder models/llama")
    refused(whole / "config.json", "is a file")
    with pytest.raises(UserError, match="model.revision: only a hub id"):
        Text(path=str(whole), revision="main").build(CPU)


def test_a_hub_id_without_network_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    refused("nobody/no-such-model", "nobody/no-such-model", "could not be fetched", "local folder")


def test_bfloat16_and_the_files_own_type(folder: Path) -> None:
    edit_weights(folder, lambda w: w.update({k: v.to(torch.bfloat16) for k, v in w.items()}))
    edit_json(folder / "config.json", dtype="bfloat16")
    dtypes = {"auto": torch.bfloat16, "float32": torch.float32, "bfloat16": torch.bfloat16}
    for name, expected in dtypes.items():
        adapter = Text(path=str(folder), dtype=name).build(CPU)  # type: ignore[arg-type]
        assert next(adapter.policy.parameters()).dtype == expected
    for asked in (torch.bfloat16, torch.float32):
        assert next(Text(path=str(folder)).build(CPU, asked).policy.parameters()).dtype == asked
    fixed = Text(path=str(folder), dtype="float32").build(CPU, torch.bfloat16)
    assert next(fixed.policy.parameters()).dtype == torch.float32


def test_sentence_pieces_without_their_package_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As T5's tokenizer of CogVideoX is published."""
    (tmp_path / "spiece.model").write_bytes(b"pieces")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    monkeypatch.setattr(_loading, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        _loading.load_tokenizer(tmp_path, T5Tokenizer)
    assert str(caught.value) == (
        f"{tmp_path}/spiece.model: needs the package sentencepiece, there being no tokenizer.json; "
        "pip install 'mmalign[sentencepiece]'"
    )

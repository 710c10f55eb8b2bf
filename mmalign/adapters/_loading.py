"""Strict loading of pretrained folders: whatever does not fit is one readable line, never a log entry."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from mmalign._relative import started_from
from mmalign.types import UserError

# Buffers that older files carry and newer code computes itself.
HARMLESS = re.compile(r"(rotary_emb\.inv_freq|\.attn\.(masked_)?bias|position_ids)$")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "auto": None}  # None: as the files have it
LANGUAGE_MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


# ---------------------------------------------------------------- folder or hub id


def resolve_folder(path: str, revision: str | None, files: Sequence[str]) -> Path:
    """The local folder that `path` names, downloaded first if it is a hub id; `files` are wanted patterns.

    Raises UserError with one line if there is no such folder and no such hub id can be had.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        if revision is not None:
            raise UserError(f"model.revision: only a hub id has revisions, but {path} is a folder; remove it")
        return local
    if local.exists():
        raise UserError(f"model.path: {path} is a file; name the folder that holds config.json")
    looks_local = path.startswith((".", "/", "~")) or path.endswith("/") or "\\" in path
    if looks_local or not _HUB_ID.fullmatch(path) or (local.parent.is_dir() and local.parent != Path(".")):
        where = started_from(path)
        raise UserError(f"model.path: there is no folder {path}{where}; give an existing folder or a hub id")
    return _download(path, revision, files)


def glance_at(path: str, revision: str | None) -> tuple[Path, bool]:
    """The folder that `path` names, of a hub id with its JSON files alone, and whether its weights must lie
    there already. Raises UserError as `resolve_folder` does."""
    return resolve_folder(path, revision, ("*.json",)), Path(path).expanduser().is_dir()


def _download(path: str, revision: str | None, files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=list(files)))
    except RepositoryNotFoundError as error:
        raise UserError(
            f"model.path: {path} is neither a folder here nor a repository on the hub that you may read"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(
            f"model.path: there is no folder {path}{started_from(path)}, and as a hub id it could not be "
            f"fetched ({first_line(error)}); give a local folder or go online"
        ) from error


# ---------------------------------------------------------------- files


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError naming a file that is missing, broken or no object."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file}: the file is missing") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: must hold a JSON object")
    return content


def check_weights(
    folder: Path, stem: str = "model", allow_pickle: bool = False, variant: str | None = None
) -> None:
    """Raise UserError unless `folder` holds whole safetensors weights: `stem`.safetensors or its shards, or
    `stem`.`variant`.safetensors or its shards.

    Pickled weights (.bin) are accepted only with `allow_pickle`. Shard names must stay inside the folder.
    """
    index = folder / ".".join([f"{stem}.safetensors.index", *([variant] if variant else []), "json"])
    single = folder / ".".join([stem, *([variant] if variant else []), "safetensors"])
    if single.exists():
        _check_safetensors(single)
    elif index.exists():
        for name in _shards(index):
            _check_safetensors(folder / name)
    elif pickled := sorted(folder.glob("*.bin")):
        if not allow_pickle:
            raise UserError(
                f"{pickled[0]}: only pickled weights here; convert them to safetensors, or set "
                "model.allow_pickle: true if you trust this file"
            )
        for pickle_index in folder.glob("*.bin.index.json"):
            _shards(pickle_index)
    else:
        raise UserError(f"{folder}: no weights; expected {single.name} or {index.name}")


def _shards(index: Path) -> list[str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(n, str) for n in weight_map.values()):
        raise UserError(f"{index}: weight_map must map tensor names to file names")
    names = sorted(set(weight_map.values()))
    for name in names:
        if name != Path(name).name or "\\" in name or name in ("", ".", ".."):
            raise UserError(f"{index}: weight_map names {name!r}; a shard must lie in the same folder")
        if not (index.parent / name).is_file():
            raise UserError(f"{index}: weight_map names {name}, which is missing")
    return names


def _check_safetensors(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: not a whole safetensors file: {first_line(error)}") from error


# ---------------------------------------------------------------- what the libraries say


def first_line(error: BaseException) -> str:
    """The first line that says something, of an error message, with the next if it only announces one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


@contextmanager
def readable_errors(what: str) -> Iterator[None]:
    """Turn whatever a loading library raises into one UserError line that begins with `what`."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    known = (OSError, ValueError, RuntimeError, TypeError, KeyError, ImportError)
    try:
        yield
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(f"{what}: the pickled weights hold more than tensors and are not read") from error
    except (*known, SafetensorError, StrictDataclassError) as error:
        raise UserError(f"{what}: {first_line(error)}") from error


def refuse_misfits(info: dict[str, Any], where: str, allowed_missing: Sequence[str] = ()) -> None:
    """Raise UserError if weights are missing, left over or of another shape; `info` as `from_pretrained`
    gives it with `output_loading_info`."""
    missing = sorted(set(info["missing_keys"]) - set(allowed_missing))
    left_over = sorted(k for k in info["unexpected_keys"] if not HARMLESS.search(k))
    mismatched = [_misfit(entry) for entry in info["mismatched_keys"]]
    for problem, names, meaning in (
        ("weights that the config asks for are missing", missing, "they would be random"),
        ("weights that the config has no place for", left_over, "they would be dropped"),
        ("weights of another shape than the config says", sorted(mismatched), "they would be random"),
    ):
        if names:
            shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            raise UserError(f"{where}: {problem} ({meaning}): {shown}; config.json and weights do not match")
    if info.get("error_msgs"):
        raise UserError(f"{where}: {str(info['error_msgs'][0]).splitlines()[0]}")


def _misfit(entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    name, found, wanted = entry
    return f"{name} (file {list(found)}, config {list(wanted)})"


# ---------------------------------------------------------------- language models


def holds_classifier(folder: Path) -> bool:
    """True if config.json names a sequence classifier: a score layer in place of the vocabulary head."""
    named = read_json(folder / "config.json").get("architectures")
    return isinstance(named, list) and any(str(n).endswith("ForSequenceClassification") for n in named)


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file. Raises UserError if it is missing or broken."""
    from safetensors.torch import load_file

    with readable_errors(f"{file}"):
        return load_file(file)


def load_causal_lm(
    folder: Path, dtype: torch.dtype | None, attention: str, allow_pickle: bool, classifier: bool = False
) -> tuple[Any, Any]:
    """Model (evaluation mode, CPU) and tokenizer of a causal language model from a local folder, strictly.

    `dtype` None keeps the files' own. With `classifier` it is loaded with its score layer. Raises UserError
    for anything missing, left over or foreign.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    refuse_no_causal_lm(folder, classifier)
    auto: Any = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    model = load_weights(folder, auto, dtype, attention, allow_pickle)
    return model, load_tokenizer(folder, AutoTokenizer)


def refuse_no_causal_lm(folder: Path, classifier: bool = False) -> None:
    """Raise UserError for a folder of anything but a causal language model; with `classifier` a sequence
    classifier will do. Reads no weights."""
    refuse_other_folders(folder)
    settings = read_json(folder / "config.json")
    _check_architecture(settings, folder)
    if not classifier and holds_classifier(folder):
        raise UserError(
            f"{folder}: holds a sequence classifier ({settings['architectures'][0]}), which gives scores and "
            "no log-probabilities; use model.adapter: reward_head with this folder as model.backbone.path"
        )


def refuse_other_folders(folder: Path) -> None:
    """Raise UserError for the folder of a LoRA adapter or of a diffusion pipeline."""
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder}: holds a LoRA adapter; give the base model as model.path and this folder as lora.path"
        )
    if (folder / "model_index.json").exists():
        raise UserError(
            f"{folder}: holds a diffusion pipeline (model_index.json); use model.adapter: diffusion"
        )


def load_weights(
    folder: Path, auto: Any, dtype: torch.dtype | None, attention: str, allow_pickle: bool
) -> Any:
    """A model by one of transformers' auto classes: evaluation mode, CPU, every weight accounted for."""
    from transformers import AutoConfig

    check_weights(folder, allow_pickle=allow_pickle)
    with readable_errors(f"{folder}/config.json"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    with readable_errors(f"{folder}"):
        model, info = auto.from_pretrained(
            folder,
            config=config,
            dtype="auto" if dtype is None else dtype,
            attn_implementation=None if attention == "auto" else attention,
            use_safetensors=any(folder.glob("*.safetensors")),
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # so that all of them are named below
            output_loading_info=True,
        )
    refuse_misfits(info, str(folder))
    return model.eval()


def load_tokenizer(folder: Path, loader: Any) -> Any:
    """A tokenizer from a local folder. Raises UserError if its files are missing or broken."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
    if not any((folder / name).exists() for name in names):
        raise UserError(f"{folder}: no tokenizer; expected one of {', '.join(names)}")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).exists():
            read_json(folder / name)
    pieces = [name for name in ("spiece.model", "tokenizer.model") if (folder / name).exists()]
    if pieces and not (folder / "tokenizer.json").exists() and find_spec("sentencepiece") is None:
        raise UserError(
            f"{folder}/{pieces[0]}: needs the package sentencepiece, there being no tokenizer.json; "
            "pip install 'mmalign[sentencepiece]'"
        )
    with readable_errors(f"{folder}: tokenizer"):
        return loader.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _check_architecture(settings: dict[str, Any], folder: Path) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    where = f"{folder}/config.json"
    model_type = settings.get("model_type")
    if not isinstance(model_type, str):
        raise UserError(f"{where}: has no model_type; this is not a transformers model folder")
    media = [k for k in ("vision_config", "audio_config", "vision_tower_config") if settings.get(k)]
    if media:
        raise UserError(
            f"{where}: {model_type} also reads images, video or sound ({media[0]}); model.adapter: text "
            "takes language models only; use model.adapter: vlm or video_lm"
        )
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or settings.get("is_encoder_decoder"):
        raise UserError(
            f"{where}: model_type {model_type!r} is not a causal language model transformers knows"
        )


def num_positions(model: Any) -> int | None:
    """How many positions the model can place, or None if its config sets no bound."""
    config = model.config.get_text_config()
    found = config.to_dict().get(
        config.attribute_map.get("max_position_embeddings", "max_position_embeddings")
    )
    return found if isinstance(found, int) and found > 0 else None


def refuse_long(model: Any, width: int) -> None:
    """Raise UserError if another model than the one that rows were cut for cannot place `width` tokens."""
    positions = num_positions(model)
    if positions is not None and width > positions:
        raise UserError(
            f"model.max_length: a row has {width} tokens, but the reference can place only {positions}; "
            f"set model.max_length: {positions}"
        )

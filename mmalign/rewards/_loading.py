"""Loading of two-tower models from what people have: transformers folders, open_clip folders, checkpoints.

Whatever cannot be had is one readable line that names the field.
"""

from __future__ import annotations

import difflib
import importlib.util
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmalign.rewards._encoders import Encoder, OpenClipEncoder, TransformersEncoder
from mmalign.rewards._resize import Recipe
from mmalign.types import UserError


@dataclass(frozen=True)
class Place:
    """Where a model's files are. `judge` starts the messages."""

    judge: str
    path: str
    processor: str | None = None
    architecture: str | None = None
    whole: bool = False  # read the whole picture with a black border, not its middle


def load_encoder(place: Place, device: torch.device) -> Encoder:
    """The towers in `place.path`: a transformers CLIP folder or hub id; a folder with open_clip_config.json
    or hf-hub:ID; or a file of weights of the open_clip model `place.architecture`.

    Raises UserError for what is not there, does not fit, or holds pickled code.
    """
    path = Path(place.path).expanduser()
    in_open_clip = place.path.startswith("hf-hub:") or (
        (path / "open_clip_config.json").is_file() and not (path / "config.json").is_file()
    )
    if path.is_file() or in_open_clip:
        if place.processor is not None:
            raise UserError(f"{place.judge}: processor: is read with transformers folders only; remove it")
        return _open_clip(place, path, device)
    if place.architecture is not None:
        if not path.exists():
            raise UserError(f"{place.judge}: path: there is no file {place.path}")
        raise UserError(
            f"{place.judge}: architecture: goes with a file of open_clip weights, and {place.path} is "
            "a folder; name the file in path, or remove architecture"
        )
    if not path.is_dir() and (place.path.startswith((".", "/", "~")) or place.path.endswith("/")):
        raise UserError(f"{place.judge}: path: there is no folder or file {place.path}")
    return _transformers(place, str(path) if path.is_dir() else place.path, device)


def pick_device(name: str | None) -> torch.device:
    """The device of that name; without one a GPU if there is one. Raises UserError if it is not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: {name} cannot be used here: {first_line(error)}") from error
    return device


def read_tensors(file: Path, where: str) -> dict[str, Tensor]:
    """Named tensors from a .safetensors file or a torch file without code. Raises UserError, starting with
    `where`, for a missing, damaged or other file."""
    if not file.is_file():
        raise UserError(f"{where}: there is no file {file}")
    with readable(f"{where}: {file}"):
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(file))
        found = torch.load(file, map_location="cpu", weights_only=True)
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{where}: {file}: must hold tensors by name")
    return found


def _transformers(place: Place, path: str, device: torch.device) -> Encoder:
    from transformers import AutoConfig, AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    where = f"{place.judge}: path: {place.path}"
    _expect(Path(path), "config.json", where)
    with readable(where):
        kind = AutoConfig.from_pretrained(path).model_type
    if kind != "clip":
        raise UserError(f"{where}: must hold a CLIP model, got model_type {kind}")
    with readable(where):
        model, info = CLIPModel.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"{where}: the file lacks {len(missing)} tensors of the model, such as {missing[0]}")
    beside = place.processor or path
    place_of = f"{place.judge}: {'processor' if place.processor else 'path'}: {beside}"
    _expect(Path(beside).expanduser(), "preprocessor_config.json", place_of)
    with readable(place_of):
        tokenizer = AutoTokenizer.from_pretrained(beside)
        # published scores of CLIP models were computed on pictures that PIL resized
        processor = CLIPImageProcessorPil.from_pretrained(beside)
    known, rows = len(tokenizer), model.config.text_config.vocab_size
    if not 3 < known <= rows:
        raise UserError(
            f"{place_of}: its tokenizer has {known} tokens and the model {rows}; name the folder of the "
            "tokenizer and preprocessor_config.json in processor"
        )
    return TransformersEncoder(model, processor, tokenizer, _recipe_of(processor, place_of), device)


def _expect(folder: Path, name: str, where: str) -> None:
    """Raise UserError if `folder` is one here and lacks a file; a hub id is asked later."""
    if folder.is_dir() and not (folder / name).is_file():
        raise UserError(f"{where}: there is no {name} in this folder")


def _recipe_of(processor: Any, where: str) -> Recipe:
    """The same steps for tensors. Raises UserError for steps that CLIP processors do not have."""
    size, crop = processor.size, processor.crop_size
    steps = processor.do_resize and processor.do_rescale and processor.do_normalize
    modes = {2: "bilinear", 3: "bicubic"}  # PIL's numbers
    if not steps or processor.resample not in modes or abs(processor.rescale_factor * 255 - 1) > 1e-6:
        raise UserError(f"{where}: its processor must resize (bilinear or bicubic), rescale and normalise")
    shapes = {"mean": tuple(processor.image_mean), "std": tuple(processor.image_std)}
    shared: dict[str, Any] = {**shapes, "mode": modes[processor.resample], "odd": "down"}
    cut = (crop.height, crop.width) if processor.do_center_crop else None
    if size.height and size.width:
        return Recipe((size.height, size.width), "squash", cut, **shared)
    if size.shortest_edge and not size.longest_edge and cut is not None:
        return Recipe((size.shortest_edge, size.shortest_edge), "shorter", cut, **shared)
    raise UserError(f"{where}: its processor must give pictures of one size")


def _open_clip(place: Place, path: Path, device: torch.device) -> Encoder:
    if importlib.util.find_spec("open_clip") is None:
        raise UserError(f"{place.judge}: needs open_clip; pip install 'mmalign[clip]'")
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    where = f"{place.judge}: path: {place.path}"
    if path.is_file():
        name, weights = _architecture(place, open_clip.list_models()), str(path)
    elif place.architecture is not None:
        raise UserError(f"{place.judge}: architecture: {place.path} names its own; remove it")
    else:
        name, weights = place.path if place.path.startswith("hf-hub:") else f"local-dir:{path}", None
    with readable(where):
        model = open_clip.create_model(
            name,
            pretrained=weights,
            precision="fp32",
            force_preprocess_cfg={"resize_mode": "longest"} if place.whole else None,
            require_pretrained=True,
        )
        tokenizer = open_clip.get_tokenizer(name)
    settings = open_clip.get_model_preprocess_cfg(model)
    preprocess = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    return OpenClipEncoder(model, preprocess, tokenizer, _recipe_from(settings), device)


def _architecture(place: Place, known: list[str]) -> str:
    if place.architecture is None:
        raise UserError(f"{place.judge}: architecture: name the open_clip model in {place.path}")
    if place.architecture not in known:
        near = difflib.get_close_matches(place.architecture, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{place.judge}: architecture: open_clip has no {place.architecture!r}{hint}")
    return place.architecture


def _recipe_from(settings: dict[str, Any]) -> Recipe:
    """The same steps for tensors as open_clip takes for PIL pictures."""
    given = settings["size"]
    size = (given, given) if isinstance(given, int) else (given[0], given[1])
    fits = {"longest": "inside", "squash": "squash", "shortest": "shorter" if size[0] == size[1] else "cover"}
    fit: Any = fits[settings["resize_mode"]]
    mode: Any = "bilinear" if settings["interpolation"] == "bilinear" else "bicubic"
    border = settings["fill_color"] / 255
    mean, std = tuple(settings["mean"]), tuple(settings["std"])
    return Recipe(size, fit, None if fit == "squash" else size, mean, std, mode, border=border)


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn what a loading library raises into one UserError line that begins with `what`."""
    from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
    from safetensors import SafetensorError

    kinds = (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError, EOFError, AssertionError)
    try:
        yield
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(f"{what}: damaged, or pickled code, which is not run; use .safetensors") from error
    except (*kinds, HfHubHTTPError, StrictDataclassError, SafetensorError) as error:
        raise UserError(f"{what}: cannot be loaded: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line that says something, with the next if it only announces one, cut at 200
    characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return said if len(said) <= 200 else said[:197] + "..."

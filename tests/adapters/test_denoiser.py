"""The diffusion adapter's rows: pictures and captions prepared, encoded once, named by content, refused."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract import Case
from PIL import Image
from tiny_sd import SIDE, example, pair, pairs, picture, save_pipeline

from mmalign.adapters._buckets import Frame
from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters._pictures import fitted
from mmalign.adapters.diffusion import Diffusion
from mmalign.types import Batch, Example, Message, Part, PreferenceSample, UserError

CPU = torch.device("cpu")
ROLES = ("chosen", "rejected")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def adapter(folder: Path) -> Denoiser:
    return Diffusion(str(folder)).build(CPU)


def batch_of(adapter: Denoiser, *samples: PreferenceSample) -> Batch:
    return Case(adapter, samples).batch()


def test_every_distinct_caption_and_picture_is_encoded_once(folder: Path) -> None:
    adapter = Diffusion(str(folder)).build(CPU)
    shared = picture(1)
    samples = [pair(f"s{i}", "cat" if i < 3 else "dog", shared, picture(i + 2)) for i in range(4)]
    prepared = [adapter.prepare(sample, ROLES) for sample in samples]
    rows: dict[str, list[int]] = {"captions": [], "pictures": []}  # of each forward
    hooks = [
        net.register_forward_pre_hook(lambda module, inputs, key=key: rows[key].append(len(inputs[0])))
        for key, net in (("captions", adapter._parts.encoders[0]), ("pictures", adapter._latents.vae.encoder))
    ]
    encoded = adapter.encode(prepared)
    assert rows == {"captions": [2], "pictures": [5]}
    again = adapter.encode(prepared[:1])
    assert rows == {"captions": [2], "pictures": [5, 2]}  # captions are remembered from call to call
    for hook in hooks:
        hook.remove()
    assert torch.allclose(again[0].rows[0].data["mean"], encoded[0].rows[0].data["mean"], atol=1e-6)
    for row in encoded[0].rows:
        assert all(isinstance(value, torch.Tensor) and value.device == CPU for value in row.data.values())
        assert row.data["mean"].shape == row.data["logvar"].shape == (4, 16, 16)
        assert row.data["states"].shape == (77, 32)


def test_keys_name_content_not_place(adapter: Denoiser) -> None:
    def key(caption: str, seed: int, role: str = "chosen") -> str | None:
        sample = PreferenceSample("x", {role: (example(caption, picture(seed)),)})
        return adapter.prepare(sample, [role]).rows[0].key

    assert key("cat", 1) == key("cat", 1, "rejected") is not None
    assert len({key("cat", 1), key("cat", 2), key("dog", 1)}) == 3


def test_long_captions_and_small_pictures_are_counted(folder: Path) -> None:
    adapter = Diffusion(str(folder)).build(CPU)
    fits, long = "z" * 75, "z" * 76  # one token a letter, beside start and end
    samples = [
        pair("a", fits, picture(1), picture(2)),
        pair("b", long, picture(1, 16, 16), picture(2)),
    ]
    assert adapter.check(samples[0], ROLES) == ()
    found = adapter.check(samples[1], ROLES)
    assert sorted(found) == ["captions cut to fit", "pictures enlarged"], "rows, not their sides"
    (encoded,) = adapter.encode([adapter.prepare(samples[1], ROLES)])
    assert encoded.rows[0].data["states"].shape == (77, 32)


def test_captions_that_are_cut_are_cut_without_a_word_of_upstream(folder: Path) -> None:
    """It warns once per process of "indexing errors" that cannot be; other warnings still come through."""
    adapter = Diffusion(str(folder)).build(CPU)
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers")]
    levels = [one.getEffectiveLevel() for one in loggers]
    for one in loggers:
        one.addHandler(handler)
    try:
        adapter._captions.conditions(["z" * 90])
        assert heard == [] and [one.getEffectiveLevel() for one in loggers] == levels
        adapter._parts.pipeline.encode_prompt(["z" * 90], CPU, 1, False)
        assert any("truncated" in line for line in heard)
    finally:
        for one in loggers:
            one.removeHandler(handler)


def test_pictures_are_resized_by_the_short_side_and_cropped_in_the_centre() -> None:
    stripes = np.zeros((40, 120, 3), dtype=np.uint8)
    stripes[:, 40:80] = (255, 0, 0)
    cropped = fitted(Image.fromarray(stripes), Frame.of((120, 40), (20, 20)))
    assert cropped.shape == (3, 20, 20) and cropped.dtype == torch.uint8
    assert bool((cropped[0] > 240).all())  # the middle third fills the square
    exact = picture(3, 16, 16)
    assert torch.equal(
        fitted(exact, Frame.of((16, 16), (16, 16))), torch.tensor(np.array(exact)).permute(2, 0, 1)
    )


def test_lists_of_uneven_length_keep_their_slots(adapter: Denoiser) -> None:
    listed = {
        "chosen": (example("cat", picture(1)),),
        "rejected": tuple(example("cat", picture(i)) for i in (2, 3, 4)),
    }
    batch = batch_of(adapter, PreferenceSample("a", listed), *pairs(1))
    assert batch.row_slot[batch.rows_of("rejected")].tolist() == [0, 1, 2, 0]
    assert batch.row_sample[batch.rows_of("rejected")].tolist() == [0, 0, 0, 1]


def test_resolution_follows_the_config(folder: Path) -> None:
    small = Diffusion(str(folder), resolution=16).build(CPU)
    assert batch_of(small, *pairs(1)).inputs["mean"].shape == (2, 4, 8, 8)
    assert Diffusion(str(folder)).build(CPU).resolution == SIDE
    with pytest.raises(UserError, match=r"model\.resolution: must be a multiple of 2"):
        Diffusion(str(folder), resolution=17).build(CPU)


def text(caption: Any) -> tuple[Message, ...]:
    return (Message("user", (Part("text", caption),)),)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Example(text("cat"), (Part("text", "hello"),)), "response must be exactly one image, got text"),
        (
            Example(text("cat"), (Part("text", "winners/000.png"),)),
            r'one image, got text; give \{"image": "winners/000.png"\} in place of the bare text$',
        ),
        (Example(text("cat"), ()), "response must be exactly one image, got nothing"),
        (Example(text("cat"), (Part("image", "cat.png"),)), "must be decoded to RGB first, got str"),
        (Example(text("cat"), (Part("image", picture(1).convert("L")),)), "decoded to RGB first, got L"),
        (example("cat", picture(1, 4, 40)), "got 4 x 40"),
        (example("cat", picture(1, 10, 110)), "at most 10:1, got 10 x 110"),
        (example("a <|endoftext|> cat", picture(1)), r"control token <\|endoftext\|>"),
        (example("a \ud800 cat", picture(1)), "half of a character"),
        (Example(text("a") + text("b"), (Part("image", picture(1)),)), "got messages by: user, user"),
        (
            Example((Message("user", (Part("image", picture(1)),)),), (Part("image", picture(1)),)),
            "prompt must be text only, got image",
        ),
    ],
)
def test_rows_that_do_not_fit_are_refused(adapter: Denoiser, given: Example, message: str) -> None:
    sample = PreferenceSample("s", {"chosen": (given,)}, origin="pairs.jsonl row 17")
    with pytest.raises(UserError, match=f"^pairs.jsonl row 17: chosen: .*{message}") as caught:
        adapter.check(sample, ["chosen"])
    assert "\n" not in str(caught.value)


def test_a_list_names_the_place_of_what_does_not_fit(adapter: Denoiser) -> None:
    listed = (example("cat", picture(1)), Example(text("cat"), ()))
    with pytest.raises(UserError, match=r"^s: rejected\[1\]: response must be exactly one image"):
        adapter.prepare(PreferenceSample("s", {"rejected": listed}), ["rejected"])


def test_a_sample_may_lack_a_role(adapter: Denoiser) -> None:
    alone = PreferenceSample("a", {"chosen": (example("cat", picture(1)),)})
    batch = batch_of(adapter, alone, *pairs(1))
    assert batch.row_sample[batch.rows_of("rejected")].tolist() == [1]
    with pytest.raises(ValueError, match="no rows of the roles rejected"):
        adapter.collate([adapter.prepare(alone, ROLES)], ["rejected"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("path", " "),
        ("resolution", 0),
        ("caption_dropout", 1.0),
        ("num_draws", 0),
        ("gamma", 5.0),
        ("noise_offset", -0.1),
    ],
)
def test_settings_out_of_range_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field}: .*got"):
        Diffusion(**{"path": "p", field: value})

"""What a prompt is worth by what is painted from it: seeds, means, the original prompt, and refusals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from adapters import tiny_sd
from PIL import Image

import mmalign
from mmalign._build import build_named, named_tree
from mmalign._names import KINDS
from mmalign.rewards._scoring import ready, score_all
from mmalign.rewards._wrapping import unwrapped, wrapped
from mmalign.rewards.painted import Painted
from mmalign.types import Message, Part, UserError

SHAPES = Path(mmalign.__file__).parent / "shapes/models/image"


@dataclass(frozen=True)
class Seen:
    """A judge that says what it is given: a number of the pixels, and the length of the prompt."""

    costs: ClassVar[frozenset[str]] = frozenset({"dark"})
    unchecked: ClassVar[bool] = True

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        assert isinstance(response.data, Image.Image)
        mean = float(np.asarray(response.data, dtype=np.float64).mean()) / 255
        return {"score": mean, "dark": 1 - mean, "words": len(prompt[0].parts[0].data.split())}


@dataclass(frozen=True)
class Unsure(Seen):
    """A judge that writes, of which verdicts on captions of two words cannot be read."""

    def verdicts(self, prompts: Sequence[Any], responses: Sequence[Part]) -> list[Any]:
        found = [self.score(*one) for one in zip(prompts, responses, strict=True)]
        return [None if one["words"] == 2 else one for one in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("painter")
    tiny_sd.save_pipeline(place)
    return place


def section(folder: Path, **more: Any) -> dict[str, Any]:
    model = {"adapter": "diffusion", "path": str(folder), "generation": {"steps": 2, "guidance": 1.0}}
    judge = {"name": "rewards.test_painted:Seen"}
    return {"name": "painted", "model": model, "judge": judge, **more}


def painter(folder: Path, **more: Any) -> Painted:
    built = build_named(KINDS["judge"], section(folder, **more), "judge", allow_code=True)
    assert isinstance(built, Painted)
    return built


def turns(text: str) -> tuple[Message, ...]:
    return (Message("text", (Part("text", text),)),)


def test_scores_depend_on_rewrite_prompt_and_seed_alone(folder: Path) -> None:
    judge = painter(folder, batch=2)
    ready(judge)
    prompts = [turns("a cat"), turns("a cat"), turns("two big dogs"), turns("a cat")]
    texts = [Part("text", text) for text in ("a cat", "a small cat", "a cat", " a cat ")]
    found = score_all(judge, prompts, texts)
    assert found[0] == found[3], "the same noise for every rewrite of one prompt"
    assert found[0]["words"] == 2 and found[2]["words"] == 3, "judged under the original prompt"
    assert found[0]["score"] != found[2]["score"], "another prompt has other noise"
    assert found[0]["score"] != found[1]["score"]
    alone = [judge.score(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    assert alone == found, "whatever the batch"
    assert painter(folder, seed=1).score(prompts[0], texts[0])["score"] != found[0]["score"]
    assert judge.unchecked and judge.costs == {"dark"}


def test_several_pictures_are_averaged(folder: Path) -> None:
    one, three = (painter(folder, n=n).score(turns("a cat"), Part("text", "a cat")) for n in (1, 3))
    assert three["score"] != one["score"] and three["score"] + three["dark"] == pytest.approx(1)
    assert three["words"] == 2


def test_verdicts_that_cannot_be_read_are_none(folder: Path) -> None:
    judge = painter(folder, n=2, judge={"name": "rewards.test_painted:Unsure"})
    found = judge.verdicts([turns("a cat"), turns("a big cat")], [Part("text", "a cat")] * 2)
    assert found[0] is None and found[1] is not None and found[1]["words"] == 3
    with pytest.raises(UserError, match="the judge's verdict on what 'a cat' makes cannot be read"):
        judge.score(turns("a cat"), Part("text", "a cat"))


def test_the_original_prompt_is_found_in_what_the_rewriter_is_asked(folder: Path) -> None:
    asked = wrapped("a cat", "Reword: {prompt} now.")
    assert asked == "Reword: a cat now." and unwrapped(asked, "Reword: {prompt} now.") == "a cat"
    judge = painter(folder, template="Reword: {prompt} now.")
    assert judge.score(turns(asked), Part("text", "a cat")) == painter(folder).score(
        turns("a cat"), Part("text", "a cat")
    )
    with pytest.raises(UserError, match="template: the prompt does not follow it: 'a cat'"):
        judge.score(turns("a cat"), Part("text", "a cat"))


def test_the_built_in_image_model_shows_what_a_prompt_says() -> None:
    tree = section(SHAPES, judge={"name": "mmalign.shapes.judges:ImageJudge"})
    tree["model"]["generation"] = {"steps": 8, "guidance": 3.0}
    judge = build_named(KINDS["judge"], tree, "judge", allow_code=False)
    same, other = score_all(
        judge,
        [turns("a large red square")] * 2,
        [Part("text", f"a large {c} square") for c in ("red", "green")],
    )
    assert same["faithfulness"] > other["faithfulness"]


def test_a_config_comes_back_with_its_defaults(folder: Path) -> None:
    judge = painter(folder)
    tree = named_tree(KINDS["judge"], judge)
    assert tree["model"]["generation"]["steps"] == 2 and "resolution" in tree["model"]
    assert build_named(KINDS["judge"], tree, "judge", allow_code=True) == judge


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"n": 0}, "judge.n: must be 1 or more, got 0"),
        ({"template": "{prompt} {prompt}"}, "judge.template: must hold {prompt} once"),
        ({"model": {"adapter": "text", "path": "x"}}, "adapter: text makes no pictures or clips"),
        ({"model": {"adapter": "diffusion"}}, "model.path: this field is required"),
        ({"judge": {"name": "brightnes"}}, "did you mean brightness"),
    ],
)
def test_settings_are_refused(folder: Path, more: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        painter(folder, **more)
    assert "\n" not in str(caught.value)


def test_a_judge_of_texts_is_refused_beside_a_painter(folder: Path) -> None:
    judge = painter(folder, judge={"name": "mmalign.shapes.judges:StoryJudge"})
    with pytest.raises(UserError, match="StoryJudge reads texts, and this model makes pictures"):
        ready(judge)


def test_code_of_ones_own_needs_permission(folder: Path) -> None:
    with pytest.raises(UserError, match="would import code from outside mmalign"):
        build_named(KINDS["judge"], section(folder), "judge", allow_code=False)

"""The catalogue: everything that can be named, what it needs, and where it runs."""

import pytest

from mmalign._names import KINDS, class_of, names
from mmalign.catalogue import TOPICS, Entry, catalogue, fields_of, shapes, told_of, topics_of
from mmalign.types import NEEDS, UserError


def by_name(topic: str) -> dict[str, Entry]:
    return {entry.name: entry for entry in catalogue(topic)}


def test_every_shipped_name_is_listed_with_one_line() -> None:
    entries = catalogue()
    assert [(e.topic, e.name) for e in entries] == [
        (t, n) for t, k in TOPICS.items() for n in names(KINDS[k])
    ]
    for entry in entries:
        assert 10 < len(entry.summary) < 120 and "\n" not in entry.summary, entry.name
        assert entry.summary.endswith("."), f"{entry.name}: cut in the middle of a sentence"
        assert set(entry.needs) | set(entry.offers) <= set(NEEDS), entry.name


def test_builders_speak_of_fields_that_they_have() -> None:
    for name in names(KINDS["builder"]):
        fields = {line.partition(":")[0].strip() for line in fields_of("builders", name)}
        assert "n" in fields or not any("`n`" in line for line in told_of("builders", name)), name


def test_objectives_say_where_they_run_and_why_not() -> None:
    objectives = by_name("objectives")
    assert (objectives["dpo"].adapters or {}).items() >= {"diffusion": True, "text": True}.items()
    assert (objectives["mapo"].adapters or {}).items() >= {"diffusion": True, "text": "lacks error"}.items()
    assert all(set(o.adapters or {}) == set(names(KINDS["model"])) for o in objectives.values())
    mdpo = objectives["mdpo"].adapters or {}
    assert (
        mdpo.items() >= {"text": "reads no image or video in prompts", "vlm": True, "video_lm": True}.items()
    )
    assert objectives["mapo"].sources == () and objectives["dpo"].sources == ("reference",)
    assert objectives["ipo"].needs == ("length", "ratio") and objectives["sft"].needs == ()


def test_transforms_say_where_they_run() -> None:
    transform = by_name("transforms")["length_desensitized"]
    assert (transform.adapters or {}).items() >= {"diffusion": "lacks units", "text": True}.items()
    assert transform.sources == ()


def test_adapters_say_what_they_offer() -> None:
    adapters = by_name("adapters")
    assert adapters["diffusion"].offers == (
        *("error", "inversion", "length", "prediction", "ratio", "sampler", "segments", "transition"),
    )
    assert "distribution" in adapters["text"].offers and "error" not in adapters["text"].offers
    assert adapters["text"].adapters is None


def test_every_adapter_offers_ratios_or_rewards() -> None:
    """What most objectives need; an adapter without them could train almost nothing."""
    assert all({"ratio", "reward"} & set(entry.offers) for entry in catalogue("adapters"))


def test_a_reward_model_runs_what_reads_rewards_and_nothing_else() -> None:
    shown = {e.name for e in catalogue("objectives", adapter="reward_head")}
    assert "bt" in shown and not shown & {"sft", "dpo", "mapo"}
    objectives = by_name("objectives")
    assert (objectives["bt"].adapters or {})["text"] == "lacks reward"
    assert (objectives["sft"].adapters or {})["reward_head"] == "lacks likelihood"


def test_every_adapter_says_what_it_reads_beside_text() -> None:
    media = {name: class_of(KINDS["model"], name).media for name in names(KINDS["model"])}
    backbone = media.pop("reward_head")  # what its backbone reads
    assert isinstance(backbone, property)
    assert all(kinds <= {"image", "video"} for kinds in media.values())
    assert media["text"] == media["diffusion"] == frozenset()
    assert media["vlm"] == {"image"} and media["video_lm"] == {"image", "video"}


def test_listing_for_one_adapter_leaves_out_what_it_cannot_run() -> None:
    shown = catalogue(adapter="text")
    assert "mapo" not in {e.name for e in shown} and "length_desensitized" in {e.name for e in shown}
    shown = catalogue(adapter="diffusion")
    assert "mapo" in {e.name for e in shown} and "length_desensitized" not in {e.name for e in shown}
    assert {e.name for e in shown if e.topic == "sources"} == set(names(KINDS["data"]))


def test_unknown_topics_and_adapters_are_refused() -> None:
    with pytest.raises(UserError, match=r"no topic 'losses'; topics: objectives, adapters"):
        catalogue("losses")
    for word in ("data", "model", "objective", "heldout", "frames", "generation", "blind", "judge"):
        with pytest.raises(UserError, match=rf"'{word}' .* listed by: mmalign list \w+$") as error:
            catalogue(word)
        place = str(error.value).split()[-1]
        fields = [line for topic in topics_of(place) for line in fields_of(topic, place)]
        assert place in TOPICS or any(line.startswith(f"{word}:") for line in fields)
    with pytest.raises(UserError, match=r"no adapter 'gpt'; known: .*text"):
        catalogue(adapter="gpt")


def test_a_name_is_shown_with_its_fields_and_defaults() -> None:
    assert topics_of("ddpo") == ["objectives"] and topics_of("gone") == []
    assert topics_of("jsonl") == ["sources"]
    assert "advantage_clip: float = 5.0" in fields_of("objectives", "ddpo")
    pairs = fields_of("sources", "folder_pairs")
    assert {"path: str", "winners: str = winners", "root: str | null = null"} <= set(pairs)
    assert {"generation: Generation", "    steps: int = 50"} <= set(fields_of("adapters", "diffusion"))


def test_the_built_in_world_is_listed_too() -> None:
    assert sorted(shapes("rewards")) == [
        f"mmalign.shapes.judges:{name}Judge" for name in ("Caption", "Image", "Motion", "Story")
    ]
    assert all(10 < len(line) < 160 for topic in ("sources", "rewards") for line in shapes(topic).values())
    assert shapes("objectives") == {} and topics_of("mmalign.shapes.sources:ClipPairs") == ["sources"]


def test_a_thing_tells_what_it_is_before_its_fields() -> None:
    told = "\n".join(told_of("writers", "python_function"))
    assert told.startswith("Calls function(turns, seed) -> str | None") and "turns[-1].parts[-1].data" in told
    assert told.endswith("\nfunction: str\n    package.module:function")

"""The shipped story model and pairs: loadable offline by the public loaders, and as good as stated."""

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from mmalign.shapes.judge_text import judge_text
from mmalign.shapes.stories import heldout_prompts, parse_prompt, prompts_of, write_story
from mmalign.shapes.story_pairs import PAIRS_FILE, PAIRS_HELDOUT_FILE, StoryPair
from mmalign.shapes.tiny_llama import TEXT_MODEL_FOLDER, chat_text, load_story_model, sample_stories

Loaded = tuple[LlamaForCausalLM, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def shipped() -> Loaded:
    return load_story_model()


def test_public_loaders_read_the_folder_and_it_is_small() -> None:
    model, report = AutoModelForCausalLM.from_pretrained(
        TEXT_MODEL_FOLDER, local_files_only=True, output_loading_info=True
    )
    assert isinstance(model, LlamaForCausalLM)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model.dtype == torch.float16
    assert model.generation_config.do_sample is False
    tokenizer = AutoTokenizer.from_pretrained(TEXT_MODEL_FOLDER, local_files_only=True)
    assert len(tokenizer) == model.config.vocab_size
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert sum(path.stat().st_size for path in TEXT_MODEL_FOLDER.iterdir()) < 2_000_000


def test_chat_template_takes_strings_and_parts_and_refuses_images(shipped: Loaded) -> None:
    _, tokenizer = shipped
    expected = "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n"
    for content in ("Hi there", [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]):
        messages = [{"role": "user", "content": content}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert text == expected
    assert chat_text(tokenizer, "Hi there", "Yes.") == expected + "Yes.<|im_end|>\n"
    with pytest.raises(Exception, match="reads text only"):
        tokenizer.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], tokenize=False)


def test_tokenizer_round_trips_any_text(shipped: Loaded) -> None:
    _, tokenizer = shipped
    for text in ("The red star sings.", "Ünknown wörds, 漢字 and \x00 too\n"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert tokenizer.unk_token_id not in ids


def test_samples_are_valid_stories(shipped: Loaded) -> None:
    prompts = heldout_prompts(32, 11)
    stories = sample_stories(*shipped, prompts, seed=0)
    valid = [judge_text(prompt, story).valid for prompt, story in zip(prompts, stories, strict=True)]
    assert sum(valid) / 32 >= 0.9
    assert len(set(stories)) == 32
    assert stories[:4] == sample_stories(*shipped, prompts, seed=0)[:4]


def test_the_model_reads_the_prompt(shipped: Loaded) -> None:
    """The right subject and place are far likelier than those of another prompt."""
    model, tokenizer = shipped
    gaps = []
    prompts = prompts_of("heldout")
    for prompt, other in zip(prompts[:8], prompts[100:108], strict=True):
        start = tokenizer(chat_text(tokenizer, prompt.text), return_tensors="pt")["input_ids"]
        losses = []
        for told in (prompt, other):
            story = f"It is a sunny day {told.place}, and the {told.subject} wakes up."
            ids = tokenizer(chat_text(tokenizer, prompt.text) + story, return_tensors="pt")["input_ids"]
            labels = ids.clone()
            labels[:, : start.shape[1]] = -100
            losses.append(model(input_ids=ids, labels=labels).loss.item())
        gaps.append(losses[1] - losses[0])
    assert min(gaps) > 0.3


def read(path: Path) -> list[StoryPair]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("path", "split", "least"), [(PAIRS_FILE, "train", 330), (PAIRS_HELDOUT_FILE, "heldout", 64)]
)
def test_shipped_pairs_hold_what_they_state(path: Path, split: str, least: int) -> None:
    pairs = read(path)
    assert len({pair["id"] for pair in pairs}) == len(pairs) >= least
    words = {"chosen": 0, "rejected": 0}
    for pair in pairs:
        (message,) = pair["prompt"]
        assert message["role"] == "user" and parse_prompt(message["content"]).split == split
        chosen, rejected = pair["chosen"][0]["content"], pair["rejected"][0]["content"]
        better, worse = judge_text(message["content"], chosen), judge_text(message["content"], rejected)
        assert better.valid and worse.valid
        assert (pair["chosen_score"], pair["rejected_score"]) == (better.score, worse.score)
        assert better.tone - worse.tone >= 2
        words["chosen"] += len(chosen.split())
        words["rejected"] += len(rejected.split())
    assert abs(words["chosen"] - words["rejected"]) < 0.02 * words["chosen"]


def test_pairs_are_samples_of_the_shipped_model_not_of_the_writer(shipped: Loaded) -> None:
    """A rejected story is about as likely under the model as a fresh story of the grammar."""
    model, tokenizer = shipped
    losses: dict[str, list[float]] = {"pair": [], "writer": []}
    for pair in read(PAIRS_FILE)[:16]:
        prompt = pair["prompt"][0]["content"]
        fresh = write_story(parse_prompt(prompt), random.Random(prompt))
        for name, story in (("pair", pair["rejected"][0]["content"]), ("writer", fresh)):
            ids = tokenizer(chat_text(tokenizer, prompt, story), return_tensors="pt")["input_ids"]
            losses[name].append(model(input_ids=ids, labels=ids).loss.item())
    assert sum(losses["pair"]) <= 1.2 * sum(losses["writer"])

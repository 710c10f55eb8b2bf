"""On-policy preference pairs of stories: for one prompt, the warmest sample against the gloomiest.

Only valid stories enter a pair, so the two sides differ in tone and not in grammar, length or facts.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from mmalign.shapes.judge_text import judge_text
from mmalign.shapes.stories import heldout_prompts, training_prompts
from mmalign.shapes.tiny_llama import sample_stories

PAIRS_FILE = Path(__file__).parent / "data" / "story_pairs.jsonl"
PAIRS_HELDOUT_FILE = Path(__file__).parent / "data" / "story_pairs_heldout.jsonl"

NUM_PROMPTS = 400
NUM_HELDOUT_PAIRS = 64
SAMPLES_PER_PROMPT = 4
SMALLEST_GAP = 2


class Message(TypedDict):
    """One chat turn."""

    role: str
    content: str


class StoryPair(TypedDict):
    """One line of a pair file: a prompt, a preferred and a rejected answer, and their tone scores."""

    id: str
    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    chosen_score: float
    rejected_score: float


def best_and_worst(prompt: str, stories: list[str]) -> tuple[str, str] | None:
    """Pick the warmest and the gloomiest valid story, or None if their tones are less than 2 apart.

    Between stories of equal tone, the two sides closest in words are taken.
    """
    judged = [(story, judge_text(prompt, story)) for story in stories]
    tones = {story: verdict.tone for story, verdict in judged if verdict.valid}
    if not tones or max(tones.values()) - min(tones.values()) < SMALLEST_GAP:
        return None
    best = [story for story, tone in tones.items() if tone == max(tones.values())]
    worst = [story for story, tone in tones.items() if tone == min(tones.values())]
    pairs = [(chosen, rejected) for chosen in best for rejected in worst]
    return min(pairs, key=lambda pair: abs(len(pair[0].split()) - len(pair[1].split())))


def sample_pairs(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[str], name: str, seed: int
) -> Iterator[StoryPair]:
    """Sample 4 stories per prompt at temperature 1 and yield a pair for each prompt that offers one."""
    repeated = [prompt for prompt in prompts for _ in range(SAMPLES_PER_PROMPT)]
    stories = sample_stories(model, tokenizer, repeated, seed)
    for index, prompt in enumerate(prompts):
        start = index * SAMPLES_PER_PROMPT
        picked = best_and_worst(prompt, stories[start : start + SAMPLES_PER_PROMPT])
        if picked is None:
            continue
        chosen, rejected = picked
        yield {
            "id": f"{name}-{index:04d}",
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
            "chosen_score": judge_text(prompt, chosen).score,
            "rejected_score": judge_text(prompt, rejected).score,
        }


def write_pair_files(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, train: Path, heldout: Path, seed: int
) -> str:
    """Write the pairs of 400 training prompts and 64 pairs of held-out prompts; returns a summary line."""
    summary = []
    jobs = (
        (train, training_prompts(NUM_PROMPTS, seed), "story", NUM_PROMPTS),
        (heldout, heldout_prompts(NUM_HELDOUT_PAIRS + 32, seed), "story-heldout", NUM_HELDOUT_PAIRS),
    )
    for path, prompts, name, most in jobs:
        pairs = list(sample_pairs(model, tokenizer, prompts, name, seed))[:most]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
        chosen = sum(len(pair["chosen"][0]["content"].split()) for pair in pairs) / len(pairs)
        rejected = sum(len(pair["rejected"][0]["content"].split()) for pair in pairs) / len(pairs)
        summary.append(f"{path.name}: {len(pairs)} pairs, {chosen:.1f} / {rejected:.1f} words")
    return "; ".join(summary)

"""Sound rows of every format, and a plain view of what a sample holds."""

from pathlib import Path
from typing import Any

from bad_inputs import write_rows

from mmalign.data._paths import File
from mmalign.data._sources import LoadedData, load
from mmalign.data.jsonl import Jsonl
from mmalign.types import Example, Part, PreferenceSample

USER = {"role": "user", "content": "Hi"}
BOT = {"role": "assistant", "content": "Hello"}

TRL: dict[str, Any] = {
    "images": ["a.png", "b.png"],
    "prompt": [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "or"}, {"type": "image"}],
        }
    ],
    "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "the first"}]}],
    "rejected": [{"role": "assistant", "content": "the second"}],
}
SHAREGPT: dict[str, Any] = {
    "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}],
    "chosen": {"from": "gpt", "value": "A cat."},
    "rejected": {"from": "gpt", "value": "A dog."},
    "images": ["a.png"],
}
MS_SWIFT: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<image>What is it?"},
        {"role": "assistant", "content": "A cat."},
    ],
    "rejected_response": "A dog.",
    "images": ["a.png"],
}
RLHF_V: dict[str, Any] = {
    "image": "a.png",
    "question": "What is it?",
    "chosen": "A cat.",
    "rejected": "A dog.",
}
LLAVA: dict[str, Any] = {
    "image": "a.png",
    "prompt": "<image>\nWhat is it?",
    "chosen": "A cat.",
    "rejected": "A dog.",
}
PICK_A_PIC: dict[str, Any] = {
    "caption": "a cat",
    "jpg_0": "a.png",
    "jpg_1": "b.png",
    "label_0": 1.0,
    "label_1": 0.0,
    "has_label": True,
}
HPDV2: dict[str, Any] = {
    "prompt": "a cat",
    "file_path": ["a.png", "b.png"],
    "human_preference": [0, 1],
}
IMAGE_REWARD: dict[str, Any] = {
    "prompt": "a cat",
    "generations": ["a.png", "b.png", "c.png"],
    "ranking": [2, 1, 2],
}
VISION_PREFER: dict[str, Any] = {
    "prompt": "a cat",
    "images": [
        {"image": "a.png", "scores": {"prompt_following": 5, "aesthetic": 1}},
        {"image": "b.png", "scores": {"prompt_following": 3, "aesthetic": 2}},
    ],
}
VIDEO_ALIGN: dict[str, Any] = {
    "prompt": "a cat",
    "path_A": "a.mp4",
    "path_B": "b.mp4",
    "VQ": "B",
    "MQ": "same",
    "TA": "B",
}
IMAGE_TEXT: dict[str, Any] = {"file_name": "a.png", "text": "a cat"}
RLAIF_V: dict[str, Any] = {
    **RLHF_V,
    "logps": "[-12.0, -2.0, [-5, -7], -16.0, -4.0, [-8, -8]]",
}
RE_ALIGN: dict[str, Any] = {
    "image": "a.png",
    "retrieved_image": "b.png",
    "chosen": [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "A cat."},
    ],
    "rejected": [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "A dog."},
    ],
}
MDPO: dict[str, Any] = {
    "img_path": "a.png",
    "prompt": "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful answers. USER: <image>\nWhat is it? ASSISTANT:",
    "chosen": "A cat.",
    "rejected": "A dog.",
}
HA_DPO: dict[str, Any] = {
    "image_id": 7,
    "question": "Is there a cat?",
    "chosen": "Yes, there is.",
    "reject": "No, there is none.",
    "answer": "yes",
    "correct": False,
}
VLFEEDBACK: dict[str, Any] = {
    "prompt": "What is it?",
    "img_path": "a.png",
    "completions": {
        "annotations": [
            {"Helpfulness": {"Rating": "2", "Rationale": "vague"}, "Ethical": {"Rating": "5"}},
            {"Helpfulness": {"Rating": "5", "Rationale": "full"}, "Ethical": {"Rating": "4"}},
        ],
        "response": ["A dog.", "A cat."],
        "model": ["m1", "m2"],
    },
}
LLAVA_HOUND: dict[str, Any] = {
    "video": "clips/v1",
    "prompt": "What runs?\n<video>",
    "answer": "a cat",
    "chosen": "A cat.",
    "rejected": "A dog.",
}
MM_RLHF: dict[str, Any] = {
    "image": "a.png",
    "prompt": "<image>\nWhat is it?",
    "chosen": "A cat.",
    "rejected": "A dog.",
    "is_tie": False,
    "delta": 1.5,
}
ALIGN_ANYTHING: dict[str, Any] = {
    "question": "What is it?",
    "image": "a.png",
    "response_1": "A dog.",
    "response_2": "A cat.",
    "overall_response": 2,
}
SOUND = {
    "rlaif_v": RLAIF_V,
    "re_align": RE_ALIGN,
    "mdpo": MDPO,
    "ha_dpo": HA_DPO,
    "vlfeedback": VLFEEDBACK,
    "llava_hound": LLAVA_HOUND,
    "mm_rlhf": MM_RLHF,
    "align_anything": ALIGN_ANYTHING,
    "hpdv2": HPDV2,
    "image_reward": IMAGE_REWARD,
    "vision_prefer": VISION_PREFER,
    "video_align": VIDEO_ALIGN,
    "image_text": IMAGE_TEXT,
    "trl": TRL,
    "sharegpt": SHAREGPT,
    "ms_swift": MS_SWIFT,
    "rlhf_v": RLHF_V,
    "llava": LLAVA,
    "pick_a_pic": PICK_A_PIC,
    "canonical": {"prompt": "P", "chosen": "a", "rejected": "b"},
}


def read_rows(folder: Path, *rows: Any, **options: Any) -> LoadedData:
    """The rows written as JSON lines and loaded."""
    return load(Jsonl(path=str(write_rows(folder / "x.jsonl", list(rows))), **options))


def changed(row: dict[str, Any], **change: Any) -> dict[str, Any]:
    """The row with some fields set; a value of ... removes a field."""
    return {key: value for key, value in {**row, **change}.items() if value is not ...}


def prompt_of(sample: PreferenceSample, role: str) -> list[tuple[str, ...]]:
    """Every turn as its speaker and its parts: texts as they are, media as "kind:name"."""
    return [(turn.speaker, *map(_shown, turn.parts)) for turn in only(sample, role).prompt]


def answer_of(sample: PreferenceSample, role: str) -> str:
    """The response as one text, media as "kind:name"."""
    return "".join(map(_shown, only(sample, role).response))


def only(sample: PreferenceSample, role: str) -> Example:
    """The one example of a role."""
    (example,) = sample.examples[role]
    return example


def _shown(part: Part) -> str:
    if part.kind == "text":
        return str(part.data)
    name = part.data.name if isinstance(part.data, File) else f"{len(part.data)} bytes"
    return f"{part.kind}:{name}"

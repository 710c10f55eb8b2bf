"""Prompt and response -> token ids with the place where the response starts, and refusals of bad text."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmalign.types import Example, Message, Part, PreferenceSample, UserError

_LIBRARIES = ("jinja2", "tokenizers", "torch", "transformers")  # all of them are always installed


@dataclass(frozen=True)
class Tokens:
    """Ids of prompt and response together; the response, which is scored, begins at `start`."""

    ids: tuple[int, ...]
    start: int
    cut: bool = False  # the response was shortened to fit


@dataclass(frozen=True)
class Rules:
    """How text becomes ids."""

    eos_id: int | None = None  # ends every response that no chat template ends; None adds nothing
    limit: int | None = None  # longest sequence, in tokens
    over_long: Literal["refuse", "cut_response"] = "refuse"
    banned: tuple[str, ...] = ()  # strings that users must not type, see `special_tokens`


def place(sample: PreferenceSample, role: str, slot: int) -> str:
    """Where a response came from, for messages: "file.jsonl row 17: chosen"."""
    listed = len(sample.examples[role]) > 1
    return f"{sample.origin or 'sample ' + sample.id}: {role}{f'[{slot}]' if listed else ''}"


# ---------------------------------------------------------------- text that is refused


def text_of(parts: Sequence[Part], where: str, banned: Sequence[str]) -> str:
    """The text of a message or response. Raises UserError for media and for text no tokenizer should see."""
    for part in parts:
        if part.kind != "text" or not isinstance(part.data, str):
            raise UserError(f"{where}: holds a part of kind {part.kind}, but this model reads text only")
    text = "".join(part.data for part in parts)
    refuse_text(text, where, banned)
    return text


def refuse_text(text: str, where: str, banned: Sequence[str]) -> None:
    """Raise UserError for lone surrogates and for special tokens typed as text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: character {error.start} is a lone surrogate (U+{ord(text[error.start]):04X}), "
            "which is not text; repair the file's encoding"
        ) from error
    for token in banned:
        if token in text:
            raise UserError(
                f"{where}: the text contains {token!r}, which the tokenizer would read as a control token; "
                "remove or rewrite it"
            )


def special_tokens(tokenizer: Any) -> tuple[str, ...]:
    """The strings this tokenizer turns into control tokens, sorted."""
    added = (t.content for t in tokenizer.added_tokens_decoder.values() if t.special)
    return tuple(sorted({*added, *tokenizer.all_special_tokens} - {""}))


# ---------------------------------------------------------------- text with the prompt in front


def is_plain(prompt: Sequence[Message], where: str) -> bool:
    """True if no chat template is meant. Raises UserError if plain text and chat turns are mixed."""
    speakers = {message.speaker for message in prompt}
    if "text" in speakers and len(speakers) > 1:
        raise UserError(
            f"{where}: prompt mixes plain text with the turns of a chat; use either speaker text alone or "
            "only system, user and assistant"
        )
    return speakers <= {"text"}


def prompt_text(tokenizer: Any, prompt: Sequence[Message], where: str, banned: Sequence[str]) -> str:
    """The prompt as the one string that goes to the tokenizer: plain, or rendered up to the answer."""
    where = f"{where}: prompt"
    if is_plain(prompt, where):
        text = "".join(text_of(m.parts, where, banned) for m in prompt)
        refuse_text(text, where, banned)  # a token may also arise where two parts meet
        return text
    return render(tokenizer, _turns(prompt, where, banned), where, answer=False)


def _turns(prompt: Sequence[Message], where: str, banned: Sequence[str]) -> list[dict[str, str]]:
    return [{"role": m.speaker, "content": text_of(m.parts, where, banned)} for m in prompt]


def render(tokenizer: Any, turns: Sequence[Mapping[str, Any]], where: str, answer: bool) -> str:
    """Chat turns as text, by the template of a tokenizer or processor; up to the answer, or with it."""
    from jinja2.exceptions import TemplateError

    if tokenizer.chat_template is None:
        raise UserError(
            f"{where}: has chat turns, but the tokenizer has no chat template; give the prompt as plain text "
            "or use a model with a template"
        )
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=not answer)
    except (TemplateError, ValueError, TypeError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{where}: the chat template refuses these turns: {reason}") from error
    assert isinstance(text, str)
    return text


def answered_text(
    tokenizer: Any, example: Example, prompt: str, where: str, banned: Sequence[str]
) -> tuple[str, bool]:
    """Prompt and response as one string, and whether an end token is still to be added.

    In a chat the text that ends the assistant's turn belongs to the response, white space after it does not:
    generation stops before it.
    """
    answer = text_of(example.response, where, banned)
    if not answer.strip():
        raise UserError(f"{where}: the response is empty; remove the row or fill it")
    if is_plain(example.prompt, where):
        refuse_text(prompt + answer, where, banned)
        return prompt + answer, True
    turns = [*_turns(example.prompt, where, banned), {"role": "assistant", "content": answer}]
    return split_ending(render(tokenizer, turns, where, answer=True), prompt, answer, where)


def split_ending(full: str, prompt: str, answer: str, where: str) -> tuple[str, bool]:
    """An answered chat without the white space behind it, and whether an end token is still to be added.

    Raises UserError if the answered chat does not begin with the prompt.
    """
    full = _from_prompt(full, prompt, answer.strip(), where)
    ending = _ending(full[len(prompt) :], answer.strip(), where)
    if ending.strip():
        return full.rstrip(), False
    return full[: len(full) - len(ending)], True


def begun_text(full: str, prompt: str, begun: str, where: str) -> str:
    """Prompt and beginning of its answer as one string, out of the chat `full` that the beginning answers.

    What a template puts before an answer is kept, what it puts behind is not. Raises UserError if the
    answered chat does not begin with the prompt.
    """
    full = _from_prompt(full, prompt, begun.strip(), where)
    ending = _ending(full[len(prompt) :], begun.strip(), where)
    return full[: len(full) - len(ending)] + begun[len(begun.rstrip()) :]


def _from_prompt(full: str, prompt: str, answer: str, where: str) -> str:
    """The answered chat from its prompt on. Where only white space in front of the answer differs (LLaVA-
    OneVision's template), it is the prompt's, which is what an answer is sampled behind."""
    if full.startswith(prompt):
        return full
    begin = prompt.rstrip()
    behind = full[len(begin) :].lstrip()
    if full.startswith(begin) and behind.startswith(answer):
        return prompt + behind
    raise UserError(
        f"{where}: the chat template renders the prompt differently once it is answered, so the response "
        "cannot be told from the prompt; use another template or a plain prompt"
    )


def _ending(completion: str, answer: str, where: str) -> str:
    """What a chat template puts after the answer; some put something before it too."""
    body = completion.lstrip()
    if body.startswith(answer):
        return body[len(answer) :]
    found = completion.rfind(answer)
    if found < 0:
        raise UserError(f"{where}: the chat template changed the response instead of passing it on")
    return completion[found + len(answer) :]


# ---------------------------------------------------------------- ids


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading ids two sequences share."""
    for position, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return position
    return min(len(first), len(second))


def encode_text(tokenizer: Any, text: str, plain: bool) -> list[int]:
    """Ids of a text; plain text gets the tokenizer's own start token, a rendered chat brings its own."""
    return list(tokenizer(text, add_special_tokens=plain, return_attention_mask=False)["input_ids"])


def tokenize_sample(
    tokenizer: Any, sample: PreferenceSample, roles: Sequence[str], rules: Rules
) -> dict[tuple[str, int], Tokens]:
    """Tokens of every response of the given roles, keyed by (role, slot).

    Prompt and response are tokenised as one string. The prompt is what its own ids share with those of all
    responses given to it, so that every response to one prompt is scored from the same place.
    Raises UserError naming the row and the role.
    """
    prompts: dict[tuple[str, int], str] = {}
    joined: dict[tuple[str, int], list[int]] = {}
    own: dict[str, list[int]] = {}
    shared: dict[str, int] = {}
    for role, examples in sample.examples.items():
        for slot, example in enumerate(examples):
            try:
                prompt, head, ids = _join(tokenizer, example, place(sample, role, slot), rules, own)
            except UserError:
                if role in roles:
                    raise
                continue  # a response that nobody scores is not judged
            shared[prompt] = min(shared.get(prompt, len(head)), common_prefix(head, ids))
            prompts[role, slot], joined[role, slot] = prompt, ids
    wanted = [(role, slot) for role in roles for slot in range(len(sample.examples.get(role, ())))]
    return {key: fit(joined[key], shared[prompts[key]], rules, place(sample, *key)) for key in wanted}


def _join(
    tokenizer: Any,
    example: Example,
    where: str,
    rules: Rules,
    own: dict[str, list[int]],
) -> tuple[str, list[int], list[int]]:
    """A prompt's text, its ids, and the ids of prompt and response together; `own` remembers prompt ids."""
    plain = is_plain(example.prompt, where)
    prompt = prompt_text(tokenizer, example.prompt, where, rules.banned)
    if prompt not in own:
        own[prompt] = encode_text(tokenizer, prompt, plain)
    full, open_ended = answered_text(tokenizer, example, prompt, where, rules.banned)
    ids = encode_text(tokenizer, full, plain)
    if open_ended and rules.eos_id is not None and ids[-1:] != [rules.eos_id]:
        ids.append(rules.eos_id)
    return prompt, own[prompt], ids


def fit(ids: list[int], start: int, rules: Rules, where: str) -> Tokens:
    """Ids within the limit; raises UserError for a response without a place or without a token."""
    if start == 0:
        raise UserError(
            f"{where}: the response begins at the first token, which nothing predicts; give a prompt (or one "
            "that ends where a token ends)"
        )
    if len(ids) == start:
        raise UserError(f"{where}: the response has no token of its own")
    limit = rules.limit
    if limit is None or len(ids) <= limit:
        return Tokens(tuple(ids), start)
    if start >= limit:
        raise UserError(
            f"{where}: the prompt has {start} tokens, so that none of the {limit} allowed is left for the "
            "response; shorten the prompt or raise model.max_length"
        )
    if rules.over_long == "refuse":
        raise UserError(
            f"{where}: prompt and response have {len(ids)} tokens, more than the {limit} allowed; shorten "
            "them, raise model.max_length, or set model.over_long: cut_response"
        )
    return Tokens(tuple(ids[:limit]), start, cut=True)


def tokenize_prompt(tokenizer: Any, prompt: Sequence[Message], where: str, rules: Rules) -> list[int]:
    """Ids of a prompt that is to be answered. Raises UserError if it has none."""
    text = prompt_text(tokenizer, prompt, where, rules.banned)
    ids = encode_text(tokenizer, text, is_plain(prompt, where))
    if not ids:
        raise UserError(f"{where}: prompt: has no token; give a prompt")
    return ids


def tokenize_begun(
    tokenizer: Any, prompt: Sequence[Message], begun: str, where: str, rules: Rules
) -> list[int]:
    """Ids of a prompt and the beginning of its answer. Raises UserError as for prompt and response."""
    refuse_text(begun, where, rules.banned)
    plain = is_plain(prompt, where)
    text = prompt_text(tokenizer, prompt, where, rules.banned)
    if plain or not begun.strip():
        text += begun
        if plain:
            refuse_text(text, where, rules.banned)  # a token may also arise where the two meet
    else:
        turns = [*_turns(prompt, where, rules.banned), {"role": "assistant", "content": begun}]
        text = begun_text(render(tokenizer, turns, where, answer=True), text, begun, where)
    ids = encode_text(tokenizer, text, plain)
    if not ids:
        raise UserError(f"{where}: prompt: has no token; give a prompt")
    return ids


def refuse_wide_tokenizer(vocabulary: Mapping[str, int], rows: int, where: str) -> None:
    """Raise UserError if the tokenizer can give an id that the embedding has no row for."""
    largest = max(vocabulary.values())
    if largest >= rows:
        token = next(t for t, i in vocabulary.items() if i == largest)
        raise UserError(
            f"{where}: the tokenizer's token {token!r} has id {largest}, but the model's embedding has only "
            f"{rows} rows; this tokenizer does not belong to this model"
        )


def fingerprint(tokenizer: Any, rules: Rules, *more: str) -> str:
    """Hash of a tokenizer's files, of the rules and of the libraries that read a row: equal hashes turn every
    row into equal ids. `more`: further libraries that have a part in it."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    settings = [rules.eos_id, rules.limit, rules.over_long]
    versions = [f"{name}-{importlib.metadata.version(name)}" for name in (*_LIBRARIES, *more)]
    digest.update(json.dumps([*settings, *versions]).encode())
    return digest.hexdigest()

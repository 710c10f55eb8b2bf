"""Which of some given choices a written answer means. What is not clear is not read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmalign.metrics._thoughts import without_thoughts

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LEADS = (
    "the best answer is", "the correct answer is", "the answer is", "the answer", "the best option is",
    "the correct option is", "best answer:", "best option:", "answer:", "option",
)  # fmt: skip
_MORE_LEADS = (*_LEADS, "answer is", "choice", "i think it is", "i think it's", "it is", "it's")
_MARKED = re.compile(r"<answer>(.*?)</answer>|\\boxed\{(?:\\\w+\{)?([^{}]*)\}", re.IGNORECASE | re.DOTALL)
_ECHO = re.compile(r"\W*([A-Z])[.):]\)?\s+\S")
_FIRST = re.compile(
    r"[(\[]\s*(?P<bracketed>[A-Za-z])\s*[)\]]|(?P<small>[a-z])(?:[.):](?=\s|$)|\s*$)"
    r"|\(?(?P<bare>[A-Z])(?![\w'\u2019+#-]|\.\w|\s*\?)\)?"
)
_NO_ARTICLE = re.compile(  # what can follow the letter A, and not the article before a noun
    r"\s*$|\s*[.):,;!\]]|[^\S\n]*\n|\s+[-\u2013\u2014:=>]+\s"
    r"|\s+(?:because|since|as|is|was|are|would|seems|looks|fits|matches)(?![-\w])|\s+(?:or|and|nor)\s"
)
_STATED = re.compile(
    r"(?i:\b(?:answer|option|choice)(?:\s+(?:here|then|therefore))?\s*(?:is|would be|should be|must be|:|=)"
    r"|\b(?:best|correct|right|closest)(?:\s+matching)?\s+(?:match|caption|description|sentence|statement|one"
    r"|letter)\s*(?:is|would be|:)"
    r"|\bi(?:\s+would|'d)?\s+(?:choose|pick|select|say|go with)|\b(?:it is|it's|it must be))"
    r"(?i::?\s*(?:most likely |probably |clearly |option |choice |letter )*)"
    r"(?:[(\[](?P<bracketed>[A-Za-z])[)\]]|[\"'\u2018\u201c](?P<quoted>[A-Za-z])(?:[\"'\u2019\u201d]|\W*$)"
    r"|(?P<small>[b-z]|(?<=[:=] )a|(?<=(?:nswer|ption|hoice) is )a)(?=[.):]*[^\S\n]*(?:\n|$))"
    r"|(?P<bare>[A-Z])(?![\w'\u2019+#-]|\.\w))"
)
_RIGHT = re.compile(
    r"(?<![\w'\u2019-])(?:[(\[](?P<bracketed>[A-Za-z])[)\]]|(?P<bare>[A-Z]))"
    r"\s+(?i:is|seems|would be|must be)\s+"
    r"(?i:(?:the|most|likely|clearly|therefore|thus|indeed|probably|obviously|definitely)\s+)*"
    r"(?i:correct|right|true|best|accurate)(?=[^\w?]*$|\s*[.,;:!)\n]|\s+(?i:because|since|as|here|while|but|and|answer"
    r"|option|choice|one|match|caption|description|sentence|statement)\b)"
)
_BESIDE = re.compile(
    r"(?:\b(?:or|and|nor|neither|in|of|from)|[/&])\s*(?:(?:option|choice|caption)\s+)?$", re.IGNORECASE
)
_UNSURE = re.compile(r"\b(?:whether|if|unless|unsure|sure|maybe|perhaps|might|may)\b", re.IGNORECASE)
_ALONE = re.compile(
    r"(?:(?i:option|choice|answer)\s*:?\s*)?[(\[\"'\u2018\u201c]?([A-Za-z])[)\]\"'\u2019\u201d]?[.):]*\s*"
)
_NEAR = 300  # letters of an answer before a choice that tell what is said of it
_BRACKETED = re.compile(r"(?<!\w)[(\[]([A-Za-z])[)\]]")
_DENIED = re.compile(  # behind a choice: it is not the one
    r"\s*(?:(?:is|was|are|seems|looks|would be|could be|can be)\s+(?:\w+\s+){0,2}?"
    r"(?:not|wrong|incorrect|false|excluded|impossible|unlikely|out)\b"
    r"|\w+n['\u2019]t\b|cannot\b|(?:does|did|do|can|could|would|should)\s+not\b)",
    re.IGNORECASE,
)
NEGATED = re.compile(
    r"\b(?:not|no|never|nor|neither|cannot|except|unlike|without|wrong|incorrect|false|rather than|instead of"
    r"|excluded?|eliminated?|ruled? out)\b|n['\u2019]t\b",
    re.IGNORECASE,
)
CLAUSE = re.compile(r"[.,;:\n]|\b(?:but|so|then|therefore|thus|hence|because|since)\b", re.IGNORECASE)
_SPACES = re.compile(r"[\s.,;:!?\"'()]+")


def plain(text: str) -> str:
    """A short answer without case, punctuation and spaces at its ends."""
    return _SPACES.sub(" ", text).strip().lower()


def bare(option: str) -> str:
    """An option without a letter in front of it."""
    return re.sub(r"^\(?[A-Z][.):]\)?\s*", "", option.strip())


def without_lead(answer: str, leads: Sequence[str] = _LEADS) -> str:
    """An answer without a phrase such as "The best answer is" in front."""
    text = answer.strip()
    for lead in leads:
        if text.lower().startswith(lead):
            text = text[len(lead) :].lstrip(" :")
    return text


def unmarked(answer: str) -> list[str]:
    """What an answer sets apart as its result, <answer>B</answer> or \\boxed{B}, or else all of it; without
    what was thought before it, and without asterisks and the like that make it bold."""
    answer = without_thoughts(answer)
    found = [first or second for first, second in _MARKED.findall(answer)] or [answer]
    return [re.sub(r"\*\*|__|`", "", one).strip(" \t\n*$#\"'\u201c\u201d") for one in found]


def chosen(answer: str, options: Sequence[str]) -> str | None:
    """The letter that an answer chooses, None where that cannot be told: one that stands first, with a mark
    after it, alone, or before other words (A where these begin no noun of which it is the article), that the
    answer is said to be, that is said to be right, or that is the last line; else the only one in brackets;
    else that of the one option whose words are all of the answer, or all of its beginning. Letters that
    contradict each other, or of which a choice is said not to be the one, are not read, nor are options that
    are only repeated."""
    found = {_letter(one, options) for one in unmarked(answer)}
    return found.pop() if len(found) == 1 else None


def _letter(answer: str, options: Sequence[str]) -> str | None:
    text, letters = _without_echo(answer, options), LETTERS[: len(options)]
    short = without_lead(text, _MORE_LEADS).lstrip("\"'\u201c ")
    said = {*_first(short, letters), *_stated(text, letters), *_right(text, letters), *_last(text, options)}
    said = said or _bracketed(text, letters)
    if said:
        return said.pop() if len(said) == 1 and "" not in said else None
    return _in_words(short, options)


def _without_echo(text: str, options: Sequence[str]) -> str:
    """Without the lines that repeat the options, where there are several."""
    lines = text.splitlines()
    repeated = []
    for line in lines:
        found = _ECHO.match(line)
        place = LETTERS.index(found[1]) if found else len(options)
        repeated.append(place < len(options) and plain(bare(line)) == plain(bare(options[place])))
    left = [line for line, again in zip(lines, repeated, strict=True) if not again]
    return "\n".join(left).strip() if sum(repeated) > 1 else text


def _first(text: str, letters: str) -> set[str]:
    """The letter that a text begins with; "" where several stand there; nothing where it is denied or may be
    an article."""
    found = _FIRST.match(text)
    if found is None:
        return set()
    letter, rest = (found["bracketed"] or found["small"] or found["bare"]).upper(), text[found.end() :]
    if letter not in letters or _DENIED.match(rest):
        return set()
    if found["bare"] and letter in "AI" and not found[0].endswith(")") and not _NO_ARTICLE.match(rest):
        return set()
    return {"" if _listed(rest, letters) else letter}


def _listed(rest: str, letters: str) -> bool:
    """Whether what follows a letter puts another one beside it: " or C", ", (C) and D", "/C"."""
    other = rf"(?:option\s+|choice\s+)?[(\[]?[{letters}](?![\w'\u2019-])"
    beside = rf"\s*(?:/|&|\+|\bor\b|\band\b|\bnor\b)\s*{other}|\s*,\s*{other}[)\]]?\s*(?:[.,;/]|$|and\b|or\b)"
    return re.match(beside, rest) is not None


def _stated(text: str, letters: str) -> set[str]:
    """Every letter that the answer is said to be; "" for one that is put in doubt."""
    said = set()
    for found in _STATED.finditer(text):
        letter, rest = next(filter(None, found.groups())).upper(), text[found.end() :]
        if letter not in letters or (found["bare"] == "A" and not _NO_ARTICLE.match(rest)):
            continue
        doubted = NEGATED.search(_clause(text, found.start())) or _DENIED.match(rest)
        said.add("" if doubted or _listed(rest, letters) else letter)
    return said


def _clause(text: str, place: int) -> str:
    """What a clause says before a place."""
    return CLAUSE.split(text[max(0, place - _NEAR) : place])[-1]


def _right(text: str, letters: str) -> set[str]:
    """Every letter that is said to be right, without doubt and not beside another one."""
    said = set()
    for found in _RIGHT.finditer(text):
        letter, clause = (found["bracketed"] or found["bare"]).upper(), _clause(text, found.start())
        doubted = NEGATED.search(clause) or _BESIDE.search(clause) or _UNSURE.search(clause)
        said |= {letter} & set("" if doubted else letters)
    return said


def _last(text: str, options: Sequence[str]) -> set[str]:
    """The letter that is the last line, alone or with its option; "" where other lines are other letters, or
    where the line before leads to what is wrong."""
    lines = [line.strip(" \t-*>#\u2022") for line in text.splitlines()]
    lines = [line for line in lines if line]
    if not lines or not (letter := _alone(lines[-1], options)):
        return set()
    if {letter} != {_alone(line, options) for line in lines} - {""}:
        return {""}
    wrong = len(lines) > 1 and lines[-2].endswith(":") and NEGATED.search(lines[-2])
    return {"" if wrong else letter}


def _alone(line: str, options: Sequence[str]) -> str:
    """The letter that a line is, alone or before its option; "" for any other line."""
    found = _ALONE.fullmatch(line) or _ECHO.match(line)
    letter = found[1].upper() if found else ""
    if letter not in LETTERS[: len(options)] or found is None:
        return ""
    whole = found.end() == len(line) or plain(bare(line)) == plain(bare(options[LETTERS.index(letter)]))
    return letter if whole else ""


def _bracketed(text: str, letters: str) -> set[str]:
    """Every letter in brackets; "" for one in a clause with a negation."""
    said = set()
    for found in _BRACKETED.finditer(text):
        if (letter := found[1].upper()) in letters:
            beside = CLAUSE.split(text[: found.start()])[-1] + " " + CLAUSE.split(text[found.end() :])[0]
            said.add("" if NEGATED.search(beside) else letter)
    return said


def _in_words(text: str, options: Sequence[str]) -> str | None:
    """The letter of the one option that is the text, or else its beginning with no other one behind it."""
    said, words = plain(text), [plain(bare(option)) for option in options]
    same = [place for place, option in enumerate(words) if option == said]
    if not same and options and said == f"a {words[0]}":
        same = [0]
    if not same:
        same = [place for place, option in enumerate(words) if option and f"{said} ".startswith(option + " ")]
        rest = said[len(words[same[0]]) :] if len(same) == 1 else ""
        if _DENIED.match(rest) or any(option and f" {option} " in f"{rest} " for option in words):
            return None
    return LETTERS[same[0]] if len(same) == 1 else None

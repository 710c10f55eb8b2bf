"""Roles made in memory from other roles, by name; applied to decoded samples in the loader."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Generator

from mmalign.clips import Clip
from mmalign.data import _views_media as pictures
from mmalign.data._digest import digest
from mmalign.data._views_media import Examples, media
from mmalign.types import Example, PreferenceSample, UserError, View

SEEN = frozenset({"image", "video"})
_Shown = tuple[tuple[tuple[str, str], ...], ...]  # for every example its media: kind and digest


class Make(Protocol):
    """A role's examples, a partner's (its own without one) and the sample's random numbers -> the view."""

    def __call__(self, examples: Examples, partner: Examples, generator: Generator) -> Examples: ...


@dataclass(frozen=True)
class Pairing:
    """Which other sample may be a partner: one that shares `kind`, and whose `content` makes another
    view than the sample's own, as `differs` says of the two.

    `strict`: without such a sample the view cannot be made; otherwise any other sample will do. `kind` and
    `content` see examples as their source gave them, media not decoded.
    """

    kind: Callable[[Examples], object]
    content: Callable[[Examples], object]
    strict: bool
    differs: Callable[[Any, Any], bool] = operator.ne


@dataclass(frozen=True)
class Change:
    """How one kind of view is made.

    `lacks` says what examples are missing for it, in words that end "the prompt ...", or None. `media`: the
    kinds of which an adapter must read one for the view to differ from its origin; empty: the change is not
    about media. `random`: it uses its generator.
    """

    make: Make
    lacks: Callable[[Examples], str | None] = lambda examples: None
    pairing: Pairing | None = None
    media: frozenset[str] = frozenset()
    random: bool = False

    @property
    def varies(self) -> bool:
        """Whether another epoch's view of the same sample is another one."""
        return self.random or self.pairing is not None


# ---------------------------------------------------------------- what examples must have, and their partners


def _no_media(examples: Examples) -> str | None:
    return None if all(any(media((one,))) for one in examples) else "holds no picture or video"


def _no_frames(examples: Examples) -> str | None:
    for example in examples:
        clips = [part for part in media((example,)) if part.kind == "video"]
        if not clips:
            return "holds no video"
        if any(isinstance(clip.data, Clip) and len(clip.data.frames) < 2 for clip in clips):
            return "holds a clip of one frame, which has no order"
    return None


def _no_text_beside_media(examples: Examples) -> str | None:
    if missing := _no_media(examples):
        return missing
    for example in examples:
        texts = [part.data for turn in example.prompt for part in turn.parts if part.kind == "text"]
        if not "".join(texts).strip():
            return "holds nothing but media"
    return None


def _shows_none(own: _Shown, other: _Shown) -> bool:
    """Whether no medium of the one is among those of the other."""
    return {medium for example in own for medium in example}.isdisjoint(m for one in other for m in one)


def _shows_others(own: _Shown, other: _Shown) -> bool:
    """Whether `with_media_of` changes every example: a partner with more pictures may begin with the same."""
    given = [medium for example in other for medium in example]

    def same(example: tuple[tuple[str, str], ...]) -> bool:
        lists = {kind: itertools.cycle([m for m in given if m[0] == kind]) for kind in SEEN}
        return all(next(lists[kind]) == (kind, name) for kind, name in example)

    return not any(same(example) for example in own)


_OTHER_PROMPT = Pairing(
    kind=lambda examples: None, content=lambda examples: digest([e.prompt for e in examples]), strict=False
)
_OTHER_MEDIA = Pairing(
    kind=lambda examples: frozenset(part.kind for part in media(examples)),
    content=lambda examples: tuple(tuple((p.kind, digest(p)) for p in media((one,))) for one in examples),
    strict=True,
    differs=_shows_others,
)
_NO_SHARED_MEDIA = replace(_OTHER_MEDIA, differs=_shows_none)


# ---------------------------------------------------------------- the changes


def other_response(examples: Examples, partner: Examples, generator: Generator) -> Examples:
    """The sample's own condition with a response that was written for another one (KTO, arXiv 2402.01306:
    the mismatched pairs that estimate its KL term)."""
    return tuple(Example(example.prompt, partner[0].response) for example in examples)


def other_image(examples: Examples, partner: Examples, generator: Generator) -> Examples:
    """Another sample's pictures and clips under the sample's own words and response. Files of different names
    count as different pictures."""
    return pictures.with_media_of(examples, partner)


def mean_image(examples: Examples, partner: Examples, generator: Generator) -> Examples:
    """The mean of the partners' pictures, an example of each partner, in the place of every picture."""
    return pictures.with_mean_of(examples, partner)


def no_image(examples: Examples, partner: Examples, generator: Generator) -> Examples:
    """The prompt's text alone."""
    return pictures.without_media(examples)


def _pixels(change: pictures.Pixels) -> Make:
    return lambda examples, partner, generator: pictures.with_pixels(examples, change, generator)


def _order(order_of: Callable[[int, Generator], torch.Tensor]) -> Make:
    return lambda examples, partner, generator: pictures.with_order(examples, order_of, generator)


CHANGES: Mapping[str, Change] = {
    "other_response": Change(other_response, pairing=_OTHER_PROMPT),
    "crop": Change(_pixels(pictures.crop), _no_media, media=SEEN, random=True),
    "noise": Change(_pixels(pictures.noise), _no_media, media=SEEN, random=True),
    "black": Change(_pixels(pictures.black), _no_media, media=SEEN),
    "gray": Change(_pixels(pictures.gray), _no_media, media=SEEN),
    "other_image": Change(other_image, _no_media, _OTHER_MEDIA, media=SEEN),
    "mean_image": Change(mean_image, _no_media, _NO_SHARED_MEDIA, media=SEEN),
    "no_image": Change(no_image, _no_text_beside_media, media=SEEN),
    "reversed_frames": Change(_order(pictures.reversed_order), _no_frames, media=frozenset({"video"})),
    "shuffled_frames": Change(
        _order(pictures.shuffled_order), _no_frames, media=frozenset({"video"}), random=True
    ),
    "dropped_frames": Change(
        _order(pictures.dropped_order), _no_frames, media=frozenset({"video"}), random=True
    ),
}


def change_of(role: str, view: View) -> Change:
    """The named change, or UserError with the names there are, or for other rows that it does not take."""
    if view.change not in CHANGES:
        raise UserError(f"view {role!r}: unknown change {view.change!r}; known: {', '.join(CHANGES)}")
    change = CHANGES[view.change]
    if view.count != 1 and (view.count < 1 or change.pairing is None or not change.pairing.strict):
        raise UserError(f"view {role!r}: {view.change} cannot be made of {view.count} other rows")
    return change


def unseen(views: Mapping[str, View], media: frozenset[str]) -> str | None:
    """The kinds of media that a view changes, "image or video", where an adapter that reads `media` in
    prompts would see no difference; else None."""
    for role, view in views.items():
        wanted = change_of(role, view).media
        if wanted and not wanted & media:
            return " or ".join(sorted(wanted))
    return None


def check_views(sample: PreferenceSample, views: Mapping[str, View]) -> None:
    """Raise UserError naming the row if a view cannot be made of a sample, whose media are decoded."""
    for role, view in views.items():
        missing = change_of(role, view).lacks(sample.examples.get(view.of, ()))
        if missing:
            raise UserError(
                f"{sample.origin}: role {role!r} is made of {view.of!r} by {view.change}, "
                f"but the prompt {missing}; leave the row out or choose another change"
            )


def no_partner(origin: str, role: str, count: int, there: int) -> str:
    """Why a row's view cannot be made without `count` other rows, where only some are `there`."""
    if count > 1:
        return (
            f"{origin}: role {role!r} is made of {count} rows of the same source that show other media "
            f"of the same kinds, no two the same, and there are {there}; add rows, or ask for fewer"
        )
    return (
        f"{origin}: role {role!r} needs a row of the same source with other media of the same kinds, and "
        "there is none"
    )


def partnerless(samples: Sequence[PreferenceSample], views: Mapping[str, View]) -> dict[int, str]:
    """Samples of one source that lack a partner for a view which cannot do without: index -> reason."""
    found: dict[int, str] = {}
    for role, view in views.items():
        pairing = change_of(role, view).pairing
        if pairing is None or not pairing.strict:
            continue
        keys = []
        contents: dict[object, dict[object, None]] = {}  # by kind, each once: nearly always the first will do
        for sample in samples:
            examples = sample.examples.get(view.of, ())
            keys.append((pairing.kind(examples), pairing.content(examples)))
            contents.setdefault(keys[-1][0], {})[keys[-1][1]] = None
        for index, (kind, content) in enumerate(keys):
            fitting = (other for other in contents[kind] if pairing.differs(content, other))
            there = len(list(itertools.islice(fitting, view.count)))
            if there < view.count:
                found.setdefault(index, no_partner(samples[index].origin, role, view.count, there))
    return found


def add_views(
    sample: PreferenceSample,
    partners: Mapping[str, PreferenceSample],
    views: Mapping[str, View],
    seeds: Mapping[str, int],
) -> PreferenceSample:
    """The sample with every view as a further role; media are decoded.

    `partners` and `seeds` go by the view's role; a partner is given iff the change has a pairing. Several
    partners come as one sample that has an example of each.
    """
    for role, view in views.items():
        for source in (sample, partners.get(role, sample)):
            if view.of not in source.examples:
                raise UserError(f"{source.origin}: view {role!r} needs the role {view.of!r}")
        partner = partners.get(role, sample).examples[view.of]
        generator = Generator().manual_seed(seeds[role])
        made = change_of(role, view).make(sample.examples[view.of], partner, generator)
        sample = replace(sample, examples={**sample.examples, role: made})
    return sample

"""MIA-DPO: questions about one picture among several, wrong where attention drifts (arXiv 2410.17637)."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from mmalign.builders import _collages, _drift
from mmalign.builders._candidates import Asked
from mmalign.builders._collages import GRIDS, Layout
from mmalign.builders._drift import Limits
from mmalign.builders._whole_rows import NewRow, Pool, Remade, RowBuilder, Tools
from mmalign.types import Adapter, Attended, Attentive, Message, Part, UserError, derive_seed

MEDIA = "rows without exactly one picture in the first question"
BOXES = "rows whose text holds bounding boxes"
LONG = "rows whose answer is too long"
LONELY = "rows for which too few other pictures could be read"
EMPTY = "answers without any text"
EQUAL = "answers equal to the row's own"
SHORT = "answers of one step, which has no attention to count"
LOOKED = "answers that looked at the right picture"
SURE = "answers that the model was too sure of"
UNEVEN = "answers of a far other length than the row's own"
ALIKE = "answers too much like the row's own"
ADMITTED = "answers that say that the picture is not there"
FREQUENT = "pairs whose closed answer is chosen more often than another"

_NO = r"there (is|are) (no|only)|no (such )?image|only \w+ (images|pictures)|cannot|can't"
_ABSENT = re.compile(rf"\b({_NO}|(does|do|is|are|was|were)(n't| not))\b", re.IGNORECASE)


@dataclass(frozen=True)
class _Drawn:
    """What was drawn for a row: pictures in their order, the place of its own, and of the one asked about
    (None: one that is not there)."""

    layout: Layout
    pictures: Sequence[Any]
    place: int
    target: int | None
    lead: str
    noise: int


@dataclass(frozen=True)
class _Question:
    """A question among several pictures: as it is trained on, and as it is asked for the rejected answer."""

    layout: Layout
    count: int
    target: int | None  # counting from 0; None: a picture that is not there
    kept: tuple[Message, ...]
    asked: tuple[Message, ...]
    chosen: str


@dataclass(frozen=True)
class MiaDpo(RowBuilder):
    """Each row with one picture becomes one question among several: its layout, the number of pictures and
    the target's place are drawn for it. The row's answer is chosen; rejected is the model's own greedy one,
    of `model.generation.max_new_tokens` at most, where little of its attention at `layer` (a layer's number
    from 0, or a share of the depth) was on the target: at most so much in a sequence, less in the others.

    In a collage the model sees the target's cell under noise of deviation `cell_noise`, in pic_in_pic the
    whole picture under `picture_noise`; rows hold clean pictures. Then an answer must have a perplexity above
    `min_perplexity` and differ from the row's, whose length is below `max_chosen` characters. `len_ratio`
    (rejected to chosen, in characters), `min_edit_distance_norm`, `square` (composed pictures on a white
    square, so that no processor crops a cell away) and all of `negative` are this project's own: that share
    of the questions in numbered layouts is about the picture after the last, `negative_answer` is chosen and
    an answer that does not notice is rejected, whatever it looked at.

    `balance` is too: of the pairs whose chosen answer begins with one of these words, such as yes and no, as
    many of each word stay as of the rarest, so that no training learns to say the commonest. It is done at
    the end, over the whole build, and those with the lowest hashes of their ids stay.
    Closed answers leave pairs only where the model is wrong, so that training may turn right ones, too.
    """

    # what is drawn from: numbered pictures, cells of one picture, a picture inside another
    layouts: tuple[Layout, ...] = ("sequence", "collage", "pic_in_pic")
    # bounds of numbered pictures
    sequence: Limits = field(default_factory=lambda: Limits((2, 3, 4, 5), (0.8, 0.7, 0.6, 0.6)))
    # bounds of collages, by their number of cells
    collage: Limits = field(default_factory=lambda: Limits((2, 3, 4, 6, 9), (0.7, 0.6, 0.5, 0.4, 0.3)))
    pic_in_pic: float = 0.8  # share of attention on the target below which an answer is kept, in pic_in_pic
    layer: int | float = 0.5  # whose attention counts: its number from 0, or a share of the depth below 1
    cell: int = 448  # pixels of a collage's cell
    square: bool = True  # put composed pictures on a white square, so that no processor crops a cell away
    # deviation of the noise on a collage's target when the model answers, in 8-bit steps
    cell_noise: float = 225.0
    picture_noise: float = 49.0  # the same of the whole picture in pic_in_pic
    min_perplexity: float = 1.1  # an answer must have more, else the model was too sure of it
    max_chosen: int = 512  # a row's answer must be shorter, in characters
    # least and greatest length of a rejected answer as a share of the chosen one's
    len_ratio: tuple[float, float] = (0.33, 3.0)
    min_edit_distance_norm: float = 0.1  # least share of characters in which both sides differ
    negative: float = 0.0  # share of questions in numbered layouts that are about a picture that is not there
    # chosen answer to those; {asked} and {count} are filled in
    negative_answer: str = "There is no Image{asked}; only {count} images are given."
    balance: tuple[str, ...] = ()  # words that chosen answers begin with, of each as many as of the rarest

    def __post_init__(self) -> None:
        if not self.layouts or len(set(self.layouts)) < len(self.layouts):
            raise ValueError(f"layouts: must name each once and at least one, got {list(self.layouts)}")
        if strange := sorted(set(self.collage.counts) - set(GRIDS)):
            raise ValueError(f"collage.counts: must be among {list(GRIDS)}, got {strange[0]}")
        if self.layer < 0 or (isinstance(self.layer, float) and self.layer >= 1):
            raise ValueError(
                f"layer: must be a layer's number or a share of the depth in [0, 1), got {self.layer}"
            )
        if self.cell < 16:
            raise ValueError(f"cell: must be 16 or more, got {self.cell}")
        for name in ("pic_in_pic", "negative", "min_edit_distance_norm"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: must lie in [0, 1], got {getattr(self, name)}")
        if self.negative and self.layouts == ("pic_in_pic",):
            raise ValueError("negative: pictures of pic_in_pic have no numbers; use another layout or 0")
        if not 0 <= self.len_ratio[0] <= self.len_ratio[1]:
            raise ValueError(f"len_ratio: must be two numbers in ascending order, got {list(self.len_ratio)}")
        for name in ("cell_noise", "picture_noise", "min_perplexity", "max_chosen"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must be 0 or more, got {getattr(self, name)}")
        words = [one.lower() for one in self.balance]
        if len(words) == 1 or len(set(words)) < len(words) or any(w != _first_word(w) for w in words):
            raise ValueError(f"balance: must be two or more different words, got {list(self.balance)}")

    def ready_for(self, adapter: Adapter) -> None:
        """Raises UserError for a model that tells no attention, or in whose places of a picture the cells of
        a collage cannot be found; asks it about blank pictures to see."""
        if not isinstance(adapter, Attentive):
            raise UserError(f"model: {type(adapter).__name__} tells no attention; use adapter vlm")
        blank = Image.new("RGB", (self.cell, self.cell), "white")
        pictures = [blank, blank] if "sequence" in self.layouts else [blank]
        turn = Message("user", (*(Part("image", one) for one in pictures), Part("text", "What is this?")))
        try:
            (found,) = adapter.attend(adapter.policy, [(turn,)], self.layer)
        except UserError as error:
            raise UserError(f"builder: {error}") from error
        if set(self.layouts) - {"sequence"}:
            grid = self._grid(found)
            most = [GRIDS[n] for n in self.collage.counts] if "collage" in self.layouts else [(3, 3)]
            if any(cells[0] > grid[0] or cells[1] > grid[1] for cells in most):
                raise UserError(
                    f"builder.layouts: this model has a picture in {grid[0]} rows and {grid[1]} columns of "
                    "places, too few to tell the cells of such collages apart; use sequence or smaller ones"
                )

    def make(self, rows: Sequence[Asked], tools: Tools, seed: int) -> list[Remade]:
        """One question per row, all of them answered in one call."""
        asked: list[_Question | str] = [self._question(row, tools.pool, seed) for row in rows]
        questions = [one for one in asked if isinstance(one, _Question)]
        answers = iter(tools.adapter.attend(tools.model, [one.asked for one in questions], self.layer))
        return [
            Remade(counts=Counter({one: 1})) if isinstance(one, str) else self._selected(one, next(answers))
            for one in asked
        ]

    def sift(self, rows: Iterable[Mapping[str, Any]]) -> Mapping[str, str]:
        """Pairs of closed answers beyond as many as the rarest has."""
        found: dict[str, list[str]] = {_first_word(one): [] for one in self.balance}
        for row in rows:
            word = _first_word(row["chosen"])
            if word in found:
                found[word].append(row["id"])
        least = min(map(len, found.values()), default=0)
        spare = [name for own in found.values() for name in sorted(own, key=_lot)[least:]]
        return dict.fromkeys(spare, FREQUENT)

    # ------------------------------------------------------------ questions

    def _question(self, row: Asked, pool: Pool, seed: int) -> _Question | str:
        """The row's question among several pictures, or why there is none."""
        pictures = [part for turn in row.turns for part in turn.parts if part.kind != "text"]
        first = next((turn for turn in row.turns if turn.speaker in ("user", "text")), None)
        if len(pictures) != 1 or pictures[0].kind != "image" or first is None:
            return MEDIA
        if pictures[0] not in first.parts:
            return MEDIA
        chosen = "".join(part.data for part in row.original if part.kind == "text").strip()
        words = [part.data for turn in row.turns for part in turn.parts if part.kind == "text"]
        if any(_drift.holds_boxes(text) for text in (chosen, *words)):
            return BOXES
        if len(chosen) >= self.max_chosen:
            return LONG
        rng = random.Random(derive_seed(seed, 0, row.id, "mia_dpo"))
        drawn = self._drawn(row, pictures[0].data, pool, rng)
        if drawn is None:
            return LONELY
        if drawn.target is None:
            count = len(drawn.pictures)
            chosen = self.negative_answer.format(asked=count + 1, count=count)
        return self._composed(row, drawn, chosen)

    def _drawn(self, row: Asked, own: Any, pool: Pool, rng: random.Random) -> _Drawn | None:
        """What is random about the row's question; None where the pool has too few pictures."""
        layout = rng.choice(self.layouts)
        count = 2 if layout == "pic_in_pic" else rng.choice(self._limits(layout).counts)
        absent = layout != "pic_in_pic" and rng.random() < self.negative
        others = _others(row, pool, count - 1, rng)
        if len(others) < count - 1:
            return None
        place = rng.randrange(count)
        target = None if absent else place
        number = count if target is None else target
        lead = rng.choice(_collages.PHRASES) if layout == "pic_in_pic" else f"In Image{number + 1}"
        shown = (*others[:place], own, *others[place:])
        return _Drawn(layout, shown, place, target, lead, rng.getrandbits(62))

    def _limits(self, layout: Layout) -> Limits:
        return self.sequence if layout == "sequence" else self.collage

    def _composed(self, row: Asked, drawn: _Drawn, chosen: str) -> _Question:
        """The turns with clean pictures, and with those that the model is to answer about."""
        kept = noisy = list(drawn.pictures)
        if drawn.layout == "collage":
            whole = _collages.grid(drawn.pictures, drawn.place, self.cell)
            kept = noisy = [whole.picture]
            if drawn.target is not None:
                noisy = [_collages.noised(whole.picture, whole.target, self.cell_noise, drawn.noise)]
        elif drawn.layout == "pic_in_pic":
            whole = _collages.inside(drawn.pictures[drawn.place], drawn.pictures[1 - drawn.place])
            kept = [whole.picture]
            noisy = [_collages.noised(whole.picture, None, self.picture_noise, drawn.noise)]
        if self.square and drawn.layout != "sequence":
            kept, noisy = ([_collages.squared(one) for one in listed] for listed in (kept, noisy))
        first, second = (
            _collages.several(row.turns, _collages.shown(drawn.layout, listed), drawn.lead)
            for listed in (kept, noisy)
        )
        return _Question(drawn.layout, len(drawn.pictures), drawn.target, first, second, chosen)

    # ------------------------------------------------------------ selection

    def _selected(self, question: _Question, found: Attended) -> Remade:
        """The pair, if the answer looked elsewhere and is worth learning from."""
        rejected = str(found.answer.data).strip()
        share = self._share(question, found)
        perplexity = _drift.perplexity(found.certainty) if len(found.certainty) else 1.0
        reason = self._against(question, rejected, share, perplexity)
        if reason is not None:
            return Remade(counts=Counter({reason: 1}))
        told: Mapping[str, Any] = {
            "layout": question.layout,
            "pictures": question.count,
            "target": None if question.target is None else question.target + 1,
            "share": None if share is None else round(share, 6),
            "perplexity": round(perplexity, 6),
        }
        sides = {"chosen": Part("text", question.chosen), "rejected": Part("text", rejected)}
        return Remade((NewRow(question.layout, question.kept, sides, told=told),))

    def _against(
        self, question: _Question, rejected: str, share: float | None, perplexity: float
    ) -> str | None:
        chosen = question.chosen
        if not rejected:
            return EMPTY
        if rejected == chosen:
            return EQUAL
        if question.target is None:
            if _ABSENT.search(rejected):
                return ADMITTED
        elif share is None:
            return SHORT
        elif not self._drifted(question, share):
            return LOOKED
        if perplexity <= self.min_perplexity:
            return SURE
        if not self.len_ratio[0] <= len(rejected) / len(chosen) <= self.len_ratio[1]:
            return UNEVEN
        if _drift.edit_distance(chosen, rejected) < self.min_edit_distance_norm:
            return ALIKE
        return None

    def _drifted(self, question: _Question, share: float) -> bool:
        if question.layout == "pic_in_pic":
            return share < self.pic_in_pic
        limits = self._limits(question.layout)
        limit = limits.share[limits.counts.index(question.count)]
        return share <= limit if question.layout == "sequence" else share < limit

    def _share(self, question: _Question, found: Attended) -> float | None:
        """The target's share of attention; None where there is no target or no attention."""
        if question.target is None or found.attention is None:
            return None
        if question.layout == "sequence":
            return _drift.share_of_pictures(found.attention, question.target)
        (attention,), grid = found.attention, self._grid(found)
        if question.layout == "pic_in_pic":
            return _drift.share_of_centre(attention, grid)
        return _drift.share_of_cell(attention, grid, GRIDS[question.count], question.target)

    def _grid(self, found: Attended) -> tuple[int, int]:
        grid = found.grids[0]
        if grid is None:
            raise UserError(
                "builder.layouts: this model's places of a picture stand in no grid, so that the cells of a "
                "collage cannot be found; use layouts: [sequence]"
            )
        return grid


def _first_word(text: str) -> str:
    """The first word of an answer, in lower case."""
    found = re.search(r"\w+", text)
    return found.group().lower() if found else ""


def _lot(name: str) -> int:
    """What is drawn for a row by its id alone, so that it does not hang on the order of rows."""
    return derive_seed(0, 0, name, "balance")


def _others(row: Asked, pool: Pool, count: int, rng: random.Random) -> list[Any]:
    """So many pictures of other rows, all different and none the row's own; fewer where there are none."""
    seen = {pool.picture_key(row.id)}
    found: list[Any] = []
    for number in _in_any_order(len(pool.rows), rng):
        if len(found) == count:
            break
        other = pool.rows[number]
        kinds = [part.kind for turn in other.turns for part in turn.parts if part.kind != "text"]
        if kinds != ["image"] or pool.media_key(other) in seen:
            continue
        seen.add(pool.media_key(other))
        ready = pool.decoded(other)
        if ready is not None:
            found += [part.data for turn in ready.turns for part in turn.parts if part.kind == "image"]
    return found


def _in_any_order(count: int, rng: random.Random) -> Iterator[int]:
    """The numbers below `count` in a random order, drawn one by one: most questions need a few of many."""
    moved: dict[int, int] = {}
    for last in range(count - 1, -1, -1):
        place = rng.randrange(last + 1)
        yield moved.get(place, place)
        moved[place] = moved.get(last, last)

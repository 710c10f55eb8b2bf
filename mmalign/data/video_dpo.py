"""VideoDPO folders (arXiv 2412.14167): pairs of generated clips, with how rare a pair of scores is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign.data._sources import Row, SourceOptions
from mmalign.data.jsonl import Jsonl
from mmalign.types import UserError

_COMMON = 0.72  # the stored frequency of the most usual pair of scores, whose weight is 1


@dataclass(frozen=True, kw_only=True)
class VideoDpo(SourceOptions):
    """The folder `path` with `pair.json`, a list of {`video1` (the better clip), `video2`, `frame_caption`,
    `score`}, and `metadata.json`, the list of clips that the numbers in `video1` and `video2` count.

    A clip is {`basic`: {`clip_path`}, `misc`: {`frame_caption`}}; where the numbers are names of files, no
    metadata is needed. The weight of a pair is (0.72 / p)^alpha, p being its `score`, the frequency of its
    scores, so that rare, extreme pairs count more; the published runs have `alpha` 0, which weighs all alike.
    `diff_score`, if given, is the label margin.
    """

    path: str  # folder with pair.json and, where its clips are numbers, metadata.json
    alpha: float = 0.0  # power of a pair's weight (0.72 / p)^alpha; 0 weighs all alike, as the published runs

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha >= 0:
            raise ValueError(f"alpha: must be 0 or more, got {self.alpha}")

    @property
    def folder(self) -> str:
        """`root`, or the folder itself."""
        return self.root or str(Path(self.path).expanduser())

    @property
    def title(self) -> str:
        """The path as the config gives it."""
        return repr(self.path)

    def records(self) -> Iterator[Row]:
        """Every pair with its origin in pair.json."""
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise UserError(f"data.path {self.path!r}: must be a folder with pair.json and metadata.json")
        listed = folder / "metadata.json"
        clips = [row for _, row in Jsonl(path=str(listed)).records()] if listed.exists() else []
        for origin, row in Jsonl(path=str(folder / "pair.json")).records():
            try:
                yield origin, self._pair(row, clips, origin) if isinstance(row, Mapping) else row
            except UserError as error:
                yield origin, error

    def _pair(self, row: Mapping[str, Any], clips: list[Any], origin: str) -> Mapping[str, Any]:
        better, worse = (_clip(row.get(name), name, clips, origin) for name in ("video1", "video2"))
        if row.get("label") not in (None, 0):
            rule = "must be 0 or missing, video1 being the better clip; swap the two where it is not"
            raise UserError(f"{origin}, field 'label': {rule}, got {row['label']!r}")
        caption = row.get("frame_caption")
        caption = better.get("frame_caption") if caption is None else caption
        caption = caption[0] if isinstance(caption, list) and len(caption) == 1 else caption
        if not isinstance(caption, str) or not caption.strip():
            raise UserError(f"{origin}, field 'frame_caption': must be one text, got {caption!r}")
        made = {key: row[key] for key in ("id", "group", "user", "split") if row.get(key) is not None}
        made |= {"prompt": caption, "chosen": {"video": better["path"]}, "rejected": {"video": worse["path"]}}
        if row.get("diff_score") is not None:
            made["margin"] = row["diff_score"]
        return {**made, "weight": self._weight(row.get("score"), origin)}

    def _weight(self, score: Any, origin: str) -> float:
        if self.alpha == 0:
            return 1.0
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not score > 0:
            raise UserError(f"{origin}, field 'score': must be a number above 0 for alpha, got {score!r}")
        return float((_COMMON / score) ** self.alpha)


def _clip(value: Any, field: str, clips: list[Any], origin: str) -> dict[str, Any]:
    """Path and caption of a clip given by its place in the metadata, or by its name."""
    if isinstance(value, str) and not value.isdecimal():
        return {"path": value}
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        rule = "must be a place in metadata.json or the name of a file"
        raise UserError(f"{origin}, field {field!r}: {rule}, got {value!r}")
    if not 0 <= int(value) < len(clips):
        raise UserError(f"{origin}, field {field!r}: metadata.json has {len(clips)} clips, got {value}")
    clip = clips[int(value)]
    if isinstance(clip, UserError):
        raise UserError(f"{origin}, field {field!r}: {clip}")
    basic, misc = (
        clip.get(name) if isinstance(clip.get(name), Mapping) else clip for name in ("basic", "misc")
    )
    if not isinstance(basic.get("clip_path"), str):
        raise UserError(f"{origin}, field {field!r}: clip {value} of metadata.json has no clip_path")
    return {"path": basic["clip_path"], "frame_caption": misc.get("frame_caption")}

"""Prompts for models that answer: media decoded, each once."""

from pathlib import Path

import pytest
from bad_inputs import png
from clips import KINDS, numbers, video
from PIL import Image

from mmalign.clips import Frames
from mmalign.data._paths import File
from mmalign.data._prompts import decode_prompts
from mmalign.types import Message, Part, UserError

FRAMES = Frames(count=3)


def _turns(*parts: Part) -> tuple[Message, ...]:
    return (Message("system", (Part("text", "Be brief."),)), Message("user", (*parts, Part("text", "What?"))))


def test_pictures_are_decoded_here_and_text_stays() -> None:
    picture = Part("image", png((5, 4)))
    found = decode_prompts([("a", _turns(picture)), ("b", _turns()), ("c", _turns(picture))], None)
    assert [name for name, _ in found] == ["a", "b", "c"] and found[1][1] == _turns()
    image = found[0][1][1].parts[0].data
    assert image.size == (5, 4) and image is found[2][1][1].parts[0].data
    assert found[0][1][1].parts[1] == Part("text", "What?")
    assert decode_prompts([], FRAMES) == []


@pytest.mark.multiprocess
def test_videos_are_decoded_once_for_all_prompts(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(video(KINDS["h264"], 9))
    one, other = (Part("video", File(str(tmp_path), "a.mp4")) for _ in range(2))
    picture = Part("image", png())
    found = decode_prompts([("a", _turns(one, picture)), ("b", _turns(other))], FRAMES)
    first, second = (turns[1].parts[0].data for _, turns in found)
    assert first is second and numbers(first.frames) == [0, 4, 8]
    assert isinstance(found[0][1][1].parts[1].data, Image.Image)


def test_errors_name_the_prompt(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^prompt 'b', image: not a picture"):
        decode_prompts([("a", _turns()), ("b", _turns(Part("image", b"nothing to see")))], FRAMES)
    with pytest.raises(UserError, match="^prompt 'a': holds a video; videos need"):
        decode_prompts([("a", _turns(Part("video", File(str(tmp_path), "a.mp4"))))], None)

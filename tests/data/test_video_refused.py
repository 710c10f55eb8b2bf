"""Videos that are refused, and why: other files, playlists, limits, and damage of every kind."""

import importlib.util
import io
import random
import struct
from dataclasses import replace
from pathlib import Path

import av
import pytest
from bad_inputs import png
from clips import KINDS, numbers, video

from mmalign.clips import Frames
from mmalign.data import _video_pyav
from mmalign.data._paths import File
from mmalign.data._video import decode_video
from mmalign.data._video_container import scan
from mmalign.types import UserError

NO_DECORD = importlib.util.find_spec("decord") is None
needs_decord = pytest.mark.skipif(NO_DECORD, reason="decord is not installed (extra: video)")
READERS = ["pyav", pytest.param("decord", marks=needs_decord)]
H264 = KINDS["h264"]
ALL = Frames(count=1000)


# ---------------------------------------------------------------- files that are refused


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://192.0.2.1/a.ts\n", "a playlist"),
        (b"\xef\xbb\xbf#EXTM3U\n", "a playlist"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "a playlist"),
        (b"file '/etc/passwd'\n", "a playlist"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "no video in it"),
        (b"ID3\x04" + bytes(64), "no video in it"),
        (b"hello, this is no video", "not a video .it starts with 'hello"),
        (bytes(100), "not a video"),
        (png(), "a still picture"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(200), "cannot be opened .*: damaged or cut off"),
        (b"\x1aE\xdf\xa3" + bytes(200), "cannot be opened"),
    ],
)
def test_content_that_is_no_video(data: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words):
        decode_video(data, Frames())


def test_names_that_are_refused_before_anything_is_opened(tmp_path: Path) -> None:
    (tmp_path / "list.m3u8").write_bytes(video(H264, 3))  # by its name, whatever it holds
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to("/dev/zero")
    for name, words in {
        "list.m3u8": "a playlist",
        "folder.mp4": "not a regular file",
        "link.mp4": "outside data.root",
        "/dev/video0": "outside data.root",
        "../a.mp4": "outside data.root",
        "http://192.0.2.1/a.mp4": "is an address",
        "concat:a.mp4|b.mp4": "no such file",
        "gone.mp4": "no such file",
    }.items():
        with pytest.raises(UserError, match=words):
            decode_video(File(str(tmp_path), name), Frames())


def test_limits() -> None:
    data = video(H264)
    with pytest.raises(UserError, match="64x48 is more than model.frames.max_pixels 3071"):
        decode_video(data, Frames(max_pixels=3071))
    assert decode_video(data, Frames(max_pixels=3072, max_seconds=1.2)).total == 30
    with pytest.raises(UserError, match="1 s long; model.frames.max_seconds is 1.1"):
        decode_video(data, Frames(max_seconds=1.1))
    with pytest.raises(UserError, match="its codec is cinepak; convert it to H.264"):
        decode_video(video(replace(KINDS["mjpeg"], codec="cinepak", pixels="rgb24")), Frames())


# ---------------------------------------------------------------- damaged files


@pytest.mark.parametrize(
    ("name", "options"), [("h264", {"movflags": "faststart"}), ("h264 in matroska", {}), ("vp9", {})]
)
@pytest.mark.parametrize("reader", READERS)
def test_a_video_that_is_cut_off_is_refused_with_what_is_left(name: str, options: dict, reader: str) -> None:
    data = video(KINDS[name], 40, **options)
    for share in (0.6, 0.8):
        with pytest.raises(UserError, match=r"(cut off|damaged): .*\d+ (of 40 )?frames") as caught:
            decode_video(data[: int(share * len(data))], Frames(reader=reader))  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


def test_a_video_whose_index_is_gone_is_refused() -> None:
    data = video(H264)
    with pytest.raises(UserError, match="cannot be opened"):
        decode_video(data[: len(data) // 2], Frames())


@pytest.mark.parametrize("name", ["h264", "mpeg4"])
def test_damage_that_the_decoder_covers_up_is_refused(name: str) -> None:
    """Sound headers and packets of the right number: only the decoder notices."""
    data = bytearray(video(KINDS[name], 40))
    start = data.index(b"mdat") + 900
    for place in range(start, start + 60):
        data[place] ^= 0x55
    with pytest.raises(UserError, match=r"^damaged: (frame \d+ cannot|\d+ of 40 frames can)"):
        decode_video(bytes(data), ALL)


def test_one_frame_that_the_decoder_marks_is_refused_where_it_is_chosen() -> None:
    """One byte, in the middle of a packet: forty pictures come out, and no error with them."""
    sound = video(KINDS["mpeg4"], 40)
    for place in range(sound.index(b"mdat") + 400, len(sound) - 100, 5):
        data = bytearray(sound)
        data[place] ^= 0x55
        with av.open(io.BytesIO(data)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            try:
                marked = [frame.is_corrupt for frame in container.decode(video=0)]
            except av.FFmpegError:
                continue
        if len(marked) == 40 and sum(marked) == 1 and not marked[0]:
            break
    else:
        pytest.fail("no such damage was found")
    with pytest.raises(UserError, match=f"^damaged: frame {marked.index(True)} cannot be restored"):
        decode_video(bytes(data), ALL)
    assert numbers(decode_video(bytes(data), Frames(count=1)).frames) == [0]


def test_a_codec_that_nobody_knows_is_refused() -> None:
    data = video(H264).replace(b"avc1", b"zzz9")
    with pytest.raises(UserError, match="its codec is unknown"):
        decode_video(data, Frames())


def test_broken_bytes_are_refused_or_read_but_never_fail_otherwise() -> None:
    random_ = random.Random(0)
    outcomes = {"read": 0, "refused": 0}
    for name in ("h264", "vp9", "mpeg4 in avi", "gif", "h264 in mpeg-ts"):
        whole = video(KINDS[name], 12)
        for _ in range(60):
            data = bytearray(whole)
            for _ in range(random_.choice([1, 3, 9])):
                data[random_.randrange(random_.choice([64, 600, len(data)]))] = random_.randrange(256)
            try:
                decode_video(bytes(data), Frames(count=3))
                outcomes["read"] += 1
            except UserError as error:
                outcomes["refused"] += 1
                assert "\n" not in str(error)
    assert min(outcomes.values()) > 50


def test_far_fewer_frames_than_packets_are_refused() -> None:
    data = video(KINDS["hevc"], 30)
    header = scan(data, ALL)
    more = replace(header, stamps=tuple(place / 25 for place in range(40)))
    with pytest.raises(UserError, match="damaged: 30 of 40 frames can be read; fetch it again"):
        _video_pyav.read(data, more, ALL)


def test_a_header_that_counts_wrong_is_believed_only_within_reason() -> None:
    def with_length(count: int) -> bytes:
        data = bytearray(video(KINDS["mpeg4 in avi"]))
        struct.pack_into("<I", data, data.index(b"avih") + 8 + 16, count)
        struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, count)
        return bytes(data)

    for count in (10, 28, 32):
        clip = decode_video(with_length(count), ALL)
        assert clip.total == 30 and numbers(clip.frames) == list(range(30))
    with pytest.raises(UserError, match="cut off: its data hold 30 frames and end at 1.2. s, .* 2.40 s"):
        decode_video(with_length(60), ALL)

"""The frames that are shown at the wanted moments come out, of any container and codec, the right way up."""

from __future__ import annotations

import shutil
import struct
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")
from shards.frames.clips import Clip  # noqa: E402
from shards.frames.decode import Video  # noqa: E402
from shards.frames.picture import Square  # noqa: E402
from shards.frames.read import Sampling, Unreadable, read_clip  # noqa: E402
from tests.shards.frames.drawn import corners, draw, number, numbers, turn, write_clip  # noqa: E402

SIDE = 64
UPRIGHT = ("red", "green", "blue", "yellow")


def read(path: Path, frames: int = 8, side: int = SIDE) -> np.ndarray:
    found = read_clip(Clip(path.stem, "video", (path,)), Sampling(frames), Square(side, side))
    assert not isinstance(found, Unreadable), found.reason
    return found


def reason(path: Path) -> str:
    found = read_clip(Clip(path.stem, "video", (path,)), Sampling(8), Square(SIDE, SIDE))
    assert isinstance(found, Unreadable) and "\n" not in found.reason
    return found.reason


def middles(there: int, wanted: int) -> list[int]:
    """The frame in the middle of each of `wanted` parts of a clip whose frames are shown equally long."""
    return sorted({there * (2 * part + 1) // (2 * wanted) for part in range(wanted)})


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("one-group.mp4", "libx264", {"bf": "0", "g": "250"}),
        ("b-frames.mp4", "libx264", {"bf": "3", "b-pyramid": "normal", "g": "250"}),
        ("short-groups.mp4", "libx264", {"bf": "2", "g": "10"}),
        ("open-groups.mp4", "libx264", {"bf": "3", "g": "10", "x264-params": "open-gop=1"}),
        ("b-frames.mkv", "libx264", {"bf": "3", "g": "10"}),
        ("b-frames.ts", "libx264", {"bf": "3", "g": "10"}),
        ("b-frames.flv", "libx264", {"bf": "3", "g": "10"}),
        ("hevc.mp4", "libx265", {"x265-params": "bframes=4:keyint=12:log-level=none"}),
        ("hevc-closed.mov", "libx265", {"x265-params": "bframes=3:keyint=9:open-gop=0:log-level=none"}),
        ("vp9.webm", "libvpx-vp9", {"g": "10", "deadline": "realtime", "cpu-used": "8"}),
        ("av1.mp4", "libsvtav1", {"g": "16", "preset": "8"}),
        ("all-key.mov", "mjpeg", {}),
        ("plain.avi", "mpeg4", {"g": "12"}),
        ("plain.mpg", "mpeg2video", {"g": "12", "bf": "2"}),
        ("no-times.h264", "libx264", {"bf": "0"}),
    ],
)
def test_the_wanted_frames_come_out(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    clip = write_clip(tmp_path / name, 53, codec=codec, options=options, pixels=pixels)
    squares = read(clip)
    assert squares.shape == (8, SIDE, SIDE, 3) and squares.dtype == np.uint8
    assert numbers(squares) == middles(53, 8)
    assert {corners(square) for square in squares} == {UPRIGHT}


def test_times_that_vary(tmp_path: Path) -> None:
    """Twenty frames in the first second, one in each of the next three: a frame is shown until the next."""
    times = [*range(20), 20, 40, 60]
    squares = read(write_clip(tmp_path / "vary.mp4", 23, times=times, rate=20, options={"bf": "2"}), 8)
    end = 61  # the last one is as long as the container says, or as is usual
    shown = [max(n for n, time in enumerate(times) if time <= end * (part + 0.5) / 8) for part in range(8)]
    assert numbers(squares) == sorted(set(shown)) == [3, 11, 19, 20, 21]


def test_times_that_begin_late(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "late.mkv", 30, times=[1000 + at for at in range(30)])
    assert numbers(read(clip)) == middles(30, 8)


@pytest.mark.parametrize(
    ("matrix", "truth"),
    [
        ((1, 0, 0, 1), lambda square: square),
        ((0, 1, -1, 0), lambda square: np.rot90(square, -1)),  # clockwise: a phone held upright
        ((-1, 0, 0, -1), lambda square: np.rot90(square, 2)),
        ((0, -1, 1, 0), lambda square: np.rot90(square, 1)),
        ((-1, 0, 0, 1), np.fliplr),  # a mirror: a phone's front camera
        ((0, 1, 1, 0), lambda square: square.transpose(1, 0, 2)),
    ],
)
def test_a_display_matrix(tmp_path: Path, matrix: tuple[int, ...], truth) -> None:
    clip = write_clip(tmp_path / "turned.mp4", 3, size=(144, 64))
    plain = read(clip, 1)[0]
    turn(clip, *matrix)
    turned = read(clip, 1)[0]
    assert corners(plain) == UPRIGHT
    np.testing.assert_array_equal(turned, truth(plain))


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (97, 63), (64, 64), (34, 500)])
def test_the_middle_is_kept_whatever_the_shape(tmp_path: Path, size: tuple[int, int]) -> None:
    squares = read(write_clip(tmp_path / "shape.mkv", 5, size=size, codec="ffv1", pixels="bgr0"))
    assert numbers(squares) == list(range(5))
    assert {corners(square) for square in squares} == {UPRIGHT}


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    """A frame of 48 x 64 pixels twice as wide as high is shown 96 wide."""
    wide = draw(5, 96, 64)[:, ::2]
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(wide), "rgb24")
        out.mux(stream.encode(frame.reformat(format="yuv420p")))
        out.mux(stream.encode(None))
    (square,) = read(path)
    assert number(square) == 5 and corners(square) == UPRIGHT


@pytest.mark.parametrize(
    ("codec", "pixels", "colour_range"),
    [
        ("libx264", "yuv420p", 1),
        ("libx264", "yuv420p", 2),  # full range
        ("libx264", "yuv420p10le", 1),
        ("libx264", "yuv420p10le", 2),
        ("libx264", "yuv444p", 1),
        ("ffv1", "yuv422p16le", 1),
        ("ffv1", "bgra", None),
        ("ffv1", "gray", None),
        ("ffv1", "gray10le", None),
    ],
)
def test_colours_of_any_format(tmp_path: Path, codec: str, pixels: str, colour_range: int | None) -> None:
    """A ramp from dark to light comes out as it was, within the rounding of the format and of compression."""
    ramp = np.repeat(np.linspace(20, 235, 64).round()[:, None], 64, 1)
    colours = np.stack(
        [ramp, ramp, ramp] if "gray" in pixels else [ramp, ramp[::-1], np.full_like(ramp, 90)], -1
    )
    picture = colours.astype(np.uint8)
    options = {} if codec == "ffv1" else {"crf": "1"}
    clip = write_clip(
        tmp_path / "ramp.mkv",
        1,
        size=(64, 64),
        codec=codec,
        pixels=pixels,
        colour_range=colour_range,
        options=options,
        pictures=[picture],
    )
    (square,) = read(clip)
    assert np.abs(square.astype(int) - picture).mean() < 3


def test_fewer_frames_than_wanted(tmp_path: Path) -> None:
    assert numbers(read(write_clip(tmp_path / "three.mp4", 3))) == [0, 1, 2]
    assert numbers(read(write_clip(tmp_path / "one.mp4", 1))) == [0]
    assert numbers(read(write_clip(tmp_path / "few.gif", 4, codec="gif", pixels="rgb8"))) == [0, 1, 2, 3]


def test_seeks_skip_what_is_not_wanted(tmp_path: Path) -> None:
    """Of 600 frames in groups of 30 two are wanted: little more than two groups are decoded."""
    clip = write_clip(tmp_path / "long.mp4", 600, options={"g": "30", "bf": "2", "sc_threshold": "0"})
    video = Video(clip)
    timeline = video.timeline()
    found = [
        frame.pts
        for frame in video.frames_at(timeline, timeline.shown_at([timeline.times[100], timeline.times[500]]))
    ]
    assert found == [timeline.times[100], timeline.times[500]]
    assert video.decoded < 70


def test_a_broken_end(tmp_path: Path) -> None:
    """Frames are spread over what is there, not over what the header promises."""
    clip = write_clip(tmp_path / "cut.mkv", 100, options={"bf": "0", "g": "10", "qp": "0"})
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    found = numbers(read(clip))
    assert len(found) == 8 and 30 < found[-1] < 60
    assert np.abs(np.diff(found, n=1) - np.diff(found).mean()).max() < 2
    without_index = write_clip(tmp_path / "cut.mp4", 100)
    without_index.write_bytes(without_index.read_bytes()[:-200])  # it is at the end
    assert "Invalid data" in reason(without_index)


def test_damage_in_the_middle(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "hurt.mkv", 100, options={"bf": "0", "g": "10", "qp": "0"})
    content = bytearray(clip.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    clip.write_bytes(content)
    found = numbers(read(clip))
    assert found[0] == middles(100, 8)[0] and found[-1] == middles(100, 8)[-1]


def test_what_is_no_video(tmp_path: Path) -> None:
    empty, text, sound = (tmp_path / name for name in ("empty.mp4", "text.mp4", "sound.mp4"))
    empty.write_bytes(b"")
    text.write_text("not a video\n" * 100)
    with av.open(str(sound), "w") as out:
        stream = out.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert "Invalid data" in reason(empty) and "Invalid data" in reason(text)
    assert reason(sound) == "found no video stream that can be decoded, expected one"
    assert "No such file" in reason(tmp_path / "none.mp4")


def test_a_video_that_says_it_is_huge(tmp_path: Path) -> None:
    """A picture of 60,000 x 60,000 pixels in a small file is refused before memory is taken for it."""
    clip = write_clip(tmp_path / "huge.png", 1, codec="png", pixels="rgb24", format="image2")
    content = bytearray(clip.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    clip.write_bytes(content)
    assert reason(clip)


def test_a_frame_that_is_far_too_long(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "long.mkv", 1, size=(1000, 16), codec="ffv1", pixels="bgr0")
    assert reason(clip) == "found 1000 x 16 pixels, expected at most 16 times as long as wide"


def test_a_playlist_fetches_nothing(tmp_path: Path) -> None:
    """What looks like a video may list addresses: no connection is made."""
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 (its name in the library)
            asked.append(self.path)

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/x.ts"
    for name, text in (
        ("list.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n"),
        ("list.mp4", f"ffconcat version 1.0\nfile '{address}'\n"),
    ):
        (tmp_path / name).write_text(text)
        assert reason(tmp_path / name)
    server.shutdown()
    server.server_close()
    assert not asked


def test_a_title_in_another_encoding(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "title.avi", 5, codec="mpeg4", title="TITLE")
    content = clip.read_bytes()
    assert b"TITLE" in content
    clip.write_bytes(content.replace(b"TITLE", "\u6807\u9898".encode("gbk") + b"."))
    assert len(read(clip)) == 5


def test_names_that_mean_something_to_ffmpeg(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "plain.mp4", 5)
    for name in ("http:x.mp4", "a%03d.mp4", "concat:a|b.mp4", "-i.mp4", "ü ' \" .mp4"):
        shutil.copy(clip, tmp_path / name)
        assert len(read(tmp_path / name)) == 5
    png = write_clip(tmp_path / "plain.png", 1, codec="png", pixels="rgb24", format="image2")
    shutil.copy(png, tmp_path / "a%03d.png")
    assert number(read(tmp_path / "a%03d.png")[0]) == 0


@pytest.mark.slow
def test_eight_k(tmp_path: Path) -> None:
    options = {"preset": "ultrafast", "bf": "0"}
    clip = write_clip(tmp_path / "8k.mp4", 2, size=(7680, 4320), options=options)
    assert numbers(read(clip, side=224)) == [0, 1]


def test_an_hour(tmp_path: Path) -> None:
    """3,600 s, of which a few groups of pictures are decoded."""
    clip = write_clip(tmp_path / "hour.mp4", 3600, rate=1, options={"g": "10", "preset": "ultrafast"})
    video = Video(clip)
    timeline = video.timeline()
    assert timeline.end * video_base(clip) == 3600
    assert numbers(read(clip)) == middles(3600, 8)
    list(video.frames_at(timeline, timeline.shown_at(timeline.times[middles(3600, 8)])))
    assert video.decoded < 8 * 12


def video_base(path: Path) -> float:
    with av.open(str(path)) as container:
        return container.streams.video[0].time_base

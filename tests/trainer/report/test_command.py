"""What the command says to mistakes, and what a page has where a run lacks something."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.trainer.report.conftest import Ranked
from tests.trainer.report.pages import Page
from trainer import __main__ as entry


@pytest.fixture
def run(ranked: list[Ranked], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the plain run, to be damaged."""
    monkeypatch.setenv("MEALREC_CACHE", str(cache))
    return shutil.copytree(ranked[0].path, tmp_path / "run")


def report(*words: object) -> int:
    return entry.run(["report", *map(str, words)])


def mistake(capsys: pytest.CaptureFixture, *words: object) -> str:
    """The one line of a mistake; nothing is written."""
    out = Path(words[0]).parent / "refused.html"
    assert report(*words, "--out", out) == 2
    assert not out.exists()
    *_, line = capsys.readouterr().err.strip().splitlines()
    return line


def test_wrong_arguments(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert "none holds no run: no config.yaml" in mistake(capsys, run.with_name("none"))
    assert "are the same run: give it once" in mistake(capsys, run, tmp_path / "." / "run")
    assert "no such folder of videos" in mistake(capsys, run, "--frames", tmp_path / "none")
    assert report(run, "--out", tmp_path / "page.pdf") == 2
    assert "expected a name that ends in .html" in capsys.readouterr().err
    (tmp_path / "there.html").write_text("mine")
    assert report(run, "--out", tmp_path / "there.html") == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "there.html").read_text() == "mine"
    (tmp_path / "file").touch()
    assert report(run, "--out", tmp_path / "file" / "page.html") == 2
    assert "cannot be written: " in capsys.readouterr().err.splitlines()[-1]


def test_damaged_files_are_named(run: Path, capsys: pytest.CaptureFixture) -> None:
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, "test": {"hr@10": "much"}}))
    assert "results.json: field test.hr@10" in mistake(capsys, run)
    (run / "results.json").write_text("[1, 2")
    assert "results.json is not JSON" in mistake(capsys, run)
    (run / "results.json").write_text(json.dumps(results))
    (run / "ranks-test.parquet").write_text("PAR1 or so")
    assert "ranks-test.parquet cannot be read" in mistake(capsys, run)


def test_a_library_that_is_missing_is_named(
    run: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert 'not installed: pip install "mealrec[report]"' in mistake(capsys, run)


def test_a_run_that_goes_on(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Without results there are curves; without anything there is nothing to report."""
    for name in ("results.json", "ranks-test.parquet"):
        (run / name).unlink()
    assert report(run, "--out", tmp_path / "page.html") == 0
    page = Page((tmp_path / "page.html").read_text())
    assert page.column("What they are", "run")["state"] == "not finished: step 21"
    assert {"Learning curves", "What NPD changes"} <= set(page.headings)
    assert "Metrics" not in page.tables and "Cost" not in page.headings
    (run / "metrics.jsonl").unlink()
    assert "has nothing to report yet" in mistake(capsys, run)


def test_damaged_lines_are_left_out_and_counted(run: Path, tmp_path: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    wrong = ['{"step": 3, "loss": NaN}', '{"step": 4, "loss": "low", "guards": 3, "split": "valid"}']
    damage = ["\x00\xff", "[[[", '{"loss": 3}']
    (run / "metrics.jsonl").write_text("\n".join([*damage, *wrong, *lines, '{"step": 22, "lo']))
    assert report(run, "--out", tmp_path / "page.html") == 0
    page = Page((tmp_path / "page.html").read_text())
    assert "run: 3 damaged lines of metrics.jsonl are left out." in page.notes


def test_ranks_that_nobody_wrote(run: Path, tmp_path: Path) -> None:
    (run / "ranks-test.parquet").unlink()
    assert report(run, "--out", tmp_path / "page.html") == 0
    page = Page((tmp_path / "page.html").read_text())
    assert any(f"python -m trainer evaluate {run} writes them." in note for note in page.notes)
    results = json.loads((run / "results.json").read_text())
    assert page.column("Metrics", "run")["HR@10"] == f"{results['test']['hr@10']:.4f}"
    assert "Which users" not in page.headings


def test_what_the_page_names_writes_the_ranks(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for split in ("test", "valid"):
        before = pq.read_table(run / f"ranks-{split}.parquet")
        (run / f"ranks-{split}.parquet").unlink()
        assert report(run, "--split", split, "--out", tmp_path / f"{split}.html") == 0
        notes = Page((tmp_path / f"{split}.html").read_text()).notes
        (command,) = [note for note in notes if "writes them" in note]
        words = command.partition("python -m trainer ")[2].removesuffix(" writes them.").split()
        assert entry.run(words) == 0
        assert pq.read_table(run / f"ranks-{split}.parquet").equals(before)


def test_users_of_other_data_are_not_compared(run: Path, tmp_path: Path, ranked: list[Ranked]) -> None:
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, "fingerprint": "sha256:other"}))
    assert report(ranked[0].path, run, "--out", tmp_path / "page.html") == 0
    page = Page((tmp_path / "page.html").read_text())
    assert "run is on another data set than whole: their users are not compared." in page.notes
    assert not [caption for caption in page.tables if caption.startswith("Difference")]
    assert "popularity" not in page.tables["Metrics"][0]
    assert page.column("Metrics", "run") == page.column("Metrics", "whole")


def test_other_users_are_not_compared(run: Path, tmp_path: Path, ranked: list[Ranked]) -> None:
    table = pq.read_table(run / "ranks-test.parquet")
    pq.write_table(table.slice(1), run / "ranks-test.parquet")
    assert report(ranked[0].path, run, "--out", tmp_path / "page.html") == 0
    page = Page((tmp_path / "page.html").read_text())
    assert "run was evaluated on other users than whole: they are not compared." in page.notes
    assert page.column("Metrics", "run")["users"] == "397"


def test_without_the_data_set_the_rest_is_there(run: Path, tmp_path: Path) -> None:
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("data\n", "gone\n"))
    assert report(run, "--out", tmp_path / "page.html") == 0
    page = Page((tmp_path / "page.html").read_text())
    assert any("run was not ranked: " in note and "no such data set" in note for note in page.notes)
    assert "Which users" in page.headings and "What NPD changes" not in page.headings


def test_pictures_of_frames(run: Path, tmp_path: Path, ranked: list[Ranked]) -> None:
    """Only videos with pictures are shown, and only with as many pictures as frames."""
    image = pytest.importorskip("PIL.Image", reason="the extra `frames` is not installed")
    pytest.importorskip("av", reason="the extra `frames` is not installed")
    inputs = ranked[0].inputs
    counts, frames = inputs.index.train_counts()[1:], inputs.table.frames[1:]
    first, second = (np.argsort(-counts * (frames == 3), kind="stable")[:2] + 1).tolist()
    ids = [str(inputs.index.item_ids()[video - 1]) for video in (first, second)]
    folder = tmp_path / "frames"
    folder.mkdir()
    for video, pictures in zip(ids, (3, 2), strict=True):
        for number in range(pictures):
            colour = (80 * number, 200, 0)
            image.new("RGB", (40, 30), colour).save(folder / f"{video}-{number + 1}.jpg")
    assert report(run, "--frames", folder, "--out", tmp_path / "page.html") == 0
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert [heading for heading in page.headings if heading.startswith("Video")] == [
        f"Video {i}" for i in ids
    ]
    assert sum(address.startswith("data:image/jpeg;base64,") for address in page.addresses) == 3
    assert f'alt="Video {ids[0]}, frame 3"' in text and f'alt="Video {ids[1]}, frame 1"' not in text

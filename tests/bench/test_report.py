"""A CSV says on what and by which command it was made; a row is in it as soon as it is measured."""

from pathlib import Path

import pytest

from bench import report


def test_a_report_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [str(Path(report.__file__).with_name("train.py")), "--rounds", "2"])
    path = tmp_path / "some.csv"
    table = report.Report(path, device="a device", versions={"Peer": "1.0"})
    table.add(contestant="ours, fast", rate=12345.6, share=0.123456)
    assert report.read(path) == [{"contestant": "ours, fast", "rate": "12346", "share": "0.123"}]
    comments = path.read_text().splitlines()[:3]
    assert comments[0] == "# device: a device"
    assert comments[1].endswith("Peer 1.0")
    assert comments[2] == "# command: python -m bench.train --rounds 2"


@pytest.mark.parametrize(
    ("value", "limits", "word"),
    [
        (8.0, {"least": 8}, "reached"),
        (7.9, {"least": 8}, "MISSED"),
        (0.03, {"most": 0.03}, "reached"),
        (0.04, {"most": 0.03}, "MISSED"),
        (None, {"least": 8}, "not measured"),
    ],
)
def test_goals(value: float | None, limits: dict[str, float], word: str) -> None:
    assert report.goal("speed", value, **limits).split("  ")[0].strip() == word

"""The example of a server, in a process of its own, asked over the loopback interface."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.serving.exports import write_export
from trainer.launch import machine
from trainer.serving import Recommender

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("served") / "export")


@pytest.fixture(scope="module")
def address(export: Path) -> Iterator[str]:
    root, port = Path(__file__).parents[2], machine.free_port()
    command = [sys.executable, str(root / "examples" / "serve.py"), str(export), "--port", str(port)]
    server = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr or ():
            if "running on" in line:
                break
        yield f"http://127.0.0.1:{port}/recommend"
    finally:
        server.terminate()
        server.communicate(timeout=30)


def ask(address: str, question: Any) -> tuple[int, Any]:
    request = urllib.request.Request(
        address, json.dumps(question).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_answers_are_those_of_the_recommender(address: str, export: Path) -> None:
    histories = [["video 4", "video 9"], [], ["unknown", "video 30"]]
    status, answer = ask(address, {"histories": histories, "k": 3, "deny": ["video 1"]})
    expected = Recommender.load(export).recommend(histories, k=3, deny=["video 1"])
    assert status == 200
    assert [[tuple(pair) for pair in row] for row in answer["recommendations"]] == [
        [(item, pytest.approx(score, rel=1e-5)) for item, score in row] for row in expected
    ]


@pytest.mark.parametrize("question", [{"k": 3}, {"histories": [[1.5]]}, {"histories": "video 4"}, []])
def test_what_is_no_question(address: str, question: Any) -> None:
    status, answer = ask(address, question)
    assert status == 422 and answer["detail"]


def test_a_mistake_is_one_line(address: str) -> None:
    status, answer = ask(address, {"histories": [["video 4"]], "k": 41})
    assert (status, answer) == (422, {"detail": "k 41: expected 1 to 40, the videos of the model"})

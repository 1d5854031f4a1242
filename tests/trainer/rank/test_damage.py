"""What was written is compared with what is read, and a resume goes on from the newest whole checkpoint."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.trainer import runs
from tests.trainer.attack import Attack
from trainer import checkpoint_files
from trainer.checkpoint_files import FACTS, WEIGHTS, CheckpointFacts, Damaged
from trainer.distributed import World
from trainer.errors import UserError
from trainer.evaluation import weights
from trainer.rank.callbacks.checkpointing import Checkpointing
from trainer.rank.callbacks.evaluation import Evaluation
from trainer.rank.checkpoint import Checkpoints
from trainer.rank.inspection import Inspection

OLD, NEW = "step-00000014", "step-00000018"
MODEL_STATES = "mp_rank_00_model_states.pt"


def cut(run: Path, copy: Path) -> Path:
    """A copy of a finished run as if it had been killed after step 18, with the checkpoints 14 and 18."""
    shutil.copytree(run, copy)
    (copy / "results.json").unlink()
    for path in checkpoint_files.complete(copy / "checkpoints"):
        if path.name not in (OLD, NEW):
            shutil.rmtree(path)
    (copy / "checkpoints" / checkpoint_files.BEST).write_text(OLD)
    return copy


@pytest.fixture
def run(two_ranks: dict[int, Path], tmp_path: Path) -> Path:
    return cut(two_ranks[0], tmp_path / "run")


def checkpoints_of(run: Path) -> Checkpoints:
    facts = CheckpointFacts.read(run / "checkpoints" / OLD)
    own = {"fingerprint": facts.fingerprint, "items": facts.items, "keep": 2, "seed": 0}
    return Checkpoints(run / "checkpoints", World(), model=weights.model_config_from(facts.model), **own)


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def change(path: Path, edit: Callable[[dict], object]) -> None:
    """Change a JSON file."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_every_flipped_bit_is_noticed(run: Path) -> None:
    drawn, checkpoint = random.Random(0), run / "checkpoints" / NEW
    for path in sorted(checkpoint.iterdir()):
        for _ in range(40):
            bit = drawn.randrange(8 * path.stat().st_size)
            flip(path, bit)
            fault = Inspection(run / "checkpoints", World()).fault(NEW)
            assert fault is not None and str(path) in fault, f"bit {bit} of {path.name}"
            flip(path, bit)
    assert Inspection(run / "checkpoints", World()).fault(NEW) is None


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda folder: flip(folder / MODEL_STATES, 12_345),
    "a missing file": lambda folder: (folder / MODEL_STATES).unlink(),
    "an empty file": lambda folder: (folder / MODEL_STATES).write_bytes(b""),
    "half a file": lambda folder: os.truncate(folder / WEIGHTS, 5_000),
    "no facts": lambda folder: (folder / FACTS).unlink(),
    "empty facts": lambda folder: (folder / FACTS).write_text(""),
    "half of the facts": lambda folder: os.truncate(folder / FACTS, 300),
    "a list of facts": lambda folder: (folder / FACTS).write_text("[]"),
    "a fact less": lambda folder: change(folder / FACTS, lambda facts: facts.pop("model")),
    "a fact of another type": lambda folder: change(folder / FACTS, lambda facts: facts.update(world="2")),
    "another fact": lambda folder: change(folder / FACTS, lambda facts: facts.update(world=3)),
    "files of another type": lambda folder: change(folder / FACTS, lambda facts: facts.update(files=7)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_older_whole_checkpoint_is_taken(run: Path, damage: str, capsys) -> None:
    folder = run / "checkpoints"
    DAMAGES[damage](folder / NEW)
    kept = sorted(path.name for path in (folder / NEW).iterdir())
    assert checkpoints_of(run).resumable({}) == (folder / OLD, False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {folder / NEW}/") and line.endswith(f"; kept as damaged-{NEW}")
    assert sorted(path.name for path in (folder / f"damaged-{NEW}").iterdir()) == kept
    assert checkpoints_of(run).resumable({}) == (folder / OLD, False) and not capsys.readouterr().err


def test_no_whole_checkpoint_is_a_mistake_that_changes_nothing(run: Path) -> None:
    for name in (OLD, NEW):
        (run / "checkpoints" / name / MODEL_STATES).unlink()
    for _ in range(2):
        with pytest.raises(
            UserError, match=f"no checkpoint is whole; the newest: .*{NEW}/{MODEL_STATES} cannot"
        ):
            checkpoints_of(run).resumable({})


def test_lost_best_weights_are_chosen_anew(run: Path, capsys) -> None:
    flip(run / "checkpoints" / OLD / WEIGHTS, 99_999)
    evaluation = Evaluation(None, every_steps=0, patience=2)
    checkpointing = Checkpointing(checkpoints_of(run), evaluation, every_steps=0)
    for step, left in ((18, 18), (14, None), (7, None)):  # whole, damaged, gone
        evaluation.load_state_dict({"best": {"step": step}, "last": {"step": 18}, "misses": 1})
        checkpointing.load_state_dict({})
        assert (evaluation.best or {}).get("step") == left
    assert (run / "checkpoints" / f"damaged-{OLD}").exists()
    assert capsys.readouterr().err.count("are lost: the best is chosen anew") == 2


def test_weights_are_compared_before_they_are_used(run: Path) -> None:
    path = run / "checkpoints" / OLD / WEIGHTS
    flip(path, 50_000)
    with pytest.raises(Damaged, match=f"{path} has another content than was written"):
        weights.load(run)
    path.unlink()
    with pytest.raises(Damaged, match=f"{path} cannot be read: No such file"):
        weights.load(run)
    change(path.parent / FACTS, lambda facts: facts.pop("sha256"))
    with pytest.raises(Damaged, match=f"{FACTS} has other keys than were written"):
        weights.load(run)


@pytest.mark.parametrize("note", ["", "step-00000007", "../../elsewhere", "step-\udcff"])
def test_a_damaged_note_of_the_best_is_said(run: Path, note: str) -> None:
    file = run / "checkpoints" / checkpoint_files.BEST
    file.write_bytes(note.encode(errors="surrogateescape"))
    with pytest.raises(Damaged, match=f"{file} names .*: there is no such checkpoint"):
        weights.load(run)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", None])
def test_damaged_ids_are_said(run: Path, content: bytes | None) -> None:
    file = run / weights.ITEMS
    flip(file, 8 * 200) if content is None else file.write_bytes(content)
    with pytest.raises(Damaged, match=f"{file} has another content than was written"):
        weights.original_ids(run, weights.load(run).facts)


def poison(checkpoint: Path, name: str, proof: Path) -> None:
    """Put an attack into a file, with the checksum that belongs to it."""
    path = checkpoint / name
    torch.save({**torch.load(path, weights_only=False), "lr_scheduler": Attack(proof)}, path)
    facts = CheckpointFacts.read(checkpoint)
    facts.files[name] = checkpoint_files.file_sha256(path)
    facts.write(checkpoint)


@pytest.mark.slow
def test_resume_of_damaged_and_of_foreign_runs(
    two_ranks: dict[int, Path], workplace: Path, cache: Path
) -> None:
    """Two ranks agree; what is not damaged continues bit for bit, and no file can make a rank run code."""
    whole, proof = two_ranks[2], workplace / "proof"
    damaged, foreign = cut(whole, workplace / "damaged"), cut(whole, workplace / "foreign")
    flip(damaged / "checkpoints" / NEW / "zero_pp_rank_1_mp_rank_00_optim_states.pt", 200_000)
    (damaged / "environment.json").write_text("")
    (damaged / "items.npy").write_bytes(b"")
    (damaged / "checkpoints" / checkpoint_files.BEST).write_bytes(b"\xff")
    lines = (damaged / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    lines.insert(3, b'\xff\x00{"step"\n')
    (damaged / "metrics.jsonl").write_bytes(b"".join(lines))
    poison(foreign / "checkpoints" / NEW, MODEL_STATES, proof)

    again = [["--run", str(run), "--resume"] for run in (damaged, foreign)]
    done, refused = runs.train_several(2, again, cache)
    assert done is None
    assert runs.losses(damaged) == runs.losses(whole)
    assert runs.results(damaged)["test"] == runs.results(whole)["test"]
    for name in ("environment.json", "metrics.jsonl", f"checkpoints/{NEW}"):
        path = damaged / name
        assert path.exists() and path.with_name(f"damaged-{path.name}").exists(), name
    assert weights.original_ids(damaged, weights.load(damaged).facts).size == 120

    assert "holds posix.mkdir, which is no tensor" in refused and not proof.exists()

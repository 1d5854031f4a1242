"""What happens around the steps: what is logged, when training stops, what is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mealrec import MealRecConfig
from tests.trainer import runs
from trainer.distributed import World
from trainer.errors import UserError
from trainer.metrics_file import read
from trainer.rank.callbacks import metrics_file
from trainer.rank.callbacks.base import Callback
from trainer.rank.callbacks.checkpointing import Checkpointing
from trainer.rank.callbacks.curves import draw
from trainer.rank.callbacks.evaluation import Evaluation
from trainer.rank.callbacks.log import Log
from trainer.rank.callbacks.results import table, unskilled
from trainer.rank.checkpoint import Checkpoints
from trainer.rank.loop import Loop, Progress
from trainer.rank.step import StepReport


class Recorder(Callback):
    """Records the events that it gets."""

    def __init__(self) -> None:
        self.records: list[dict] = []
        self.events: list[str] = []

    def on_log(self, loop: Loop, record: dict) -> None:
        self.records.append(record)

    on_evaluation = on_log

    def on_epoch_end(self, loop: Loop) -> None:
        self.events.append(f"epoch {loop.progress.epoch}")

    def on_error(self, loop: Loop, error: BaseException) -> None:
        self.events.append(f"error {error}")


class Numbers:
    """A stream of three global batches of 4 samples an epoch."""

    steps_per_epoch = 3

    def epoch(self, epoch: int, start_step: int = 0):
        return iter([[]] * (3 - start_step))

    def samples_until(self, epoch: int, step: int) -> int:
        return 4 * (3 * epoch + step)


def step(micro_batches: list, epoch: int, step: int) -> StepReport:
    if step == 7:
        raise RuntimeError("at step 7")
    return StepReport(
        loss=2.0,
        losses={"rec": 1.5, "npd": 0.5},
        samples=4,
        cells=40,
        real_cells=30,
        lr=0.1,
        grad_norm=1.0,
        seconds=0.01,
    )


def loop_of(*callbacks: Callback, epochs: int = 2, progress: Progress | None = None) -> Loop:
    return Loop(step, Numbers(), callbacks, progress or Progress(), epochs)


def test_loop_passes_over_the_data_and_can_start_in_mid_epoch() -> None:
    recorder = Recorder()
    loop = loop_of(Log(2), recorder)
    loop.run()
    assert (loop.progress.epoch, loop.progress.step, loop.progress.samples) == (2, 6, 24)
    assert recorder.events == ["epoch 1", "epoch 2"]
    assert [record["step"] for record in recorder.records] == [2, 4, 6]
    assert recorder.records[0]["padding"] == 0.25 and recorder.records[0]["loss_tcd"] == 0.0
    resumed = loop_of(progress=Progress(epoch=1, epoch_step=2, step=5, samples=20))
    resumed.run()
    assert resumed.progress.step == 6


def test_errors_reach_the_callbacks_and_the_caller() -> None:
    recorder = Recorder()
    with pytest.raises(RuntimeError, match="at step 7"):
        loop_of(recorder, epochs=3).run()
    assert recorder.events == ["epoch 1", "epoch 2", "error at step 7"]


def test_early_stopping_looks_at_the_best() -> None:
    scores = iter([0.1, 0.3, 0.2, 0.3, 0.25, 0.9])
    metrics = dict.fromkeys(("hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@20", "mrr"), 0.0)
    evaluation = Evaluation(lambda: {**metrics, "ndcg@10": next(scores)}, every_steps=1, patience=3)
    loop = loop_of(evaluation, epochs=2)
    loop.run()
    assert loop.progress.step == 5 and "3 evaluations without a better" in loop.progress.stopped
    assert evaluation.best["step"] == 2 and evaluation.improved(2)
    again = Evaluation(None, every_steps=1, patience=3)
    again.load_state_dict(json.loads(json.dumps(evaluation.state_dict())))
    assert again.state_dict() == evaluation.state_dict()


def test_the_end_is_evaluated_once() -> None:
    evaluation = Evaluation(lambda: {"ndcg@10": 0.5}, every_steps=4, patience=0)
    recorder = Recorder()
    loop_of(evaluation, recorder, epochs=2).run()
    assert [record["step"] for record in recorder.records] == [4, 6]


def test_a_failed_save_ends_the_run_at_the_next_step(tmp_path: Path) -> None:
    own = {"fingerprint": "", "items": "", "model": MealRecConfig(), "keep": 2, "seed": 0}
    checkpoints = Checkpoints(tmp_path, World(), **own)

    class FailingSave(Callback):
        def on_step(self, loop: Loop, report: StepReport) -> None:
            if loop.progress.step == 1:
                checkpoints._writer.save({}, str(tmp_path / "none" / "state.pt"))
                checkpoints._writer.start(lambda written: None)
                checkpoints._writer._thread.join()

    recorder = Recorder()
    checkpointing = Checkpointing(checkpoints, Evaluation(None, every_steps=0, patience=0), every_steps=0)
    loop = loop_of(recorder, checkpointing, FailingSave())
    with pytest.raises(UserError, match="none/state.pt cannot be written: No such file or directory"):
        loop.run()
    assert loop.progress.step == 2 and recorder.events[0].startswith("error ")


def test_metrics_lines_are_as_promised(one_rank: dict[str, Path]) -> None:
    steps = [record for record in runs.records(one_rank["whole"]) if "loss" in record]
    for record in steps:
        assert {"step", "epoch", "samples", "loss", "loss_rec", "loss_tcd", "loss_npd", "lr"} <= set(record)
        assert {"grad_norm", "samples_per_second"} <= set(record)
        total = record["loss_rec"] + 2 * record["loss_tcd"] + record["loss_npd"]  # the default weights
        assert record["loss"] == pytest.approx(total, rel=1e-6)
        assert record["loss_tcd"] > 0 and record["loss_npd"] > 0
    assert [record["step"] for record in steps] == list(range(1, runs.STEPS + 1))
    evaluations = [record for record in runs.records(one_rank["whole"]) if "split" in record]
    assert [record["split"] for record in evaluations] == ["valid"] * 3 + ["test"]
    assert not any("loss" in record for record in evaluations)


def test_run_directory_is_complete(one_rank: dict[str, Path]) -> None:
    run = one_rank["whole"]
    for name in (
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "results.json",
        "curves.png",
        "checkpoints",
    ):
        assert (run / name).exists(), name
    results = runs.results(run)
    metrics = {"hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr", "users"}
    assert set(results["valid"]) == set(results["test"]) == set(results["popularity"]) == metrics
    assert {"fingerprint", "seed", "world_size", "epochs", "seconds"} <= set(results)
    assert results["test"]["ndcg@10"] < results["oracle"]["ndcg@10"]
    shown = table(results)
    assert "popularity" in shown and "oracle" in shown and f"{results['test']['hr@10']:.4f}" in shown
    environment = json.loads((run / "environment.json").read_text())
    assert environment["fingerprint"] == results["fingerprint"] and environment["packages"]["torch"]


def test_a_denoiser_that_a_linear_map_beats_is_named() -> None:
    guards = {"npd_skill_low_linear": -3.0, "npd_skill_middle_linear": -0.25, "npd_skill_high_linear": -0.5}
    guards |= {"tcd_skill_middle_linear": 0.01, "tcd_skill_high_linear": 0.3}
    (line,) = unskilled(guards)
    assert (
        "NPD does not denoise: its error is above a linear map's by 25 % at middle and 50 % at high" in line
    )
    assert unskilled({}) == []


def test_cut_back_drops_what_came_after(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = [{"step": 1, "loss": 1}, {"step": 2, "loss": 2}, {"step": 2, "split": "valid"}]
    lines += [{"step": 2, "split": "test"}, {"step": 3, "loss": 3}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "lo')
    assert metrics_file.cut_back(file, 2) is None
    assert read(file) == lines[:3]
    assert metrics_file.cut_back(file, 0) is None
    assert file.read_text() == ""


@pytest.mark.parametrize("damaged", [b"\xff\xfe", b"[1, 2]", b'{"loss": 2}', b'{"step": 1, "los'])
def test_damaged_lines_cost_no_others(tmp_path: Path, damaged: bytes) -> None:
    file = tmp_path / "metrics.jsonl"
    content = b'{"step": 1}\n' + damaged + b'\n{"step": 2}\n{"step": 3}\n'
    file.write_bytes(content)
    assert "1 damaged lines left out; the old file is kept as damaged-" in metrics_file.cut_back(file, 2)
    assert read(file) == [{"step": 1}, {"step": 2}]
    assert (tmp_path / "damaged-metrics.jsonl").read_bytes() == content


def test_curves_are_a_picture(one_rank: dict[str, Path], tmp_path: Path) -> None:
    draw(one_rank["whole"] / "metrics.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    draw(tmp_path / "nothing.jsonl", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_diverged_run_stops_before_the_step(one_rank: dict[str, Path]) -> None:
    run = one_rank["diverged"]
    failure = (run / "failure").read_text()
    assert failure.startswith("NonFiniteError: loss")
    last = runs.records(run)[-1]["step"]
    assert f"at epoch 1, step {last + 1}: sample ids " in failure and "(user " in failure
    assert not list((run / "checkpoints").glob("step-*")) and not (run / "results.json").exists()
    assert (run / "curves.png").exists()

"""The derived DeepSpeed configuration, and a user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.trainer import runs
from trainer import ds_config
from trainer.batching import Batching
from trainer.config import TrainConfig
from trainer.errors import UserError

BATCHING = Batching(batch_size=256, micro_batch_size=64, accumulation=4, world_size=1)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_derived_config_is_one_that_deepspeed_takes(stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.config import DeepSpeedConfig

    derived = ds_config.derive(TrainConfig(zero_stage=stage, clip_norm=0.5), BATCHING, precision="bf16")
    actual = DeepSpeedConfig(json.loads(json.dumps(derived)), mesh_device=None)
    assert (actual.zero_optimization_stage, actual.gradient_clipping) == (stage, 0.5)
    assert actual.gradient_accumulation_steps == 4 and actual.train_micro_batch_size_per_gpu == 64
    # Without ZeRO, DeepSpeed's bf16 would wait for the device once a parameter.
    assert actual.bfloat16_config.enabled == (stage > 0)
    assert actual.torch_autocast_enabled == (stage == 0)
    assert stage or actual.torch_autocast_dtype == torch.bfloat16


def test_offload_needs_zero() -> None:
    with pytest.raises(UserError, match="needs --train.zero_stage 1, 2 or 3"):
        ds_config.derive(TrainConfig(offload_optimizer=True), BATCHING, precision="fp32")
    derived = ds_config.derive(TrainConfig(offload_optimizer=True, zero_stage=2), BATCHING, precision="fp32")
    assert ds_config.offloads_optimizer(derived)
    with pytest.raises(UserError, match="must be 0, 1, 2 or 3, not 4"):
        ds_config.derive(TrainConfig(zero_stage=4), BATCHING, precision="fp32")


def test_precision() -> None:
    assert ds_config.settle_precision("auto", on_gpu=True, has_bf16=True) == "bf16"
    assert ds_config.settle_precision("auto", on_gpu=False, has_bf16=True) == "fp32"
    assert ds_config.settle_precision("bf16", on_gpu=False, has_bf16=True) == "bf16"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object, not list"),
        ('{"zero_optimization": {"stage": "auto"}}', 'zero_optimization.stage is "auto"'),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "ds.json"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        ds_config.read_user_config(file)


def test_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        ds_config.read_user_config(tmp_path / "none.json")


def test_batch_of_a_users_json() -> None:
    train = TrainConfig(batch_size=512)
    both = {"train_micro_batch_size_per_gpu": 16, "gradient_accumulation_steps": 4}
    assert ds_config.user_batching(both, train, 2) == Batching(128, 16, 4, 2)
    assert ds_config.user_batching({"train_batch_size": 64}, train, 2) == Batching(64, 32, 1, 2)
    assert ds_config.user_batching({"gradient_accumulation_steps": 8}, train, 2) == Batching(512, 32, 8, 2)
    assert ds_config.user_batching({}, train, 2) == Batching(512, 128, 2, 2)
    with pytest.raises(UserError):
        ds_config.user_batching({"train_batch_size": 65, **both}, train, 2)


def test_only_typed_options_conflict() -> None:
    user = {
        "train_batch_size": 64,
        "optimizer": {"type": "AdamW", "params": {"lr": 0.002}},
        "zero_optimization": {"stage": 1},
    }
    ds_config.check_conflicts(user, {}, "a.json")
    ds_config.check_conflicts(
        user, {"train.lr": 0.002, "train.zero_stage": 1, "train.max_epochs": 3}, "a.json"
    )
    for name, value in (
        ("train.lr", 0.1),
        ("train.table_lr", 0.1),
        ("train.zero_stage", 2),
        ("train.batch_size", 128),
        ("train.clip_norm", 1.0),
        ("train.precision", "bf16"),
        ("train.decay", "cosine"),
        ("train.offload_optimizer", True),
    ):
        with pytest.raises(UserError, match=f"--{name} {value} conflicts with .* a.json"):
            ds_config.check_conflicts(user, {name: value}, "a.json")


def test_precision_of_a_users_json() -> None:
    for user, precision in (
        ({}, "fp32"),
        ({"bf16": {"enabled": True}}, "bf16"),
        ({"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}, "bf16"),
        ({"torch_autocast": {"enabled": True, "dtype": "float16"}}, "fp16"),
    ):
        ds_config.check_conflicts(user, {"train.precision": precision}, "a.json")
        with pytest.raises(UserError, match="--train.precision other conflicts with precision"):
            ds_config.check_conflicts(user, {"train.precision": "other"}, "a.json")


def test_users_json_is_what_trains(one_rank: dict[str, Path], workplace: Path) -> None:
    actual = json.loads((one_rank["own"] / "deepspeed.json").read_text())
    assert (actual["train_batch_size"], actual["optimizer"]["params"]["lr"]) == (64, 0.002)
    steps = [record for record in runs.records(one_rank["own"]) if "loss" in record]
    assert [record["lr"] for record in steps] == [0.002] * 7
    assert (workplace / "csv" / "own" / "train_loss.csv").read_text().count("\n") == 8

"""The DeepSpeed configuration of a run: derived from ours, or the user's own JSON as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.batching import Batching, resolve
from trainer.config import RunConfig, TrainConfig
from trainer.errors import UserError

# Communication buckets, in elements. DeepSpeed's default of 5e8 makes ZeRO-2 reserve 2 GB a rank for a model
# of any size.
LARGEST_BUCKET = 50_000_000


def derive(
    train: TrainConfig, batching: Batching, *, precision: str, run_dir: str | Path | None = None
) -> dict[str, Any]:
    """Return the JSON for `deepspeed.initialize`; it names no optimiser, which DeepSpeed would compile.

    Args:
        precision: "fp32" or "bf16" ("auto" is settled by `settle_precision`).
        run_dir: where TensorBoard's files go; None for none.

    Raises:
        UserError: for a combination that DeepSpeed does not have.
    """
    if train.zero_stage not in (0, 1, 2, 3):
        raise UserError(f"--train.zero_stage must be 0, 1, 2 or 3, not {train.zero_stage}")
    if train.offload_optimizer and train.zero_stage == 0:
        raise UserError("--train.offload_optimizer needs --train.zero_stage 1, 2 or 3")
    zero: dict[str, Any] = {"stage": train.zero_stage}
    if train.zero_stage:
        zero |= {
            "reduce_bucket_size": LARGEST_BUCKET,
            "allgather_bucket_size": LARGEST_BUCKET,
            "overlap_comm": False,
            "contiguous_gradients": train.zero_stage > 1,
        }
    if train.zero_stage == 3:
        # The parameters are small beside the item table: keep those below 10^4 elements whole.
        zero |= {"stage3_prefetch_bucket_size": LARGEST_BUCKET, "stage3_param_persistence_threshold": 10_000}
    if train.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    config: dict[str, Any] = {
        "train_batch_size": batching.batch_size,
        "train_micro_batch_size_per_gpu": batching.micro_batch_size,
        "gradient_accumulation_steps": batching.accumulation,
        "gradient_clipping": train.clip_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
    }
    if precision == "bf16" and train.zero_stage == 0:
        # Parameters in float32, products in bfloat16. DeepSpeed's own bf16 without ZeRO wraps the optimiser
        # in FP16_UnfusedOptimizer, where the host waits for the device once a parameter, and a step takes
        # twice the operators (`python -m bench.operators`).
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    elif precision == "bf16":
        # A step whose gradient is not finite is refused by the optimiser, and then ends the run.
        config["bf16"] = {"enabled": True, "check_grad_overflow": True}
    if train.tensorboard and run_dir is not None:
        config["tensorboard"] = {"enabled": True, "output_path": str(run_dir), "job_name": "tensorboard"}
    return config


def settle_precision(precision: str, *, on_gpu: bool, has_bf16: bool) -> str:
    """Return what "auto" means: bf16 on GPUs that have it, fp32 elsewhere. CPUs use bf16 where asked for."""
    if precision != "auto":
        return precision
    return "bf16" if on_gpu and has_bf16 else "fp32"


def read_user_config(path: str | Path) -> dict[str, Any]:
    """Read a DeepSpeed JSON file.

    Raises:
        UserError: the file cannot be read, is not a JSON object, or holds an "auto".
    """
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--deepspeed_config {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"--deepspeed_config {path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"--deepspeed_config {path} must hold a JSON object, not {type(config).__name__}")
    _refuse_auto(config, str(path))
    return config


def _refuse_auto(value: Any, path: str, name: str = "") -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_auto(inner, path, f"{name}.{key}" if name else key)
    elif value == "auto":
        raise UserError(
            f'--deepspeed_config {path}: {name} is "auto", which is Hugging Face\'s: give a value'
        )


def user_batching(
    user: Mapping[str, Any], train: TrainConfig, world_size: int, *, on_gpu: bool = False
) -> Batching:
    """Return the batch arithmetic of the user's JSON; `--train.batch_size` fills in what it leaves open."""
    total = user.get("train_batch_size", 0)
    micro = user.get("train_micro_batch_size_per_gpu", 0)
    accumulation = user.get("gradient_accumulation_steps", 0)
    if not total:
        total = micro * world_size * (accumulation or 1) if micro else train.batch_size
    return resolve(total, micro, world_size, accumulation, on_gpu=on_gpu)


def settle_user_config(user: Mapping[str, Any], batching: Batching, *, on_gpu: bool) -> dict[str, Any]:
    """Return the user's JSON with its batch equation completed; on the CPU its Adam needs no compiler."""
    config: dict[str, Any] = json.loads(json.dumps(user))
    config |= {
        "train_batch_size": batching.batch_size,
        "train_micro_batch_size_per_gpu": batching.micro_batch_size,
        "gradient_accumulation_steps": batching.accumulation,
    }
    optimizer = config.get("optimizer")
    if (
        optimizer
        and not on_gpu
        and optimizer.get("type", "").lower() in ("adam", "adamw")
        and not _offload_device(config)
    ):
        optimizer.setdefault("params", {}).setdefault("torch_adam", True)
    if not optimizer and config.get("zero_optimization", {}).get("stage", 0):
        config.setdefault("zero_allow_untested_optimizer", True)
    return config


def check_conflicts(user: Mapping[str, Any], explicit: Mapping[str, Any], path: str | Path) -> None:
    """Compare typed options (dotted name -> value) with the user's JSON.

    Raises:
        UserError: they contradict each other.
    """
    optimizer = user.get("optimizer", {}).get("params", {}) if user.get("optimizer") else None
    scheduled = bool(user.get("scheduler"))
    said: dict[str, tuple[str, Any]] = {
        "train.clip_norm": ("gradient_clipping", user.get("gradient_clipping", 0.0)),
        "train.precision": ("precision", _precision(user)),
        "train.zero_stage": ("zero_optimization.stage", zero_stage(user)),
        "train.offload_optimizer": ("zero_optimization.offload_optimizer", bool(_offload_device(user))),
    }
    if "train_batch_size" in user:
        said["train.batch_size"] = ("train_batch_size", user["train_batch_size"])
    if "train_micro_batch_size_per_gpu" in user:
        said["train.micro_batch_size"] = (
            "train_micro_batch_size_per_gpu",
            user["train_micro_batch_size_per_gpu"],
        )
    if optimizer is not None:
        said["train.lr"] = said["train.table_lr"] = ("optimizer.params.lr", optimizer.get("lr"))
        said["train.weight_decay"] = ("optimizer.params.weight_decay", optimizer.get("weight_decay"))
    if optimizer is not None or scheduled:
        said["train.warmup_steps"] = said["train.decay"] = ("scheduler", user.get("scheduler"))
        said.setdefault("train.table_lr", ("scheduler", user.get("scheduler")))
    for name, (field, value) in said.items():
        if name in explicit and explicit[name] != value:
            raise UserError(
                f"--{name} {explicit[name]} conflicts with {field} = {json.dumps(value)}"
                f" in --deepspeed_config {path}: give it in one place"
            )


def zero_stage(config: Mapping[str, Any]) -> int:
    """Return the ZeRO stage of a DeepSpeed configuration."""
    return int(config.get("zero_optimization", {}).get("stage", 0))


def offloads_optimizer(config: Mapping[str, Any]) -> bool:
    """Whether the optimiser state is in host memory."""
    return bool(_offload_device(config))


def _offload_device(config: Mapping[str, Any]) -> str:
    device = (config.get("zero_optimization", {}).get("offload_optimizer") or {}).get("device", "none")
    return "" if device == "none" else device


def casts_products(config: Mapping[str, Any]) -> bool:
    """Whether parameters are in float32 and only what is computed of them is narrower."""
    return bool(config.get("torch_autocast", {}).get("enabled"))


def _precision(config: Mapping[str, Any]) -> str:
    for name in ("bf16", "fp16"):
        if config.get(name, {}).get("enabled"):
            return name
    if casts_products(config):
        return "bf16" if "bf" in config["torch_autocast"].get("dtype", "bf16") else "fp16"
    return "fp32"


def engine_config(
    config: RunConfig, batching: Batching, *, on_gpu: bool, has_bf16: bool, run_dir: str | Path | None
) -> dict[str, Any]:
    """Return the dictionary for `deepspeed.initialize`, from whichever of the two sources the run names.

    Raises:
        UserError: for a combination that cannot be.
    """
    if config.deepspeed_config:
        engine = settle_user_config(read_user_config(config.deepspeed_config), batching, on_gpu=on_gpu)
    else:
        precision = settle_precision(config.train.precision, on_gpu=on_gpu, has_bf16=has_bf16)
        engine = derive(config.train, batching, precision=precision, run_dir=run_dir)
    if config.train.compile != "none" and zero_stage(engine) == 3:
        raise UserError("--train.compile needs ZeRO stage 0, 1 or 2: stage 3 gathers parameters in the pass")
    return engine


def settle_batching(config: RunConfig, world_size: int, *, on_gpu: bool) -> Batching:
    """Return how the run's global batch is divided among `world_size` ranks.

    Raises:
        UserError: it cannot be.
    """
    if config.deepspeed_config:
        user = read_user_config(config.deepspeed_config)
        return user_batching(user, config.train, world_size, on_gpu=on_gpu)
    return resolve(config.train.batch_size, config.train.micro_batch_size, world_size, on_gpu=on_gpu)

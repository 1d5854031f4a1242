"""The configuration of a run: nested dataclasses, one leaf for each option.

Every leaf carries its help text in `metadata["help"]`; the command line, the help and the YAML file are all
derived from these classes by `trainer.options`. A leaf is an int, float, bool, str, Optional of these, or a
Literal. Leaves with `metadata["saved"] = False` belong to one start, not to the run: its config.yaml does
not have them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from mealrec.config import MealRecConfig


def option(default: Any, help: str, *, saved: bool = True) -> Any:
    """Return a configuration leaf with its default and its help text."""
    return field(default=default, metadata={"help": help, "saved": saved})


@dataclass
class DataConfig:
    """The data set, and how it is read."""

    path: str | None = option(
        None, "data set directory or URL; none: the synthetic world in data/default, made once"
    )
    max_length: int = option(
        50, "longest input sequence, in positions; longer histories are cut into windows"
    )
    window_stride: int = option(
        0, "new targets from one window of a long history to the next; 0: half of max_length"
    )
    shuffle_window: int = option(
        128, "global batches among which length buckets are formed before their order is shuffled"
    )
    workers: int = option(0, "loader processes a rank; 0: load in the rank itself")
    cache_dir: str | None = option(
        None, "where the host-wide feature table is; none: $MEALREC_CACHE or ~/.cache/mealrec"
    )
    verify: bool = option(
        True,
        "compare cached features with their digest at each start; a damaged cache is filled again",
    )
    max_bad_shards: int = option(
        0, "sequence shards that may be unreadable, after several attempts: they are left out and counted"
    )
    feature_memory: Literal["auto", "host", "device"] = option(
        "auto", "where features are joined: in host memory, in device memory, or there if they fit (auto)"
    )


@dataclass
class RunDirConfig:
    """The run directory, and the ranks' watch over each other."""

    dir: str | None = option(None, "run directory; none: runs/<date-time>-<preset>", saved=False)
    host_timeout: float = option(
        60.0,
        "seconds without a sign of life of a rank, stopped or on a lost host, after which every rank ends;"
        " 0: wait forever",
    )
    stall_timeout: float = option(
        900.0,
        "seconds in which no rank gets on after which every rank ends, saves ten times; 0: wait forever",
    )


@dataclass
class TrainConfig:
    """Training: batches, optimiser, precision, checkpoints."""

    max_epochs: int = option(20, "passes over the training data at most")
    batch_size: int = option(512, "samples in a global batch: micro_batch_size x accumulation x ranks")
    micro_batch_size: int = option(
        0, "samples a rank computes at once; 0: an eighth of the batch, at least 128 (GPUs: 256), up to 1024"
    )
    lr: float = option(1e-3, "peak learning rate of AdamW")
    table_lr: float = option(0.0, "peak learning rate of the ID table; 0: lr")
    weight_decay: float = option(0.0, "decoupled weight decay of AdamW on matrices")
    table_decay: float = option(0.0, "decoupled weight decay of AdamW on the ID table")
    ema: float = option(
        0.0,
        "decay of an exponential moving average of the weights, which is then evaluated and kept as best;"
        " 0: none",
    )
    warmup_steps: int = option(0, "steps of linear warm-up from 0 to lr")
    decay: Literal["constant", "cosine", "linear"] = option(
        "constant", "learning rate after warm-up, down to 0 at the end"
    )
    clip_norm: float = option(5.0, "largest gradient norm, over all parameters; 0: no clipping")
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "auto: bf16 on GPUs that have it, fp32 elsewhere"
    )
    compile: Literal["none", "default"] = option(
        "none",
        "mode of torch.compile for the losses and their gradients; none: PyTorch's operators one by one",
    )
    zero_stage: int = option(
        0, "what ranks share: 0 nothing, 1 optimiser state, 2 and gradients, 3 and parameters"
    )
    offload_optimizer: bool = option(False, "keep the optimiser state in host memory (ZeRO 1 to 3)")
    nonfinite_budget: int = option(
        0, "batches with a loss or gradient that is not finite that are left out; one more ends the run"
    )
    log_every: int = option(10, "steps between two lines of metrics.jsonl")
    log_samples: bool = option(False, "write the sample ids of every step into samples.jsonl")
    save_every_steps: int = option(0, "steps between two checkpoints; 0: one at the end of each epoch")
    keep_checkpoints: int = option(2, "checkpoints kept besides the best one")
    patience: int = option(
        5, "evaluations without a better validation NDCG@10 before training stops; 0: never stop early"
    )
    tensorboard: bool = option(True, "write TensorBoard event files into the run directory")
    track: Literal["none", "wandb", "mlflow"] = option(
        "none", "send options, losses, evaluations and results to Weights & Biases or MLflow"
    )


@dataclass
class EvalConfig:
    """Evaluation during training and at its end."""

    batch_size: int = option(512, "users a rank ranks at once")
    mask_history: bool = option(True, "leave videos that the user has seen out of the ranking")
    every_steps: int = option(
        0, "steps between two evaluations on the validation split; 0: one at the end of each epoch"
    )
    valid_sampler_steps: int = option(2, "steps of the reverse chains in validation; 0: the full chain")
    test_sampler_steps: int = option(0, "steps of the reverse chains in the final test; 0: the full chain")
    chunk: int = option(0, "videos scored at once; 0: as many as bounded memory allows")


@dataclass
class RunConfig:
    """A whole run."""

    preset: str = option("default", "starting values: default, microlens, kuairand, ml100k or study")
    seed: int = option(0, "seed of weights, sample order, noise, dropout and negatives")
    num_gpus: int = option(
        0, "ranks: GPUs, or CPU ranks where there is no GPU; 0: all GPUs, or two CPU ranks"
    )
    hostfile: str | None = option(
        None, "train on several hosts by ssh: a file with a line `NAME slots=RANKS` a host", saved=False
    )
    resume: bool = field(
        default=False, metadata={"help": "continue the run in --run", "saved": False, "flag": True}
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "show what would be done and train nothing", "saved": False, "flag": True},
    )
    max_restarts: int = option(
        0, "times that the run is continued by itself when a rank, a GPU or a host is lost", saved=False
    )
    init_from: str | None = option(
        None,
        "run directory whose best weights and optimiser state are the start; videos matched by original id",
    )
    deepspeed_config: str | None = option(
        None, "a DeepSpeed JSON file of your own, in place of the derived one"
    )
    data: DataConfig = field(default_factory=DataConfig)
    run: RunDirConfig = field(default_factory=RunDirConfig)
    model: MealRecConfig = field(default_factory=MealRecConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

"""Command line, YAML and presets of the configuration."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from trainer import options, presets
from trainer.config import RunConfig
from trainer.errors import UserError


def test_every_leaf_has_help_a_known_type_and_a_default_of_it() -> None:
    actual = list(options.leaves(RunConfig))
    assert len({leaf.name for leaf in actual}) == len(actual) > 50
    for leaf in actual:
        default = options.get(RunConfig(), leaf.name)
        assert leaf.help and leaf.expected, leaf.name
        assert leaf.optional or leaf.parse(str(default)) == default, leaf.name


def test_overrides_reach_every_type() -> None:
    line = (
        "--train.lr 3e-4 --train.max_epochs=3 --model.tcd.enabled false --seed 7 --model.tcd.schedule cosine"
    )
    line += " --data.cache_dir none --no-mask-history --dry_run"
    config = options.parse([*line.split(), "--data", "a b"])
    assert (config.train.lr, config.train.max_epochs, config.seed) == (3e-4, 3, 7)
    assert (config.model.tcd.enabled, config.model.tcd.schedule) == (False, "cosine")
    assert (config.data.path, config.data.cache_dir) == ("a b", None)
    assert config.eval.mask_history is False and config.dry_run is True and config.resume is False


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--train.max_epoch", "3"],
            r"unknown option '--train.max_epoch'; did you mean --train.max_epochs\?",
        ),
        (["--lr", "3"], r"unknown option '--lr'; did you mean --train.lr\?"),
        (["--train.batch", "3"], r"did you mean --train.batch_size\?"),  # no abbreviations
        (["--zzzzzzzzzzz"], r"unknown option '--zzzzzzzzzzz'$"),
        (["--model.videos", "3"], "unknown option '--model.videos'"),  # the data set says how many there are
        (["evaluat"], "unknown word 'evaluat'"),
        (["--train.lr", "fast"], "--train.lr 'fast': expected NUMBER"),
        (["--train.lr", "nan"], "--train.lr 'nan': expected NUMBER"),
        (["--seed", "1.5"], "--seed '1.5': expected INT"),
        (["--train.tensorboard", "yes"], r"--train.tensorboard 'yes': expected true\|false"),
        (["--model.backbone.name", "bert"], r"expected sasrec\|gru4rec\|nextitnet"),
        (["--train.lr"], "expected one argument"),
        (["--preset", "movielens"], "unknown --preset 'movielens': there are default, study, microlens"),
        (["--resume"], "--resume needs --run"),
        (["--resume", "--run", "/nowhere"], "/nowhere holds no run: no config.yaml there"),
        (["--config", "/nowhere.yaml"], "configuration file /nowhere.yaml cannot be read: No such file"),
    ],
)
def test_mistakes_get_one_line(arguments: list[str], line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        options.parse(arguments)
    assert "\n" not in str(caught.value)


def test_precedence_preset_file_overrides(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: ml100k\ntrain: {lr: 1e-2, patience: 2}\n")
    config = options.parse(["--config", str(file), "--train.patience", "3"])
    assert config.data.max_length == presets.ml100k().data.max_length != RunConfig().data.max_length
    assert (config.train.lr, config.train.patience) == (1e-2, 3)
    config = options.parse(["--config", str(file), "--preset", "microlens"])
    assert (config.preset, config.data.max_length, config.train.lr) == ("microlens", 13, 1e-2)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_yaml_round_trip_is_exact(name: str, tmp_path: Path) -> None:
    config = presets.make(name)
    assert config.preset == name
    config.model.tcd.beta_start = 1.2345678901234567e-3
    config.data.path = "a: 'quoted' # path \u00e9"
    config.init_from = "none of these"
    file = tmp_path / "config.yaml"
    file.write_text(options.dump(config))
    assert dataclasses.asdict(options.load(file)) == dataclasses.asdict(config)


def test_what_belongs_to_one_start_is_not_saved(tmp_path: Path) -> None:
    config = options.parse(["--run", "x", "--dry_run"])
    config.resume = True
    file = tmp_path / "config.yaml"
    file.write_text(options.dump(config))
    loaded = options.load(file)
    assert (loaded.run.dir, loaded.resume, loaded.dry_run) == (None, False, False)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("train: {lrr: 1}", r"unknown key 'train.lrr'; did you mean train.lr\?"),
        ("trian: {lr: 1}", "unknown key 'trian'"),
        ("train: 3", "train must be a mapping of names to values, not 3"),
        ("- a", r"the file must be a mapping of names to values, not \['a'\]"),
        ("train: {lr: fast}", "train.lr is 'fast', expected NUMBER"),
        ("train: {lr: [1, 2]}", r"train.lr is \[1, 2\], expected NUMBER"),
        ("seed: null", "seed is None, expected INT"),
        ("seed: true", "seed is True, expected INT"),
        ("a: [", "is not YAML"),
    ],
)
def test_bad_files_get_one_line(text: str, line: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=line) as caught:
        options.parse(["--config", str(file)])
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_commands_as_data_come_from_the_command_line_alone(tmp_path: Path) -> None:
    command, file = "pipe:cat /set", tmp_path / "config.yaml"
    file.write_text(f"data: {{path: '{command}'}}\n")
    for arguments in (["--config", str(file)], ["--run", str(tmp_path), "--resume"]):
        with pytest.raises(UserError, match=f"{file}: data.path is the command '{command}'"):
            options.parse(arguments)
        assert options.parse([*arguments, "--data", command]).data.path == command
        assert options.parse([*arguments, "--data", "here"]).data.path == "here"


def test_help_names_every_option_with_its_default() -> None:
    text = options.build_parser().format_help()
    for leaf in options.leaves(RunConfig):
        assert (f"{leaf.option} " in text or f"{leaf.option}\n" in text) == (
            leaf.name not in options.FROM_DATA
        )
    assert "(default: 512)" in text and "true|false" in text and "--local_rank" not in text


def test_help_is_printed_by_the_first_rank_alone(monkeypatch, capsys) -> None:
    for rank, printed in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as caught:
            options.parse(["--local_rank=0", "--help"])
        assert caught.value.code == 0
        assert ("usage:" in capsys.readouterr().out) == printed

"""Command line and YAML file of a configuration, both derived from its dataclasses.

Values are decided in this order, later ones winning: preset, configuration file (`--config`, or the run's own
config.yaml with `--resume`), dotted overrides (`--train.lr 3e-4`, `--train.lr=3e-4`).
"""

from __future__ import annotations

import argparse
import difflib
import math
import os
import reprlib
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union

from shards.address import shown
from trainer import ds_config, files, presets, run_directory
from trainer.config import RunConfig
from trainer.errors import DONE, UserError

# The names of three leaves on the command line; they have no other.
ALIASES = {"data.path": "--data", "run.dir": "--run", "max_restarts": "--max-restarts"}
# Filled in by the data set: no options.
FROM_DATA = {
    "model.videos",
    "model.frames",
    "model.width",
    "model.max_length",
}

_DESCRIPTION = """Trains MealRec. Started as `./launch.sh` it makes its environment and data, starts the ranks
and evaluates; `deepspeed launch.sh` takes the same options. Other commands, each with its own --help:
`./launch.sh evaluate RUN`, `./launch.sh recommend RUN`, `./launch.sh export RUN`,
`./launch.sh submit WHERE -- OPTIONS`."""


@dataclass(frozen=True)
class Leaf:
    """One option: its dotted name, its type without Optional, and its metadata from the dataclass."""

    name: str
    kind: Any
    optional: bool
    help: str
    saved: bool
    flag: bool

    @property
    def option(self) -> str:
        """The option on the command line."""
        return ALIASES.get(self.name, f"--{self.name}")

    @property
    def expected(self) -> str:
        """What a value looks like, for help and errors."""
        if typing.get_origin(self.kind) is Literal:
            text = "|".join(map(str, typing.get_args(self.kind)))
        else:
            text = {bool: "true|false", int: "INT", float: "NUMBER", str: "TEXT"}[self.kind]
        return text + "|none" if self.optional and self.kind is not str else text

    def parse(self, text: str) -> Any:
        """Return the value that `text` spells.

        Raises:
            UserError: it is not a value of this leaf.
        """
        if self.optional and text.lower() in ("none", "null"):
            return None
        kind = self.kind
        try:
            if kind is str:
                return text
            if kind is bool:
                return {"true": True, "false": False}[text.lower()]
            if kind in (int, float):
                value = kind(text)
                if math.isfinite(value):
                    return value
            if text in map(str, typing.get_args(kind)):
                return next(choice for choice in typing.get_args(kind) if str(choice) == text)
        except (KeyError, ValueError):
            pass
        raise UserError(f"{self.option} {text!r}: expected {self.expected}")


def leaves(cls: type, prefix: str = "") -> Iterator[Leaf]:
    """Yield every leaf of a nested dataclass in order of declaration."""
    hints = typing.get_type_hints(cls)
    for f in fields(cls):
        kind, optional = hints[f.name], False
        if isinstance(kind, type) and is_dataclass(kind):
            yield from leaves(kind, f"{prefix}{f.name}.")
            continue
        if typing.get_origin(kind) in (Union, getattr(types, "UnionType", Union)):
            optional = type(None) in typing.get_args(kind)
            kind = next(k for k in typing.get_args(kind) if k is not type(None))
        about = f.metadata
        yield Leaf(
            prefix + f.name, kind, optional, about["help"], about.get("saved", True), about.get("flag", False)
        )


def get(config: Any, name: str) -> Any:
    """Return the value at a dotted name."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def put(config: Any, name: str, value: Any) -> None:
    """Set the value at a dotted name."""
    *groups, last = name.split(".")
    setattr(get(config, ".".join(groups)) if groups else config, last, value)


def nearest(name: str, known: Sequence[str]) -> str:
    """Return `; did you mean X?`, or nothing where no known name is near."""
    tail = name.rsplit(".", 1)[-1]
    same_leaf = [k for k in known if k.rsplit(".", 1)[-1].lstrip("-") == tail.lstrip("-")]
    near = same_leaf or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(message)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of a run's command line: one option per leaf, grouped as the dataclasses are."""
    defaults = RunConfig()
    parser = _Parser(
        prog="launch.sh", description=_DESCRIPTION, allow_abbrev=False, argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="./launch.sh [--preset NAME] [--data DIR] [--run DIR] [--resume] [--GROUP.NAME VALUE ...]",
    )  # fmt: skip
    run = parser.add_argument_group("run")
    run.add_argument("--config", metavar="FILE", help="YAML file of options, as a run's config.yaml")
    run.add_argument(
        "--local_rank", "--local-rank", help=argparse.SUPPRESS
    )  # added by DeepSpeed; the environment has it too
    groups = {"": run}
    for leaf in leaves(RunConfig):
        if leaf.name in FROM_DATA:
            continue
        group = "" if leaf.name in ALIASES else leaf.name.rpartition(".")[0]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        default = get(defaults, leaf.name)
        shown = str(default).lower() if isinstance(default, bool) or default is None else default
        text = f"{leaf.help} (default: {shown})".replace("%", "%%")
        about: dict[str, Any] = {
            "dest": leaf.name,
            "help": leaf.help.replace("%", "%%") if leaf.flag else text,
        }
        about.update({"action": "store_true"} if leaf.flag else {"metavar": leaf.expected})
        groups[group].add_argument(leaf.option, **about)
    groups["eval"].add_argument(
        "--no-mask-history", dest="eval.mask_history", action="store_const", const="false",
        help="short for --eval.mask_history false",
    )  # fmt: skip
    return parser


def parse(argv: Sequence[str]) -> RunConfig:
    """Return the configuration that a command line asks for.

    `--help` prints (on rank 0 alone where there are ranks) and exits 0.

    Raises:
        UserError: an unknown option (with the nearest name), a wrong value, an unknown preset, a bad
            configuration file.
    """
    parser = build_parser()
    if {"-h", "--help"} & set(argv) and os.environ.get("RANK", "0") != "0":
        sys.exit(DONE)
    given, unknown = parser.parse_known_args(list(argv))
    if unknown:
        name = unknown[0].split("=", 1)[0]
        known = [
            o for action in parser._actions for o in action.option_strings if action.help != argparse.SUPPRESS
        ]
        kind = "option" if name.startswith("-") else "word"
        raise UserError(f"unknown {kind} {name!r}{nearest(name, known)}")
    table = {leaf.name: leaf for leaf in leaves(RunConfig)}
    values = {
        name: table[name].parse(value) if isinstance(value, str) else value
        for name, value in vars(given).items()
        if name in table
    }

    file = getattr(given, "config", None)
    if values.get("resume"):
        if "run.dir" not in values:
            raise UserError("--resume needs --run DIR, the run to continue")
        if file:
            raise UserError("--resume takes the run's own config.yaml: leave --config out")
        file = Path(values["run.dir"]) / run_directory.CONFIG
        if not file.is_file():
            raise UserError(f"--resume: {values['run.dir']} holds no run: no {run_directory.CONFIG} there")
    if values.get("hostfile") and "num_gpus" in values:
        raise UserError("--num_gpus and --hostfile exclude each other: the ranks are the host file's slots")
    saved = read(file) if file else {}
    if values.get("resume") and (address := _kept_address(Path(values["run.dir"]), saved.get("data.path"))):
        saved["data.path"] = address
    if file and "data.path" not in values:
        refuse_command(saved.get("data.path"), file)
    config = presets.make(values.get("preset", saved.get("preset", "default")))
    for name, value in {**saved, **values}.items():
        put(config, name, value)
    if config.deepspeed_config:
        ds_config.check_conflicts(
            ds_config.read_user_config(config.deepspeed_config), values, config.deepspeed_config
        )
    return config


def refuse_command(data: str | None, file: str | Path) -> None:
    """Refuse a data set that is a command: a configuration file may be somebody else's.

    Raises:
        UserError: it is one.
    """
    if data is not None and data.startswith("pipe:"):
        raise UserError(
            f"{file}: data.path is the command {data!r}: commands are taken from the command line (--data)"
        )


def read(path: str | Path) -> dict[str, Any]:
    """Return the leaves that a YAML file sets, by dotted name.

    Raises:
        UserError: no such file, not YAML, an unknown key (with the nearest name), a wrong value.
    """
    import yaml

    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"configuration file {path} cannot be read: {error.strerror}") from None
    # ValueError and the others: of PyYAML's constructors, for a number or a date that is none.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise UserError(f"configuration file {path} is not YAML: {' '.join(str(error).split())}") from None
    table = {leaf.name: leaf for leaf in leaves(RunConfig)}
    values: dict[str, Any] = {}
    try:
        _flatten(tree if tree is not None else {}, "", table, values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return values


def _flatten(tree: Any, prefix: str, table: dict[str, Leaf], values: dict[str, Any]) -> None:
    if not isinstance(tree, dict):
        found = reprlib.repr(tree)  # short: a value may name itself many times over
        raise UserError(
            f"{prefix.rstrip('.') or 'the file'} must be a mapping of names to values, not {found}"
        )
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if name in table:
            # YAML 1.1 reads 1e-3 as text, so a value is judged by its spelling, as on the command line.
            leaf = table[name]
            try:
                if isinstance(value, (dict, list)) or (value is None and not leaf.optional):
                    raise UserError(f"expected {leaf.expected}")
                values[name] = value if value is None else leaf.parse(str(value))
            except UserError:
                found = reprlib.repr(value)
                raise UserError(f"{name} is {found}, expected {leaf.expected}") from None
        elif any(known.startswith(f"{name}.") for known in table):
            _flatten(value, f"{name}.", table, values)
        else:
            raise UserError(f"unknown key {name!r}{nearest(name, list(table))}")


def load(path: str | Path) -> RunConfig:
    """Return the configuration in a YAML file; what it leaves out has the default of its class.

    Raises:
        UserError: as `read`.
    """
    config = RunConfig()
    for name, value in read(path).items():
        put(config, name, value)
    return config


def save_run(run_dir: Path, config: RunConfig) -> None:
    """Write a run's configuration into its directory, credentials of the data set into a file of their own.

    Raises:
        UserError: they cannot be written.
    """
    data = config.data.path
    if data is not None and shown(data) != data:
        files.write_secret(run_dir / run_directory.ADDRESS, data)
    else:
        (run_dir / run_directory.ADDRESS).unlink(missing_ok=True)
    files.write_text(run_dir / run_directory.CONFIG, dump(config))


def load_run(run_dir: Path) -> RunConfig:
    """Return the configuration of a run.

    Raises:
        UserError: as `read`.
    """
    config = load(run_dir / run_directory.CONFIG)
    config.data.path = _kept_address(run_dir, config.data.path) or config.data.path
    return config


def _kept_address(run_dir: Path, data: object) -> str | None:
    """The address, credentials included, of which `data` is what may be shown; None where none is kept."""
    try:
        address = (run_dir / run_directory.ADDRESS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return address if shown(address) == data else None


def dump(config: RunConfig) -> str:
    """Return the configuration as YAML, without the leaves of one start only; `read` restores it exactly.

    Credentials in the address of the data set are left out.
    """
    import yaml

    tree: dict[str, Any] = {}
    for leaf in leaves(RunConfig):
        if leaf.saved:
            *groups, last = leaf.name.split(".")
            node = tree
            for group in groups:
                node = node.setdefault(group, {})
            value = get(config, leaf.name)
            node[last] = shown(value) if leaf.name == "data.path" and value is not None else value
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    return text

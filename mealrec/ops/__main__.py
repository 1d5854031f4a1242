"""`python -m mealrec.ops`: the state of the fused kernels on this machine, and building them in advance."""

from __future__ import annotations

import argparse
import logging
import sys

import torch

from mealrec.ops import build


def main(arguments: list[str] | None = None) -> int:
    """Run the command; exit code 0, or 1 where the library cannot be built."""
    parser = argparse.ArgumentParser(
        prog="python -m mealrec.ops",
        description="The fused kernels; they are built at first use, for this CPU and these GPUs.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="what is built, for what, and why not")
    ahead = commands.add_parser("build", help="build now, on a login node or into an image, say")
    ahead.add_argument("kind", choices=("cpu", "cuda"))
    ahead.add_argument(
        "--arch",
        default=",".join(build.AHEAD_OF_TIME),
        help="for cuda: GPU architectures, e.g. 80 for A100, 90 for H100 and H200 (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if options.command == "doctor":
        return doctor()
    architectures = tuple(options.arch.split(",")) if options.kind == "cuda" else ()
    try:
        print(build.library(options.kind, architectures))
    except build.Unavailable as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 1
    return 0


def doctor() -> int:
    """Print the state of both kernel libraries."""
    print(f"PyTorch   {torch.__version__}, CUDA {torch.version.cuda or 'none'}")
    print(f"cache     {build.cache()}")
    for kind in ("cpu", "cuda"):
        print(f"{kind:<9} {_state(kind)}")
    return 0


def _state(kind: str) -> str:
    try:
        architectures = build.visible_architectures() if kind == "cuda" else ()
        library = build.built(kind, architectures)
        target = (
            f"for {', '.join(f'sm_{arch}' for arch in architectures)}" if architectures else "for this CPU"
        )
        if library is not None:
            return f"built {target}: {library}"
        tools = ", ".join(build.compilers(kind).values())
        return f"not built yet {target}: it will be at first use, with {tools}"
    except build.Unavailable as reason:
        return f"off: {reason}; plain PyTorch is used"


if __name__ == "__main__":
    sys.exit(main())

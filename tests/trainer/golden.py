"""`python -m tests.trainer.golden` makes golden_losses.json anew, where losses are meant to change."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from shards import synthesise
from tests.trainer import runs


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        synthesise(folder / "data", users=400, videos=120, frames=3, width=8, seed=1)
        assert runs.train_several(1, [runs.words(folder / "run", folder / "data")], folder / "cache") == [
            None
        ]
        losses = [loss[1] for loss in runs.losses(folder / "run")[:20]]
    Path(__file__).with_name("golden_losses.json").write_text(json.dumps(losses, indent=1) + "\n")


if __name__ == "__main__":
    main()

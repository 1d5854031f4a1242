"""A rank whose checkpoint of one step is never written to its end.

RANK=0 WORLD_SIZE=2 ... python stuck_writer.py STEP OPTIONS
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from trainer.checkpoint_files import tag
from trainer.rank import main, writer


def main_with_stuck_writer(step: int, options: list[str]) -> None:
    def digest(path: Path) -> str:
        while path.parent.name.startswith(tag(step)):
            time.sleep(1)
        return whole(path)

    whole, writer.file_sha256 = writer.file_sha256, digest
    main.main(options)


if __name__ == "__main__":
    main_with_stuck_writer(int(sys.argv[1]), sys.argv[2:])

"""A rank that trains several runs in turn, since starting DeepSpeed takes longer than a small run.

    RANK=0 WORLD_SIZE=2 ... python several.py '[["--run", "a", ...], ["--run", "b", ...]]'

Each entry is the command line of a run. Rank 0 prints a line of JSON per run: null, or the error that ended it.
"""

from __future__ import annotations

import json
import sys

from trainer import distributed, options, prepare
from trainer.errors import is_mistake
from trainer.rank.main import train
from trainer.rank.nonfinite import NonFiniteError


def main() -> None:
    world = distributed.init()
    for arguments in json.loads(sys.argv[1]):
        failure = None
        config, lock = prepare.join(
            options.parse(arguments),
            is_main=world.is_main,
            world_size=world.size,
            on_gpu=world.on_gpu,
            broadcast=distributed.broadcast_object,
        )
        try:
            train(config, world)
        except Exception as error:
            if not is_mistake(error) and not isinstance(error, NonFiniteError):
                raise
            failure = f"{type(error).__name__}: {error}"
        if lock is not None:
            lock.release()
        if world.is_main:
            print(json.dumps(failure), flush=True)
    distributed.shutdown()


if __name__ == "__main__":
    main()

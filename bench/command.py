"""How a benchmark's command ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from trainer.errors import DONE, is_mistake, report


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a benchmark; a user's mistake, such as a missing data set, is one line and exit code 2."""
    try:
        main()
    except Exception as error:
        if not is_mistake(error):
            raise
        sys.exit(report(error))
    sys.exit(DONE)

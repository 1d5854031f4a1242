"""Arguments of a command line that must pass through shells unchanged."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

_ENCODED = "--encoded="


def encode(arguments: Sequence[str]) -> str:
    """Return the arguments as one that any shell leaves as it is.

    DeepSpeed passes arguments to the shells of other hosts without quotes.
    """
    return _ENCODED + base64.urlsafe_b64encode(json.dumps(list(arguments)).encode()).decode()


def decode(arguments: Sequence[str]) -> list[str]:
    """Return what the operator wrote, from the arguments that reach a rank."""
    decoded: list[str] = []
    for argument in arguments:
        if argument.startswith(_ENCODED):
            decoded += json.loads(base64.urlsafe_b64decode(argument[len(_ENCODED) :]))
        elif not argument.startswith("--local_rank="):  # added by DeepSpeed; the environment has it too
            decoded.append(argument)
    return decoded

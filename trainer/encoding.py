"""Words of a command line that must pass through shells unchanged."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

_ENCODED = "--encoded="


def encode(words: Sequence[str]) -> str:
    """The words of a command line as one that any shell leaves as it is: DeepSpeed hands them to remote ones
    without quotes.
    """
    return _ENCODED + base64.urlsafe_b64encode(json.dumps(list(words)).encode()).decode()


def decode(words: Sequence[str]) -> list[str]:
    """What the operator wrote, of the words that reach a rank."""
    found: list[str] = []
    for word in words:
        if word.startswith(_ENCODED):
            found += json.loads(base64.urlsafe_b64decode(word[len(_ENCODED) :]))
        elif not word.startswith("--local_rank="):  # added by DeepSpeed; the environment says it too
            found.append(word)
    return found

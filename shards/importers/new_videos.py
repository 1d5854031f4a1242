"""Videos that join a data set before anybody has watched them: a list of their original ids, one a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shards.errors import DataError
from shards.format.columns import Ids


def with_new_videos(item_ids: Ids, path: Path | None) -> Ids:
    """`item_ids`, and after them those of the list that they do not have, in its order.

    Raises:
        DataError: the list cannot be read, or has an id of another kind than the log's.
    """
    if path is None:
        return item_ids
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8: {error}"
        raise DataError(f"--new-videos {path}: not readable: {reason}") from None
    named = {line.strip(): number for number, line in enumerate(lines, start=1) if line.strip()}
    if not isinstance(item_ids, np.ndarray):
        known = set(item_ids)
        return [*item_ids, *(text for text in named if text not in known)]
    numbers = {_number(text, line, path): None for text, line in named.items()}
    new = np.array([*numbers], np.int64)
    return np.concatenate([item_ids, new[~np.isin(new, item_ids)]])


def _number(text: str, line: int, path: Path) -> int:
    try:
        return int(np.int64(text))
    except (ValueError, OverflowError):
        raise DataError(
            f"--new-videos {path}: line {line}: found {text!r:.60}, expected a whole number, as the log's ids"
        ) from None


def check_new_videos(path: Path | None, features: Path | None) -> None:
    """Before the log is read: raise DataError for a list that is not there, or one without features."""
    if path is not None and features is None:
        raise DataError("--new-videos: needs --features: of videos nobody has watched nothing else is known")
    if path is not None and not path.is_file():
        raise DataError(f"--new-videos {path}: no such file")

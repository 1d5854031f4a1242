"""The videos that a model knows, by their original ids.

Ids are compared by their text: 17 in a Parquet file, "17" in JSON and 17 in a CSV file are the same video.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from trainer.errors import UserError

Id = int | str


class Catalogue:
    """Original ids of videos 1..I, an int64 or a text array [I], and their numbers."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids
        self._number = {str(original): number for number, original in enumerate(ids.tolist(), start=1)}

    def __len__(self) -> int:
        return len(self.ids)

    def number(self, original: Id) -> int:
        """Return the number of a video, 0 where it is unknown."""
        return self._number.get(str(original), 0)

    def hidden(self, allow: Iterable[Id] | None, deny: Iterable[Id] | None) -> np.ndarray | None:
        """Return which videos are never recommended, bool [I]; None where all may be. Unknown ids do nothing.

        allow: only these are; None for all. deny: these are not.

        Raises:
            UserError: no video is left.
        """
        if allow is None and deny is None:
            return None
        hidden = np.full(len(self) + 1, allow is not None)  # element 0 is for unknown ids
        hidden[[self.number(original) for original in allow or ()]] = False
        hidden[[self.number(original) for original in deny or ()]] = True
        if hidden[1:].all():
            raise UserError(f"allow and deny leave none of the {len(self)} videos to recommend")
        return hidden[1:]


def read_ids(option: str, file: str) -> list[str]:
    """Return the ids of a text file, one a line, without empty lines.

    Raises:
        UserError: it cannot be read.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{option} {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{option} {file} is not text in UTF-8") from None
    return [line.strip() for line in lines if line.strip()]


def unknown_ids(catalogue: Catalogue, ids: Sequence[Id]) -> list[Id]:
    """Return the ids that are no video of the catalogue."""
    return [original for original in ids if not catalogue.number(original)]

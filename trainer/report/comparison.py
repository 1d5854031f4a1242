"""The runs of a page side by side: what all sections read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trainer.report.recommended import Recommended
from trainer.report.run_facts import RunFacts


@dataclass(frozen=True)
class Comparison:
    """Runs in the order of the command line, the first of which the others are compared with.

    split: of the users, "valid" or "test". recommended: by the number of a run; unranked: why a run has
    none. pictures: addresses of the frames of videos, by original id.
    """

    runs: Sequence[RunFacts]
    split: str
    recommended: dict[int, Recommended] = field(default_factory=dict)
    unranked: dict[int, str] = field(default_factory=dict)
    pictures: dict[str, list[str]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """What the page calls the runs."""
        return [run.name for run in self.runs]

    def refusal(self, number: int) -> str:
        """Return why a run's users are not compared with those of the first; empty where they are."""
        first, other = self.runs[0], self.runs[number]
        if first.fingerprint != other.fingerprint:
            return f"{other.name} is on another data set than {first.name}: their users are not compared."
        if first.ranks is None or other.ranks is None:
            return ""  # that the ranks are missing is said once for each run
        if not other.ranks.user.equals(first.ranks.user):
            return f"{other.name} was evaluated on other users than {first.name}: they are not compared."
        return ""

    def comparable(self) -> list[int]:
        """Return the numbers of the runs whose users are compared with those of the first."""
        others = range(1, len(self.runs))
        return [n for n in others if self.runs[n].ranks and self.runs[0].ranks and not self.refusal(n)]

"""What this machine has for a run."""

from __future__ import annotations

import pytest

from trainer.errors import UserError
from trainer.launch import machine


def test_ranks_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [machine.ranks(0, 0), machine.ranks(3, 0)] == [min(2, machine.cores()), 3]
    assert [machine.ranks(0, 8), machine.ranks(2, 8)] == [8, 2]
    with pytest.raises(UserError, match="--num_gpus 9: this machine has 8 GPUs"):
        machine.ranks(9, 8)
    monkeypatch.setattr(machine, "cores", lambda: 1)
    assert machine.ranks(0, 0) == 1

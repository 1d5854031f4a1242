"""Heartbeats between the ranks.

A process that is stopped, a link that is cut or a host that loses its power sends nothing: gloo and NCCL wait
for it forever, and so would every rank. So each rank writes a heartbeat every few seconds to a store on rank
0's host. Rank 0 watches all others, the others watch rank 0, and a rank that sees no new heartbeat in time
ends its process.

A short timeout of the collectives is no substitute: ranks rightly wait for minutes where rank 0 alone has
work, and DeepSpeed's own process groups ignore it.
"""

from __future__ import annotations

import socket
import threading
import time
from datetime import timedelta

from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]  # a star export

from trainer import distributed
from trainer.rank.parent_watch import end_hung_rank

BEATS_PER_TIMEOUT = 6


class Heartbeat:
    """The heartbeat of one rank, and its watch over others: `lost` says what was lost, `start` acts on it."""

    def __init__(self, store: Store, hosts: list[str], rank: int, timeout: float) -> None:
        """Write the first heartbeat.

        Args:
            store: which all ranks share.
            hosts: the host name of each rank.
            timeout: seconds without a new heartbeat after which a rank is lost.
        """
        self._store, self._hosts, self._rank, self._timeout = store, hosts, rank, timeout
        self._period = timeout / BEATS_PER_TIMEOUT
        others = range(1, len(hosts)) if rank == 0 else (0,)
        self._last = {other: (b"", time.monotonic()) for other in others}  # beat, when it was new
        self._gone = ""
        self._stopped = threading.Event()
        self._write(0)

    def start(self) -> None:
        """Beat and watch from threads, which end this process when another rank is lost.

        To be called once every rank has written its first heartbeat.
        """
        for target in (self._beat, self._watch):
            threading.Thread(target=target, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """Stop beating and watching."""
        self._stopped.set()

    def lost(self) -> str:
        """Return what is lost, as a sentence; empty while all is well."""
        now = time.monotonic()
        ages = {rank: now - seen for rank, (_, seen) in list(self._last.items())}
        # A heartbeat may be a period old when the link is cut.
        silent = sorted(rank for rank, age in ages.items() if age > self._timeout - self._period)
        if self._gone or not silent:
            return self._gone
        hosts = ", ".join(dict.fromkeys(self._hosts[rank] for rank in silent))
        ranks = ", ".join(map(str, silent[:8])) + (", ..." if len(silent) > 8 else "")
        return f"no sign of life of {hosts} (rank {ranks}) for {max(ages.values()):.0f} s"

    def _write(self, beat: int) -> None:
        self._store.set(f"alive/{self._rank}", str(beat))

    def _beat(self) -> None:
        """Apart from `_watch`: where a link is cut, a call of the store never comes back."""
        beat = 0
        others = list(self._last)
        while not self._stopped.wait(self._period):
            beat += 1
            try:
                self._write(beat)
                beats = self._store.multi_get([f"alive/{other}" for other in others])
            except RuntimeError:  # the store went away, and with it rank 0
                self._gone = f"rank 0 on {self._hosts[0]} is gone"
                return
            now = time.monotonic()
            for other, new in zip(others, beats, strict=True):
                if new != self._last[other][0]:
                    self._last[other] = (new, now)

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._period)):
            lost = self.lost()
            if lost and not self._stopped.is_set():
                end_hung_rank(lost)


def start(world: distributed.World, timeout: float) -> Heartbeat | None:
    """Return the heartbeat of this rank, started; every rank calls this.

    None where there is no other rank, or with a `timeout` of 0.
    """
    if not timeout or world.size == 1:
        return None
    hosts = distributed.gather_objects(socket.gethostname())
    address, wait = distributed.master_address(), timedelta(seconds=timeout)
    if world.is_main:
        store = TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=wait)
        distributed.broadcast_object(store.port)
    else:
        store = TCPStore(address, distributed.broadcast_object(0), is_master=False, timeout=wait)
    heartbeat = Heartbeat(store, hosts, world.rank, timeout)
    distributed.barrier()  # every rank has written its first heartbeat
    heartbeat.start()
    return heartbeat


def stop(heartbeat: Heartbeat | None) -> None:
    """Stop the heartbeat at the end of a run: all ranks do, before rank 0, which has the store, may leave."""
    if heartbeat is not None:
        heartbeat.stop()
        distributed.barrier()

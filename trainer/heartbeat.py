"""Signs of life between the ranks of several hosts.

A link that is cut, or a host that loses its power, sends nothing: gloo and NCCL wait for it for ever, and so
would every rank. So each rank says every few seconds in a store on rank 0's host that it lives. Rank 0 looks
for all others, the others look for rank 0, and a rank that misses a sign for too long ends its process.

A short timeout of the collectives would not do: ranks rightly wait for minutes where rank 0 alone has work,
and DeepSpeed's own process groups ignore it.
"""

from __future__ import annotations

import socket
import threading
import time
from datetime import timedelta

import torch.distributed as torch_dist

from trainer import dist, watch

SIGNS_PER_TIMEOUT = 6  # as often as a rank says that it lives


class Heartbeat:
    """Of one rank. `lost()` tells when it is time to end; `start` sees to that."""

    def __init__(self, store: torch_dist.Store, hosts: list[str], rank: int, timeout: float) -> None:
        """
        Args:
            store: which all ranks share.
            hosts: of each rank, its host's name.
            timeout: seconds within which a rank that gives no more sign is found to be lost.
        """
        self._store, self._hosts, self._rank, self._timeout = store, hosts, rank, timeout
        self._period = timeout / SIGNS_PER_TIMEOUT
        others = range(1, len(hosts)) if rank == 0 else (0,)
        self._last = {other: (b"", time.monotonic()) for other in others}  # sign, when it was new
        self._gone = ""
        self._stopped = threading.Event()
        self._say(0)

    def start(self) -> None:
        """Once every rank has been made: say signs, and end this process when another's do not come."""
        for target in (self._beat, self._watch):
            threading.Thread(target=target, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """From now on nobody is missed."""
        self._stopped.set()

    def lost(self) -> str:
        """What is lost, in words; empty while all is well."""
        now = time.monotonic()
        ages = {rank: now - seen for rank, (_, seen) in list(self._last.items())}
        # A sign may be a period old when the link is cut.
        silent = sorted(rank for rank, age in ages.items() if age > self._timeout - self._period)
        if self._gone or not silent:
            return self._gone
        hosts = ", ".join(dict.fromkeys(self._hosts[rank] for rank in silent))
        ranks = ", ".join(map(str, silent[:8])) + (", ..." if len(silent) > 8 else "")
        return f"no sign of life of {hosts} (rank {ranks}) for {max(ages.values()):.0f} s"

    def _say(self, sign: int) -> None:
        self._store.set(f"alive/{self._rank}", str(sign))

    def _beat(self) -> None:
        """Apart from `_watch`: where a link is cut, a call of the store never comes back."""
        sign = 0
        others = list(self._last)
        while not self._stopped.wait(self._period):
            sign += 1
            try:
                self._say(sign)
                heard = self._store.multi_get([f"alive/{other}" for other in others])
            except RuntimeError:  # the store went away, and with it rank 0
                self._gone = f"rank 0 on {self._hosts[0]} is gone"
                return
            now = time.monotonic()
            for other, new in zip(others, heard, strict=True):
                if new != self._last[other][0]:
                    self._last[other] = (new, now)

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._period)):
            lost = self.lost()
            if lost and not self._stopped.is_set():
                watch.end_rank(lost)


def start(world: dist.World, timeout: float) -> Heartbeat | None:
    """The heartbeat of this rank, started; None where all ranks are on one host, whose launcher sees them, or
    with a `timeout` of 0. Every rank calls this.
    """
    hosts = dist.gather_objects(socket.gethostname())
    if not timeout or len(set(hosts)) == 1:
        return None
    address, store = dist.master_address(), None
    wait = timedelta(seconds=timeout)
    if world.is_main:
        store = torch_dist.TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=wait)
    port = dist.broadcast_object(store.port if store else None)
    if store is None:
        store = torch_dist.TCPStore(address, port, is_master=False, timeout=wait)
    heartbeat = Heartbeat(store, hosts, world.rank, timeout)
    dist.barrier()  # every rank has given its first sign
    heartbeat.start()
    return heartbeat


def stop(heartbeat: Heartbeat | None) -> None:
    """At the end of a run: every rank stops before rank 0, which holds the store, may leave."""
    if heartbeat is not None:
        heartbeat.stop()
        dist.barrier()

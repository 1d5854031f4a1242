"""Two hosts on one machine, n1 and n2: network namespaces joined by a bridge.

Each has its own host name, processes, shared memory and ssh server. Needs root and Debian's iproute2,
openssh-server and pdsh.

    python -m tests.cluster.hosts COMMAND ...     # runs COMMAND on n1 while both hosts are up

Traffic stays within the namespaces.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

NAMES = ("n1", "n2")
NEEDED = {"ip": "iproute2", "sshd": "openssh-server", "ssh": "openssh-client", "pdsh": "pdsh"}
_SYSTEM_PATH = "/usr/sbin:/sbin:"


def missing(programs: dict[str, str] = NEEDED) -> str:
    """What keeps this machine from having such hosts, in words; empty if nothing does."""
    if os.geteuid() != 0:
        return "several hosts need root"
    path = _SYSTEM_PATH + os.environ.get("PATH", "")
    absent = [package for program, package in programs.items() if shutil.which(program, path=path) is None]
    if absent:
        return f"several hosts need Debian's {', '.join(sorted(set(absent)))}"
    name = f"mealrec-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, env=environment())
    if tried.returncode:
        return f"no network namespace can be made: {tried.stderr.strip()}"
    _run("ip", "netns", "del", name)
    return ""


class Hosts:
    """The two hosts, up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tag = f"mr{os.getpid()}"
        self._servers: dict[str, subprocess.Popen] = {}

    def up(self) -> None:
        """Make the network and start both hosts."""
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "key"))
        shutil.copy(self.folder / "key.pub", self.folder / "authorized_keys")
        Path("/run/sshd").mkdir(exist_ok=True)
        _run("ip", "netns", "add", self._switch)
        self.ip(self._switch, "link add br0 type bridge")
        self.ip(self._switch, "link set br0 up")
        for name in NAMES:
            space = self._space(name)
            _run("ip", "netns", "add", space)
            self.ip(space, f"link add eth0 type veth peer name {name} netns {self._switch}")
            self.ip(space, f"addr add {address(name)}/24 dev eth0")
            for link in ("lo", "eth0"):
                self.ip(space, f"link set {link} up")
            self.ip(self._switch, f"link set {name} master br0 up")
            self._write_etc(space)
            self.boot(name)

    def boot(self, name: str) -> None:
        """Start the host's ssh server, the first process of its namespaces, and wait until it answers."""
        server = (
            f"hostname {name}; mount -t tmpfs shm /dev/shm; exec /usr/sbin/sshd -D -e -f /dev/null"
            f" -h {self.folder}/key -o ListenAddress={address(name)} -o PermitRootLogin=yes -o UsePAM=no"
            f" -o AuthorizedKeysFile={self.folder}/authorized_keys -o StrictModes=no -o MaxStartups=50"
        )
        self._servers[name] = subprocess.Popen(
            ["ip", "netns", "exec", self._space(name), "unshare", "--uts", "--ipc", "--pid", "--mount"]
            + ["--fork", "--kill-child", "--mount-proc", "bash", "-c", server],
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / f"{name}.log").open("ab"),
            stdin=subprocess.DEVNULL,
            env=environment(),
        )
        deadline = time.monotonic() + 20
        while not self._answers(name):
            if time.monotonic() > deadline:
                log = (self.folder / f"{name}.log").read_text()
                raise RuntimeError(f"{name}'s ssh server does not answer: {log[-500:]}")
            time.sleep(0.05)

    def shut_down(self, name: str) -> None:
        """The host loses its power: its link goes first, so that its processes' end is not heard."""
        self.cut(name)
        server = self._servers.pop(name, None)
        if server is not None:
            server.kill()  # --kill-child: with it goes the host's first process, and with that all others
            server.wait()

    def cut(self, name: str) -> None:
        """Pull the host's cable out: packets are lost, without any error."""
        self.ip(self._switch, f"link set {name} nomaster")

    def mend(self, name: str) -> None:
        """Put it back."""
        self.ip(self._switch, f"link set {name} master br0")

    def down(self) -> None:
        """End every process on both hosts and remove the network."""
        for name in NAMES:
            with contextlib.suppress(subprocess.CalledProcessError):
                self.shut_down(name)
        for space in (self._switch, *map(self._space, NAMES)):
            subprocess.run(["ip", "netns", "del", space], env=environment(), stderr=subprocess.DEVNULL)
            shutil.rmtree(f"/etc/netns/{space}", ignore_errors=True)

    def start(self, name: str, command: list[str], **options: object) -> subprocess.Popen:
        """Start a command on a host, in this directory."""
        pid = str(self._first(self._servers[name]))
        enter = ["nsenter", "-t", pid, "-n", "-m", "-u", "-i", "-p", f"--wdns={os.getcwd()}"]
        options.setdefault("env", environment())
        return subprocess.Popen([*enter, *command], stdin=subprocess.DEVNULL, **options)

    def run(
        self, name: str, command: list[str], timeout: float = 60, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess:
        """Run a command on a host to its end."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = self.start(name, command, env=env or environment(), **pipes)
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(command, process.returncode, output)

    def processes(self, name: str, text: str) -> list[int]:
        """The pids, as the host sees them, of its processes whose command line has `text` in it."""
        code = (
            "import psutil, sys\n"
            "for p in psutil.process_iter(['pid', 'cmdline']):\n"
            "    line = ' '.join(p.info['cmdline'] or [])\n"
            "    if sys.argv[1] in line and 'psutil' not in line: print(p.info['pid'])"
        )
        return [
            int(argument) for argument in self.run(name, [sys.executable, "-c", code, text]).stdout.split()
        ]

    def ip(self, space: str, arguments: str) -> None:
        """`ip -n SPACE WORDS`."""
        _run("ip", "-n", space, *arguments.split())

    @property
    def _switch(self) -> str:
        return f"{self.tag}sw"

    def _space(self, name: str) -> str:
        return f"{self.tag}{name}"

    def _write_etc(self, space: str) -> None:
        """What `ip netns exec` lays over /etc: who the hosts are, and how ssh reaches them."""
        etc = Path("/etc/netns") / space
        (etc / "ssh").mkdir(parents=True)
        lines = ["127.0.0.1 localhost", *(f"{address(name)} {name}" for name in NAMES)]
        (etc / "hosts").write_text("\n".join(lines) + "\n")
        (etc / "ssh" / "ssh_config").write_text(
            f"Host *\n  IdentityFile {self.folder}/key\n  StrictHostKeyChecking no\n"
            "  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
        )

    def _first(self, server: subprocess.Popen) -> int:
        """The host's first process, by its pid outside."""
        return int(Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()[0])

    def _answers(self, name: str) -> bool:
        command = ["ip", "netns", "exec", self._space(name), "bash", "-c", f"</dev/tcp/{address(name)}/22"]
        return not subprocess.run(command, stderr=subprocess.DEVNULL, env=environment()).returncode


def address(name: str) -> str:
    """Of a host."""
    return f"10.77.0.{NAMES.index(name) + 1}"


@contextlib.contextmanager
def hosts() -> Iterator[Hosts]:
    """Both hosts, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="mealrec-hosts-") as folder:
        both = Hosts(Path(folder))
        try:
            both.up()
            yield both
        finally:
            both.down()


def environment() -> dict[str, str]:
    """This process's, with the folders of the system's programs on the PATH."""
    return {**os.environ, "PATH": _SYSTEM_PATH + os.environ.get("PATH", "")}


def _run(*command: str) -> None:
    subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    reason = missing()
    if reason:
        sys.exit(f"error: {reason} (on {socket.gethostname()})")
    with hosts() as both_hosts:
        sys.exit(both_hosts.start(NAMES[0], sys.argv[1:]).wait())

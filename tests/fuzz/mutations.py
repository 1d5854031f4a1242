"""Changes to the bytes of an input, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

NUMBERS = (0, 1, -1, 127, 128, 255, 2**15, 2**31 - 1, -(2**31), 2**31, 2**32, 2**62, 2**63 - 1, -(2**63))
TOKENS = (
    *(bytes([c]) for c in b"\0\n\r\t,\"'[]{}:=-/\xff"),
    *(b"[" * 300, b"../", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"0.5", b"true", b"null"),
    *(b"9" * 30, b"9" * 5000, b"x" * 5000, b"\xfe\xff", b"\xef\xbb\xbf", b"\xe2\x80\xae", b"\\ud800"),
    *(b"\x1b[2J", b"&a", b"*a", b"!!"),
)


def mutate(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """The content after one to four changes; `others` are inputs of the same kind, to mix it with."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        rng.choice(CHANGES)(rng, changed, others)
    return bytes(changed)


def _span(rng: random.Random, content: bytearray) -> slice:
    start = rng.randrange(len(content) + 1)
    return slice(start, start + rng.choice((1, 1, 2, 4, 8, rng.randrange(len(content) + 1))))


def _flip(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _write(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    if content:
        content[rng.randrange(len(content))] = rng.randrange(256)


def _delete(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    del content[_span(rng, content)]


def _repeat(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    part = bytes(content[_span(rng, content)][:4096])
    at = rng.randrange(len(content) + 1)
    content[at:at] = part * rng.choice((1, 1, 2, 50))


def _cut(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    del content[rng.randrange(len(content) + 1) :]


def _number(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    number, at = rng.choice(NUMBERS), rng.randrange(len(content) + 1)
    if rng.random() < 0.5:
        content[_span(rng, content)] = str(number).encode()
    else:
        width = rng.choice((2, 4, 8))
        order = rng.choice(("little", "big"))
        content[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, order)


def _token(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    at = rng.randrange(len(content) + 1)
    content[at : at + rng.choice((0, 0, 1, 5))] = rng.choice(TOKENS)


def _splice(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    other = bytearray(rng.choice(others))
    content[_span(rng, content)] = other[_span(rng, other)]


def _swap(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    one, other = _span(rng, content), _span(rng, content)
    content[one], content[other] = content[other], content[one]


CHANGES: tuple[Callable[[random.Random, bytearray, Sequence[bytes]], None], ...] = (
    _flip, _write, _delete, _repeat, _cut, _number, _token, _splice, _swap,
)  # fmt: skip

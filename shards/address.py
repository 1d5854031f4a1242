"""The addresses of data sets, and what of them may be shown: credentials stay out of messages and files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

HIDDEN = "***"
SHORTEST = 4  # characters of a secret: shorter ones would be found in any text
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>()]+")


def is_remote(path: str | Path) -> bool:
    """Whether `path` is a URL (`s3://`, `https://`, ...) or a `pipe:` command, not a local directory."""
    text = str(path)
    return text.startswith("pipe:") or "://" in text


def address_of(base: str, file: str) -> str:
    """The address of a file of the data set at `base`."""
    if not base.startswith("pipe:"):
        url, mark, query = base.partition("?") if "://" in base else (base, "", "")
        return f"{url.rstrip('/')}/{file}{mark}{query}"
    quoted = shlex.quote(file)
    return base.replace("{}", quoted) if "{}" in base else f"{base.rstrip('/')}/{quoted}"


def shown(address: str) -> str:
    """An address for people: without user names, passwords, the values of a query, and a command's arguments.

    A local path stays as it is.
    """
    if address.startswith("pipe:"):
        program, *arguments = address.removeprefix("pipe:").split(maxsplit=1) or [""]
        return "pipe:" + " ".join([HIDDEN if "=" in program else program, *([HIDDEN] if arguments else [])])
    if "://" not in address:
        return address
    try:
        url = urlsplit(address)
    except ValueError:  # such as a bracket that is not closed
        return address.partition("://")[0] + "://" + HIDDEN
    _, at, host = url.netloc.rpartition("@")
    names = [name for name, _ in parse_qsl(url.query, keep_blank_values=True)]
    query = "&".join(f"{name}={HIDDEN}" for name in names)
    return urlunsplit((url.scheme, f"{HIDDEN}@{host}" if at else host, url.path, query, ""))


def hide(text: str, address: str | None = None) -> str:
    """A text without the credentials of the URLs in it, and of `address` in whatever form they occur."""
    if address is not None:
        text = text.replace(address, shown(address))
        for secret in sorted(_secrets(address), key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
    return _URL.sub(lambda match: shown(match[0]), text)


def _secrets(address: str) -> set[str]:
    """What `shown` leaves out, as it is and as URLs spell it."""
    if address.startswith("pipe:"):
        found = {address.removeprefix("pipe:")}
    elif "://" in address:
        try:
            url = urlsplit(address)
        except ValueError:
            return {address.partition("://")[2]}
        user, _, _ = url.netloc.rpartition("@")
        found = {user, *user.split(":"), url.fragment, *(value for _, value in parse_qsl(url.query))}
    else:
        found = set()
    forms = {form for text in found for form in (text, unquote(text), quote(text, safe=""))}
    return {form for form in forms if len(form) >= SHORTEST}

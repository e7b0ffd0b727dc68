"""API keys from a file, one a line:

    # name:key, or name:sha256: and the key's SHA-256 in hex; then limits, where it has its own
    website:8fQ2...   rate=50/s burst=100 concurrent=8
    nightly:sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

A name may have several keys (the old one and the new one, while clients change over); they share its limits. The file
is read again when it changed. Replace it by a rename: a file caught half-written would be taken as it stands.
"""

import hashlib
import hmac
import logging
import os
import string
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from serve.errors import BadKey, InputError

# Who watches over the service has no key, and the page must be there before it can ask for one.
OPEN_PATHS = frozenset(
    "/health /livez /readyz /healthz /v2/health/live /v2/health/ready / /page/style.css /page/script.js "
    "/openapi.json".split()
)
SHORTEST = 16  # characters of a key
MOST = 1000  # keys
LARGEST = 1_000_000  # bytes of the file
_NAME = frozenset(string.ascii_letters + string.digits + "_.-")
_HEX = frozenset(string.hexdigits)

log = logging.getLogger("bantam.serve")


@dataclass(frozen=True, slots=True)
class Limits:
    rate: float | None = None  # requests a second, in the long run
    burst: float | None = None  # requests at once after a rest; None: one second's worth
    concurrent: int | None = None  # requests not yet answered


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    limits: Limits
    digest: bytes = field(repr=False)


class Keys:
    """The keys of a file. Raises InputError for one that cannot be used."""

    def __init__(self, path: Path, *, defaults: Limits = Limits()) -> None:
        self._path = path
        self._defaults = defaults
        self._looked = time.monotonic()
        self._keys, self._seen = self._load()

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> Key:
        """Whose request this is; `headers` as ASGI gives them. BadKey for nobody's."""
        given = hashlib.sha256(_given(headers)).digest()
        found = None
        for key in self.current():  # all of them, so that time tells nothing
            if hmac.compare_digest(key.digest, given):
                found = key
        if found is None:
            raise BadKey("the API key is missing or not known; send it as Authorization: Bearer KEY or as x-api-key")
        return found

    def current(self) -> tuple[Key, ...]:
        """All of them: another tuple once the file has others."""
        now = time.monotonic()
        if now - self._looked >= 1.0:
            self._looked = now
            self._refresh()
        return self._keys

    def _refresh(self) -> None:
        """Take the file's new state; what cannot be used leaves the keys as they are and is said once."""
        try:
            seen = _signature(os.stat(self._path))
        except OSError:
            seen = ()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys, self._seen = self._load()
        except InputError as error:
            log.error("the former API keys stay in use: %s", error)
        else:
            log.info("read %d API keys from %s", len(self._keys), self._path)

    def _load(self) -> tuple[tuple[Key, ...], tuple[int, ...]]:
        try:
            with open(self._path, "rb") as file:
                status = os.fstat(file.fileno())  # before the text: a change while we read is seen next time
                text = file.read(LARGEST + 1)
        except OSError as error:
            raise InputError(f"the file of API keys {self._path} cannot be read: {error.strerror}") from None
        if len(text) > LARGEST:
            raise InputError(f"the file of API keys {self._path} is over {LARGEST} bytes")
        try:
            keys = read(text, self._defaults)
        except InputError as error:
            raise InputError(f"the file of API keys {self._path}: {error}") from None
        if status.st_mode & 0o004:
            log.warning("everybody on this machine can read the API keys in %s; chmod o-r", self._path)
        return keys, _signature(status)


def read(text: bytes, defaults: Limits) -> tuple[Key, ...]:
    """The keys of such a file. Errors name the line and never quote it, for it holds a key."""
    keys: dict[bytes, Key] = {}
    limits: dict[str, Limits] = {}
    for at, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        fields = fields[: next((i for i, word in enumerate(fields) if word.startswith(b"#")), None)]
        if not fields:
            continue
        try:
            name, digest = _identity(fields[0])
            own = _limits(fields[1:], defaults)
            if limits.setdefault(name, own) != own:
                raise InputError(f"the limits of {name} differ from those it has above")
            if digest in keys:
                raise InputError("this key stands twice")
        except InputError as error:
            raise InputError(f"line {at}: {error}") from None
        keys[digest] = Key(name, own, digest)
    if not 1 <= len(keys) <= MOST:
        raise InputError(f"there must be from 1 to {MOST} keys, got {len(keys)}")
    return tuple(keys.values())


def _identity(word: bytes) -> tuple[str, bytes]:
    name, colon, secret = word.partition(b":")
    shown = name.decode("latin-1")
    if not colon or not 1 <= len(shown) <= 64 or not _NAME.issuperset(shown):
        raise InputError("expected name:key, the name of up to 64 letters, digits, '_', '.' or '-'")
    if secret.startswith(b"sha256:"):
        digits = secret.removeprefix(b"sha256:").decode("latin-1")
        if len(digits) != 64 or not _HEX.issuperset(digits):
            raise InputError(f"the SHA-256 of {shown} must have 64 hexadecimal digits")
        return shown, bytes.fromhex(digits)
    if len(secret) < SHORTEST or not all(33 <= byte < 127 for byte in secret):
        raise InputError(f"the key of {shown} must have {SHORTEST} or more printable ASCII characters")
    return shown, hashlib.sha256(secret).digest()


def _limits(words: Iterable[bytes], defaults: Limits) -> Limits:
    found: dict[str, float] = {}
    for word in words:
        name, _, value = word.decode("latin-1").partition("=")
        digits = value.removesuffix("/s") if name == "rate" else value
        whole, dot, part = digits.partition(".")
        right = whole.isascii() and whole.isdigit() and (part.isascii() and part.isdigit() if dot else True)
        if name not in ("rate", "burst", "concurrent") or not right or (dot and name != "rate") or len(digits) > 12:
            raise InputError("after the key stand limits: rate=50/s burst=100 concurrent=8")
        found[name] = float(digits)
        if found[name] <= 0 or (name == "burst" and found[name] < 1):
            raise InputError(f"{name} must be more than 0")
    if "burst" in found and "rate" not in found and defaults.rate is None:
        raise InputError("burst needs a rate")
    concurrent = found.get("concurrent", defaults.concurrent)
    return Limits(
        found.get("rate", defaults.rate),
        found.get("burst", defaults.burst),
        None if concurrent is None else int(concurrent),
    )


def _given(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key that a request shows, or nothing."""
    other = b""
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            other = value.strip()
    return other


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_mtime_ns, status.st_size, status.st_ino)

"""What the service writes on standard error: one line an event, as JSON or for eyes.

A failed request is one line: method, path without its query, status, error type, the key's name, bytes and
milliseconds; never a body, never a key, and no message that could quote one. Lines that differ in path and figures
only are one kind: of each kind ten in ten seconds are written and the others counted, so that a flood of bad requests
fills no disk.
"""

import json
import logging
import sys
import time
import traceback
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

Format = Literal["json", "text"]
BURST, PERIOD = 10, 10.0  # lines of a kind, in so many seconds
KINDS = 256  # told apart at a time
LONGEST = 200  # characters of a path

log = logging.getLogger("bantam.requests")


def set_up(form: Format, stream: TextIO | None = None) -> None:
    """Send every logger of this process, libraries' too, to standard error in this form."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JSONLines() if form == "json" else TextLines())
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)
    logging.getLogger("bantam").setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):  # where its own set-up ran before
        other = logging.getLogger(name)
        other.handlers.clear()
        other.propagate = True


class JSONLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # All but ASCII escaped: a path may hold what a terminal obeys, and half a surrogate pair.
        return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={printable(str(value))}" for name, value in getattr(record, "fields", {}).items())
        line = f"{_time(record.created)} {record.levelname.lower():7} {printable(record.getMessage())}{fields}"
        trace = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        return "\n".join([line, *map(printable, trace)])


class RequestLog:
    """The lines of requests. `access`: of all; otherwise of those that failed."""

    def __init__(self, *, access: bool = False) -> None:
        self.access = access
        self._kinds: dict[tuple[Any, ...], _Kind] = {}
        self._swept = 0.0

    def answered(self, method: str, path: str, status: int, *, size: int, seconds: float, key: str = "") -> None:
        """Call it only where `access` is true."""
        fields = _fields(method, path, status, size, seconds, key)
        log.info("request answered", extra={"fields": fields})

    def failed(
        self, method: str, path: str, status: int, error_type: str, *, size: int, seconds: float, key: str = ""
    ) -> None:
        """`size`: bytes of the body that came; `key`: the name of the API key."""
        if self.access or self._lets_through(status, error_type, method, key):
            fields = {"error_type": error_type, **_fields(method, path, status, size, seconds, key)}
            log.log(logging.ERROR if status == 500 else logging.WARNING, "request failed", extra={"fields": fields})

    def unexpected(self, method: str, path: str, error: BaseException) -> None:
        """An error of ours: its type and where it arose, without its message, which may quote the request."""
        where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
        kind = type(error).__name__
        if self._lets_through(kind, where[-1] if where else ""):
            fields = {"method": method[:16], "path": path[:LONGEST], "exception": kind, "where": where}
            log.error("unexpected error", extra={"fields": fields})

    def flush(self) -> None:
        """Write what is counted and not yet told; at the service's end."""
        for names, kind in self._kinds.items():
            kind.tell(names)
        self._kinds.clear()

    def _lets_through(self, *names: Any) -> bool:
        now = time.monotonic()
        if now - self._swept > PERIOD:
            self._sweep(now)
        kind = self._kinds.get(names)
        if kind is None:
            if len(self._kinds) >= KINDS:
                names = ("of other kinds",)
            kind = self._kinds.setdefault(names, _Kind(now))
        return kind.lets_through(names, now)

    def _sweep(self, now: float) -> None:
        """Tell and forget the kinds whose flood is over."""
        self._swept = now
        for names in [names for names, kind in self._kinds.items() if now - kind.since > PERIOD]:
            self._kinds.pop(names).tell(names)


class _Kind:
    __slots__ = ("more", "since", "written")

    def __init__(self, now: float) -> None:
        self.since, self.written, self.more = now, 0, 0

    def lets_through(self, names: tuple[Any, ...], now: float) -> bool:
        if now - self.since > PERIOD:
            self.tell(names)
            self.since, self.written, self.more = now, 0, 0
        if self.written < BURST:
            self.written += 1
            return True
        self.more += 1
        return False

    def tell(self, names: tuple[Any, ...]) -> None:
        if self.more:
            fields = {"kind": " ".join(str(name)[:LONGEST] for name in names if name != ""), "more": self.more}
            log.warning("%d more like this", self.more, extra={"fields": fields})


def printable(text: str) -> str:
    """`text` with what a terminal would obey, or a reader of lines stumble over, as escapes."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)


def _fields(method: str, path: str, status: int, size: int, seconds: float, key: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"method": method[:16], "path": path.partition("?")[0][:LONGEST], "status": status}
    if key:
        fields["key"] = key
    return {**fields, "bytes": size, "ms": round(seconds * 1e3, 3)}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

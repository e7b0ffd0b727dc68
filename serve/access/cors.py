"""Cross-origin requests from browsers (fetch.spec.whatwg.org, "CORS protocol"): none, unless origins are named.

Keys travel in headers that scripts set, never in cookies, so that credentials are never allowed.
"""

from collections.abc import Iterable

from serve.errors import InputError

Headers = list[tuple[bytes, bytes]]

METHODS = b"GET, HEAD, POST, OPTIONS"
MAX_AGE = b"600"  # seconds that a browser remembers a preflight's answer
EXPOSED = (
    b"retry-after, x-compute-tokens, x-inference-time, x-queue-time, x-tokenization-time, x-total-time, x-truncated"
)
LONGEST = 1024  # bytes of the list of headers that a preflight asks for


class Origins:
    """The origins that may call from a browser; "*": any."""

    def __init__(self, origins: Iterable[str]) -> None:
        named = tuple(origins)
        for origin in named:
            scheme, _, host = origin.partition("://")
            right = origin.isascii() and origin.isprintable() and scheme in ("http", "https") and host
            if origin != "*" and (not right or set(host) & set("/ ,*?#@")):
                raise InputError(
                    f"an origin is like https://example.org or http://localhost:8080, or *; got {origin!r}"
                )
        self._any = "*" in named
        self._named = frozenset(origin.lower().encode() for origin in named)

    def answer(self, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
        """What an answer's headers need besides, errors' too."""
        return [*self._allowed(dict(headers)), (b"access-control-expose-headers", EXPOSED)] if self._named else []

    def preflight(self, headers: Iterable[tuple[bytes, bytes]]) -> Headers | None:
        """The headers of a 204 that answers an OPTIONS request, before any key is asked for; None: it asks else."""
        asked = dict(headers)
        if not self._named or b"origin" not in asked or b"access-control-request-method" not in asked:
            return None
        allowed = self._allowed(asked)
        if not any(name == b"access-control-allow-origin" for name, _ in allowed):
            return allowed  # without permission in it, which is how a browser is told no
        allowed += [(b"access-control-allow-methods", METHODS), (b"access-control-max-age", MAX_AGE)]
        wanted = asked.get(b"access-control-request-headers", b"")
        if wanted and len(wanted) <= LONGEST:
            allowed.append((b"access-control-allow-headers", wanted))
        return allowed

    def _allowed(self, headers: dict[bytes, bytes]) -> Headers:
        if self._any:
            return [(b"access-control-allow-origin", b"*")]
        origin = headers.get(b"origin", b"")
        vary = (b"vary", b"origin")  # an answer in a cache is not for everybody
        return [(b"access-control-allow-origin", origin), vary] if origin.lower() in self._named else [vary]

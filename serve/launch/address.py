"""The port: taken before anything is loaded, opened once the model is."""

import errno
import socket
import sys
from contextlib import suppress
from pathlib import Path

from serve.errors import InputError
from serve.settings import Settings

BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """A socket that holds the port but does not listen yet: until the model is loaded callers are refused."""
    if not 0 <= port <= 65535:
        raise InputError(f"port must be from 0 to 65535, got {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise InputError(f"host {host!r} is not an address of this machine: {error.strerror}") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise _refusal(host, port, error) from None
    return bound


def listen(bound: socket.socket) -> None:
    """Of two servers that bound the port at once the second finds out here."""
    host, port = bound.getsockname()[:2]
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        raise _refusal(host, port, error) from None


def announce(settings: Settings, host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    many = f" with {settings.workers} workers" if settings.workers > 1 else ""
    print(f"serving {Path(settings.artefact).name} on http://{shown}:{port}{many}", file=sys.stderr, flush=True)


def allow_connections(settings: Settings) -> None:
    """Raise the number of files that this process may have open, where its own limit is below what is asked for."""
    with suppress(ImportError, OSError, ValueError):  # not on Windows; or the system does not let us
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 2 * settings.max_connections + 256
        if soft != resource.RLIM_INFINITY and soft < wanted:
            most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _refusal(host: str, port: int, error: OSError) -> InputError:
    if error.errno == errno.EADDRINUSE:
        return InputError(f"port {port} of {host} is in use; stop what listens there or take another")
    return InputError(f"cannot listen on {host}:{port}: {error.strerror}")

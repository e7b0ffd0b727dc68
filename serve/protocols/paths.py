"""The paths of every protocol."""

from serve.protocols import oip, openai, tei, vllm
from serve.question import Context, Route


def routes(context: Context) -> dict[str, Route]:
    """Every path, and what it answers for the model that is loaded."""
    found: dict[str, Route] = {}
    for protocol in (tei, openai, vllm, oip):
        more = protocol.routes(context)
        assert not found.keys() & more.keys(), (protocol.__name__, found.keys() & more.keys())
        found |= more
    return found

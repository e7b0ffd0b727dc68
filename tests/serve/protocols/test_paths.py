"""All protocols together."""

from collections.abc import Callable

import pytest

from serve.protocols.paths import routes
from serve.question import Context
from serve.telemetry.catalogue import ROUTES
from tests.serve.protocols.conftest import TASKS


@pytest.mark.parametrize("kind", TASKS)
def test_every_model_has_every_path(context: Callable[[str], Context], kind: str) -> None:
    found = routes(context(kind))
    assert found.keys() == routes(context("classes")).keys()
    assert len(found) == 23
    for path, route in found.items():
        assert path.startswith("/")
        assert route.method == ("*" if path.endswith("/") else route.method) and route.method in ("GET", "POST", "*")
        assert route.name in ROUTES
    posts = {path: route.name for path, route in found.items() if route.method == "POST"}
    assert posts.pop("/decode") == "other"
    assert set(posts.values()) == set(ROUTES) - {"other"}
    assert [path for path, route in found.items() if route.untyped and route.method == "POST"] == [
        "/v2/models/Tiny Model/infer",
        "/v2/models/Tiny Model/versions/1/infer",
    ]

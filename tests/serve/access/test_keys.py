"""API keys: who is let in, what a file may say, and what happens when it changes."""

import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve.access import keys as module
from serve.access.keys import OPEN_PATHS, Key, Keys, Limits
from serve.errors import BadKey, InputError

WEB, NIGHT = "web-key-0123456789", "night-key-0123456789"
DIGEST = hashlib.sha256(NIGHT.encode()).hexdigest()
FILE = f"""
# who may ask
web:{WEB} rate=2.5/s burst=10 concurrent=3  # the site

night:sha256:{DIGEST}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(FILE)
    path.chmod(0o600)
    return path


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let two seconds pass for the keys."""
    clock = time.monotonic
    passed = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock() + passed[0])

    def pass_on() -> None:
        passed[0] += 2.0

    return pass_on


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"here"), (b"authorization", b"Bearer " + key.encode())]


def test_a_key_is_known_by_itself_or_by_its_digest(file: Path) -> None:
    keys = Keys(file)
    assert (keys.check(bearer(WEB)).name, keys.check(bearer(NIGHT)).name) == ("web", "night")
    assert keys.check([(b"x-api-key", NIGHT.encode())]).name == "night"
    assert keys.check([(b"authorization", b"bearer " + WEB.encode())]).name == "web"
    assert keys.check([(b"authorization", b"Basic eDp5"), (b"x-api-key", WEB.encode())]).name == "web"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        bearer(""),
        bearer("unknown-key-0123456"),
        bearer(WEB + "x"),
        bearer(WEB[:-1]),
        [(b"authorization", WEB.encode())],
        bearer(DIGEST),
        [(b"x-api-key", b"\xff\x00")],
        bearer("sha256:" + DIGEST),
    ],
)
def test_missing_and_unknown_keys_get_the_same_answer(file: Path, headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(BadKey) as caught:
        Keys(file).check(headers)
    assert str(caught.value).startswith("the API key is missing or not known")
    assert caught.value.status == 401


def test_every_key_is_compared_whichever_is_given(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys(file)
    compared: list[tuple[int, int]] = []
    real = module.hmac.compare_digest

    def watched(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return real(a, b)

    monkeypatch.setattr(module.hmac, "compare_digest", watched)
    for given in (WEB, NIGHT, "unknown"):
        try:
            keys.check(bearer(given))
        except BadKey:
            assert given == "unknown"
    assert compared == [(32, 32)] * 6


def test_limits_are_the_keys_own_or_the_default(file: Path) -> None:
    keys = Keys(file, defaults=Limits(rate=7.0, concurrent=2))
    assert keys.check(bearer(WEB)).limits == Limits(2.5, 10.0, 3)
    assert keys.check(bearer(NIGHT)).limits == Limits(7.0, None, 2)


def test_a_key_shows_nothing_of_itself(file: Path) -> None:
    key = Keys(file).check(bearer(WEB))
    assert repr(key) == "Key(name='web', limits=Limits(rate=2.5, burst=10.0, concurrent=3))"
    assert isinstance(key, Key)


def test_keys_are_rotated_by_changing_the_file(
    file: Path, later: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    keys = Keys(file)
    replace(file, f"web:{WEB}\nweb:a-second-key-0123456")
    assert keys.check(bearer(NIGHT)).name == "night"  # within the second
    later()
    assert keys.check(bearer("a-second-key-0123456")).name == keys.check(bearer(WEB)).name == "web"
    with pytest.raises(BadKey):
        keys.check(bearer(NIGHT))
    assert [record.getMessage() for record in caplog.records] == [f"read 2 API keys from {file}"]


@pytest.mark.parametrize("broken", ["web", "", None])
def test_a_broken_new_file_keeps_the_old_keys_and_is_said_once(
    file: Path, broken: str | None, later: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys(file)
    if broken is None:
        file.unlink()
    else:
        replace(file, broken)
    for _ in range(3):
        later()
        assert keys.check(bearer(WEB)).name == "web"
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "the former API keys stay in use" in caplog.text
    replace(file, f"new:{WEB}")
    later()
    assert keys.check(bearer(WEB)).name == "new"


def test_the_file_is_looked_at_once_a_second(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys(file)
    looks: list[Any] = []
    real = os.stat
    monkeypatch.setattr(module.os, "stat", lambda path: looks.append(path) or real(path))
    keys._looked -= 5
    for _ in range(100):
        keys.check(bearer(WEB))
    assert looks == [file]


BAD = {
    f"web:{WEB} fast=1": "line 1: after the key stand limits",
    f"web:{WEB} rate=-1/s": "line 1: after the key",
    f"web:{WEB} rate=1e9": "line 1: after the key",
    f"web:{WEB} rate=nan": "line 1: after the key",
    f"web:{WEB} rate=0/s": "line 1: rate must be more than 0",
    f"web:{WEB} burst=5": "line 1: burst needs a rate",
    f"web:{WEB} concurrent=1.5": "line 1: after the key",
    "\n\nweb:short": "line 3: the key of web must have 16",
    "web:sha256:abc": "line 1: the SHA-256 of web",
    f"a b:{WEB}": "line 1: expected name:key",
    f"ü:{WEB}": "line 1: expected name:key",
    f":{WEB}": "line 1: expected name:key",
    f"a:{WEB}\nb:{WEB}": "line 2: this key stands twice",
    f"a:{WEB} rate=1/s\na:{NIGHT} rate=2/s": "line 2: the limits of a differ",
    "# nothing": "there must be from 1 to 1000 keys, got 0",
}


@pytest.mark.parametrize("text", BAD)
def test_a_file_that_cannot_be_used_is_refused_at_the_start_without_telling_a_key(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        Keys(file)
    assert BAD[text] in str(caught.value)
    assert "0123456789" not in str(caught.value) and "short" not in str(caught.value)


def test_a_missing_file_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        Keys(tmp_path / "none")


def test_a_file_that_all_can_read_is_warned_of(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.chmod(0o644)
    Keys(file)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "everybody on this machine can read" in caplog.text


def test_only_health_the_page_and_the_document_are_open() -> None:
    health = {"/health", "/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready"}
    assert health | {"/", "/page/style.css", "/page/script.js", "/openapi.json"} == OPEN_PATHS


def replace(path: Path, text: str) -> None:
    other = path.with_suffix(".new")
    other.write_text(text)
    other.chmod(0o600)
    other.replace(path)

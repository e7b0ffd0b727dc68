"""The machine is described from what can be read, and from nothing that names it."""

from __future__ import annotations

import json
import platform
import socket

import numpy as np

from serve import machine


def test_description_has_the_machine_and_the_versions() -> None:
    found = machine.describe()
    assert found["python"] == platform.python_version()
    assert found["versions"]["numpy"] == np.__version__
    assert found["cores"] >= found["usable_cores"] >= 1
    assert found["memory_bytes"] is None or found["memory_bytes"] > 1 << 28
    json.dumps(found)


def test_description_does_not_name_the_host() -> None:
    host = socket.gethostname()
    assert len(host) < 4 or host not in json.dumps(machine.describe())


def test_a_package_that_is_not_there_has_no_version() -> None:
    assert machine.version("no-such-package-anywhere") is None

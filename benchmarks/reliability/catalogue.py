"""The checks by name, in the order in which they run: the short ones first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.reliability.checks import bytes, overload, schema, sigkill, sigterm, soak, start
from benchmarks.reliability.judge import Found
from benchmarks.reliability.service import Place

CHECKS: dict[str, Callable[[Place], Found]] = {
    "start": start.check,
    "sigterm": sigterm.check,
    "sigkill": sigkill.check,
    "overload": overload.check,
    "bytes": bytes.check,
    "schema": schema.check,
    "soak": soak.check,
}


def chosen(names: Sequence[str] | None) -> list[str]:
    """Keys of CHECKS in their order; all for None. ValueError for a name that is none."""
    if unknown := [name for name in names or () if name not in CHECKS]:
        raise ValueError(f"checks must be among {', '.join(CHECKS)}; got {', '.join(unknown)}")
    return [name for name in CHECKS if names is None or name in names]

"""What was measured, each with what it must be: a row of the table, and of the JSON."""

from __future__ import annotations

import math
from typing import Any

Row = dict[str, Any]
Found = dict[str, Any]


def row(
    what: str, value: float | str | None, unit: str = "", *, most: float | None = None, least: float | None = None
) -> Row:
    """`value` must be from `least` to `most`, where they are given. None stands for what could not be measured.

    The row's "ok" is None where nothing is asked.
    """
    if isinstance(value, float) and not math.isfinite(value):
        value = None
    ok: bool | None = None
    if most is not None or least is not None:
        assert not isinstance(value, str), "words have no limits"
        ok = value is not None and (most is None or value <= most) and (least is None or value >= least)
    return {"what": what, "value": value, "unit": unit, "most": most, "least": least, "ok": ok}


def found(rows: list[Row], **details: Any) -> Found:
    """What a check returns: its rows, whether all are as they must be, and details for whoever looks for why."""
    return {"passed": all(row["ok"] is not False for row in rows), "rows": rows, "details": details}


def failed(found: Found) -> list[str]:
    """What is not as it must be, in words."""
    return [
        f"{row['what']}: {shown(row['value'], row['unit'])}, {wanted(row)}"
        for row in found["rows"]
        if row["ok"] is False
    ]


def wanted(row: Row) -> str:
    limits = [(word, row[word]) for word in ("least", "most") if row[word] is not None]
    if len(limits) == 2 and row["least"] == row["most"]:
        return f"must be {shown(row['most'], row['unit'])}"
    return "must be " + " and ".join(f"at {word} {shown(limit, row['unit'])}" for word, limit in limits)


def shown(value: float | str | None, unit: str) -> str:
    """With as many digits as can be read."""
    if value is None:
        return "not measured"
    if isinstance(value, str):
        return value
    if unit == "%":
        return f"{100 * value:.1f} %"
    whole = isinstance(value, int) or value == int(value) or abs(value) >= 1000
    text = f"{value:,.0f}" if whole else f"{value:.3g}"
    return f"{text} {unit}".strip()

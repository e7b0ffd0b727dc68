"""What is told of our own engine: multiplications, shares of time, distance to the peak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import engine, table
from tests.serve.engine.networks import network


def test_products_are_those_of_every_token_but_in_the_last_layer_where_only_first_tokens_go_on() -> None:
    found = network(width=32, heads=(2, 2), size=16, neurons=(48, 40), labels=3)
    tokens, texts = 8, 2
    first = tokens * (4 * 32 * 32 + 2 * 32 * 48)
    last = tokens * 3 * 32 * 32 + texts * (32 * 32 + 2 * 32 * 40)
    assert engine.products(found, [3, 5]) == first + last + texts * (32 * 32 + 3 * 32)


def report() -> dict[str, Any]:
    shares = {"embeddings": 0.01, "products": 0.8, "attention": 0.1, "activation": 0.04, "norms": 0.03, "rest": 0.02}
    row = {
        "name": "dense",
        "path": "avx512",
        "sparsity": 0.0,
        "length": 16,
        "texts": 32,
        "tokens": 512,
        "texts_per_second": 1234.5,
        "shares": shares,
        "gmac_per_second": 480.0,
        "peak_gmac_per_second": 500.0,
    }
    sparse = {**row, "name": "a|b", "sparsity": 0.8, "gmac_per_second": 1500.0, "peak_gmac_per_second": 510.0}
    return {
        "schema": 1,
        "kind": "engine",
        "created": "2026-01-01T00:00:00+00:00",
        "machine": {"cpu": "Test CPU", "flags": ["avx2"], "commit": "0123456789abcdef", "versions": {"numpy": "2.4"}},
        "rows": [row, sparse],
    }


def test_the_table_tells_the_parts_of_a_call_and_the_share_of_the_peak(tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    path.write_text(json.dumps(report()))
    text = table.rendered(path)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0].startswith("| target | zeros | texts x word pieces | texts/s | products | attention | the rest |")
    assert lines[2] == "| dense | 0% | 32 x 16 | 1,234 | 80% | 10% | 10% | 480 | 96% |"
    assert lines[3] == "| a\\|b | 80% | 32 x 16 | 1,234 | 80% | 10% | 10% | 1,500 | 294% |"
    assert len(lines) == 4 and "path avx512," in text and "500 to 510 GMAC/s" in text


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--model", "fp32"], "the engine does not run"),
        (["--lengths", "16,long"], "whole numbers from 1 on"),
        (["--batches", "0"], "whole numbers from 1 on"),
    ],
)
def test_what_cannot_be_measured_is_one_error(
    more: list[str], complaint: str, student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert engine.main([str(student), "--seconds", "0.01", *more]) == 2
    assert complaint in capsys.readouterr().err

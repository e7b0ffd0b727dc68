"""`python -m benchmarks.storage ARTEFACT ... --json FILE`: what sparse INT8 artefacts take on disk.

An artefact that is not packed is packed for the measure only, into a folder that goes again. The table has one line
an artefact: zeros and ratios of the encoder's INT8 weights against dense fp32 ones (see serve.packing.ratios), and
whole files, embeddings, scales, graph and index included, as they are and gzipped.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.report import deliver, named, number
from serve import machine
from serve.artefact import Artefact, load, read_manifest
from serve.manifest import PackedManifest
from serve.packing.pack import pack

SCHEMA = 1
KIND = "storage"

Report = dict[str, Any]


def measure(artefacts: Sequence[tuple[str, Path]]) -> Report:
    """The report of these artefacts. Raises ValueError for one that is damaged or has no INT8 file."""
    rows = []
    for name, path in artefacts:
        loaded = load(path)
        with tempfile.TemporaryDirectory() as folder:
            root = loaded.source or Path(folder) / "packed"
            if not loaded.source:
                pack(path, root)
            rows.append(_row(name, root))
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "rows": rows,
    }


def _row(name: str, root: Path) -> dict[str, Any]:
    manifest = read_manifest(root)
    assert isinstance(manifest, PackedManifest)
    key = manifest.served if manifest.served in manifest.storage else next(iter(manifest.storage), "")
    if not key:
        raise ValueError(f"{name} has no INT8 file, so there is nothing to compare")
    return {
        "name": name,
        "method": manifest.models[key].method,
        "packed_artefact_bytes": Artefact(root, manifest).size(),
        "made_with": manifest.provenance.get("machine", {}).get("commit"),
        **manifest.storage[key],
    }


def markdown(report: Report) -> str:
    header = ["artefact", "encoder weights", "zeros", "nominal", "with a bit mask", "as stored"]
    header += [f"{name} file MB (gz)" for name in ("fp32", "INT8", "packed")]
    header += ["fp32 / packed (both gz)", "packed artefact MB"]
    table = [header, ["---", *["---:"] * (len(header) - 1)], *map(_cells, report["rows"])]
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([*lines, "", _conditions(report)]) + "\n"


def _cells(row: dict[str, Any]) -> list[str]:
    inside, files = row["encoder"], row["files"]
    found = [row["name"].replace("|", "\\|")]
    if inside:
        ratios = (inside["ratios"][name] for name in ("nominal", "bit mask", "stored"))
        found += [f"{inside['weights'] / 1e6:.1f} M", f"{inside['sparsity']:.1%}", *(f"{one:.1f}x" for one in ratios)]
    else:
        found += ["–"] * 5
    for name in ("fp32", "int8", "packed"):
        sizes = files.get(name)
        found.append(f"{number(sizes['bytes'] / 1e6)} ({number(sizes['gzip'] / 1e6)})" if sizes else "–")
    fp32, packed = files.get("fp32"), files["packed"]
    both = (f"{fp32[one] / packed[one]:.1f}x" for one in ("bytes", "gzip")) if fp32 else ()
    found.append("{} ({})".format(*both) if fp32 else "–")
    return [*found, number(row["packed_artefact_bytes"] / 1e6)]


def _conditions(report: Report) -> str:
    return (
        "Times smaller than dense fp32: nominal counts the bytes of non-zero INT8 weights of the encoder's linear "
        "layers and nothing else; with a bit mask adds one bit a weight; as stored is what the packed file holds for "
        "them, its index of weights or blocks included. Files are whole: embeddings, scales and graph with them. The "
        "packed artefact adds tokenizer, configuration and manifest. gz is gzip's level 6; MB are 10^6 bytes. Counted "
        f"{report['created'][:10]}, commit {(report.get('commit') or 'unknown')[:10]}."
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artefacts", nargs="+", type=named, metavar="[NAME=]ARTEFACT")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Write the report here.")
    options = parser.parse_args(arguments)
    return deliver(lambda: measure(options.artefacts), options.json, markdown)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`bantam inspect`: verify an artefact and show what it says about itself."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve.artefact import Artefact, load, read_manifest
from serve.errors import BantamError
from serve.manifest import PackedManifest

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from serve.encoders import AnyEncoder


def report(artefact: Artefact | Path | str) -> dict[str, Any]:
    """The manifest as JSON would hold it, with sizes in bytes; every checksum has been verified.

    Of a packed artefact it is what it unpacks to, with "packed": its own size and what packing gained.
    """
    loaded = load(artefact.root if isinstance(artefact, Artefact) else artefact)
    from serve.encoders import open_encoder  # needs numpy and tokenizers

    pieces = open_encoder(loaded)
    models = {
        key: {
            **model.model_dump(),
            "size": loaded.manifest.files[model.path].size,
            "served_size": loaded.served_size(key),
            "declined": _declined(loaded, key),
        }
        for key, model in loaded.manifest.models.items()
    }
    return {
        **loaded.manifest.model_dump(mode="json"),
        "models": models,
        "tokenizer": pieces.tokenizer,
        "here": _here(loaded, pieces),
        "path": str(loaded.root),
        "size": loaded.size(),
        "verified": True,
        **({"packed": _packed(loaded.source)} if loaded.source else {}),
    }


def _declined(loaded: Artefact, key: str) -> str | None:
    """Why our own engine does not run the model, or None where it does."""
    if loaded.manifest.encoder.kind == "ngram":
        return None
    if loaded.manifest.models[key].precision != "int8":
        return "it runs INT8 files"
    from serve.engine.runtime import why_not  # needs numpy and onnxruntime

    return why_not(loaded.path(key))


def _here(loaded: Artefact, pieces: "AnyEncoder") -> dict[str, Any]:
    """What runtime "auto" takes for the served model on this host, with one thread."""
    from serve.choice import Choice, choose
    from serve.encode import WordPieces
    from serve.ngram.runtime import NARROW

    if not isinstance(pieces, WordPieces):
        return Choice(runtime="bantam", declined={"openvino": NARROW}).model_dump()
    served = loaded.manifest.models[loaded.manifest.served]
    try:
        digest = loaded.manifest.files[served.path].sha256
        choice = choose(loaded.path(loaded.manifest.served), digest, pieces, batch=served.batch)
    except BantamError as error:
        return {"runtime": None, "rates": {}, "declined": {"auto": str(error)}}
    return choice.model_dump()


def _packed(source: Path) -> dict[str, Any]:
    manifest = read_manifest(source)
    assert isinstance(manifest, PackedManifest)
    return {"path": str(source), "size": Artefact(source, manifest).size(), "storage": manifest.storage}


def show(report: dict[str, Any], console: "Console | None" = None) -> None:
    """Print a report as tables, by default on standard output."""
    if console is None:
        from rich.console import Console

        console = Console()
    task, encoder = report["task"], report["encoder"]
    facts = _table("what", "value", title=f"{report['name']}: {len(report['files'])} files verified")
    _row(facts, "path", report["path"])
    _row(facts, "created", report["created"])
    _row(facts, "task", f"{task['kind']} of {'pairs' if task['inputs'] == 2 else 'single texts'}")
    if task["embedding"]:
        _row(facts, "vectors", _vectors(task["embedding"]))
    else:
        _row(facts, "labels", ", ".join(task["labels"]))
    _row(facts, "columns", ", ".join(task["columns"]) or "-")
    _row(facts, "metric", task["metric"])
    unit = "words" if encoder["kind"] == "ngram" else "tokens"
    _row(facts, "encoder", f"{encoder['kind']}, at most {encoder['max_length']} {unit}")
    _row(facts, "tokenizer", report["tokenizer"])
    _row(facts, "size", _bytes(report["size"]))
    if "packed" in report:
        _row(facts, "packed", f"{_bytes(report['packed']['size'])}: {report['packed']['path']}")
    if report["teacher"]:
        _row(facts, "teacher", _short(report["teacher"]))
    if report["recipe"]:
        _row(facts, "recipe", _short(report["recipe"]))
    console.print(facts)
    console.print(_models(report))
    console.print(_runtimes(report["here"]))
    if report["metrics"]:
        console.print(_metrics(report["metrics"]))
    if report["sparsity"]:
        table = _table("pattern", "zeros", title="sparsity")
        for pattern, share in report["sparsity"].items():
            _row(table, pattern, f"{share:.1%}")
        console.print(table)
    if "packed" in report:
        show_storage(report["packed"]["storage"], console)


def show_storage(storage: dict[str, Any], console: "Console | None" = None) -> None:
    """Print sizes and ratios of each packed model, by default on standard output."""
    from serve.packing.ratios import lines

    if console is None:
        from rich.console import Console

        console = Console()
    for key, measured in storage.items():
        sparsity = measured["encoder"].get("sparsity", 0.0)
        title = f"{key}: {sparsity:.1%} of the encoder's INT8 weights are zero"
        table = _table("what", "size", "gzipped", "below fp32", title=title)
        for what, size, gzipped, ratio in lines(measured):
            _row(table, what, _bytes(size), _bytes(gzipped) if gzipped else "-", f"{ratio:.1f}x" if ratio else "-")
        console.print(table)


def _vectors(embedding: dict[str, Any]) -> str:
    read = {"mean": "the mean over tokens", "first": "the first token's"}[embedding["pooling"]]
    return f"{embedding['size']} numbers, {read}" + (", made 1 long" if embedding["normalised"] else "")


def _models(report: dict[str, Any]) -> "Table":
    columns = "model", "precision", "method", "size", "to serve", "integer kernels", "batch", "engine"
    table = _table(*columns, title="models")
    for key, model in report["models"].items():
        served = " (served)" if key == report["served"] else ""
        kernels = model["integer_kernels"] + model["float_kernels"]
        _row(
            table,
            key + served,
            model["precision"],
            model["method"],
            _bytes(model["size"]),
            _bytes(model["served_size"]),
            f"{model['integer_kernels']} of {kernels}",
            str(model["batch"]),
            "runs it" if model["declined"] is None else f"declines: {model['declined']}",
        )
    return table


def _runtimes(here: dict[str, Any]) -> "Table":
    sizes = list(dict.fromkeys(size for rates in here["rates"].values() for size in rates))
    title = "runtimes of the served model on this host, one thread"
    table = _table("runtime", *(f"texts/s in calls of {size}" for size in sizes), "", title=title)
    for name in dict.fromkeys([*here["rates"], *([here["runtime"]] if here["runtime"] else []), *here["declined"]]):
        found = here["rates"].get(name, {})
        rates = [f"{found[size]:.0f}" if size in found else "-" for size in sizes]
        taken = "taken" if name == here["runtime"] else ""
        _row(table, name, *rates, f"declines: {here['declined'][name]}" if name in here["declined"] else taken)
    return table


def _metrics(metrics: dict[str, Any]) -> "Table":
    """Anything shaped {"value", "low", "high"} as a row with its interval, whatever its name."""
    table = _table("split", "what", "value", "95 % interval", title="metrics")
    for split, entries in metrics.items():
        for name, entry in (entries if isinstance(entries, dict) else {"": entries}).items():
            if isinstance(entry, dict) and "value" in entry:
                interval = f"{entry['low']:.4f} to {entry['high']:.4f}" if entry.get("low") is not None else "-"
                _row(table, split, name, f"{entry['value']:.4f}", interval)
            else:
                _row(table, split, name, f"{entry:.4f}" if isinstance(entry, float) else str(entry), "-")
    return table


def _table(*columns: str, title: str) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _row(table: "Table", *cells: str) -> None:
    """As plain text: labels and recipes may hold square brackets, which rich would take for markup."""
    from rich.text import Text

    table.add_row(*(Text(cell) for cell in cells))


def _short(values: dict[str, Any]) -> str:
    """Nested keys and values on a line, in the words of the recipe's file."""
    parts = []
    for key, value in values.items():
        if isinstance(value, dict):
            value = "{" + _short(value) + "}"
        elif isinstance(value, list):
            value = "[" + ", ".join(_short(item) if isinstance(item, dict) else str(item) for item in value) + "]"
        if value not in (None, "{}", "[]"):
            parts.append(f"{key}={value}")
    return " ".join(parts)


def _bytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"

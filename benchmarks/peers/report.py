"""Peers' turns as one table."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.peers.catalogue import OWN, SERVED
from benchmarks.report import megabytes, number

SCHEMA = 1
KIND = "peers"

Report = dict[str, Any]


def turns(report: Report, name: str) -> dict[int, dict[str, Any]]:
    """A server's turns by round."""
    return {turn["round"]: turn for turn in report["rows"] if turn["server"] == name}


def best_peers(report: Report, load: str) -> dict[int, float]:
    """For each round the texts a second of the quickest server that is not ours; a server with errors is none."""
    found = dict[int, float]()
    for turn in report["rows"]:
        window = turn["loads"][load]
        if turn["server"] not in OWN and not window["errors"]:
            found[turn["round"]] = max(found.get(turn["round"], 0.0), window["texts_per_second"])
    return found


def ratios(report: Report, name: str, load: str) -> list[float]:
    """To the quickest peer of the same round, for the rounds that have one."""
    best = best_peers(report, load)
    mine = {number: turn["loads"][load]["texts_per_second"] for number, turn in turns(report, name).items()}
    return [mine[number] / best[number] for number in sorted(mine) if number in best]


def markdown(report: Report) -> str:
    loads = [*map(str, report["settings"]["connections"]), f"list of {report['settings']['list']}"]
    header = ["server", "workers", "processes / threads"]
    for load in loads:
        how = f"{load} at a time" if load.isdigit() else f"one {load}"
        header += [f"texts/s, {how} (to the best peer)", f"p50 / p99 ms, {how}", f"CPU µs a text, {how}"]
    header += ["memory MB", "labels as ours"]
    table = [header, ["---", *["---:"] * (len(header) - 1)]]
    table += [_cells(report, name, loads) for name in SERVED if turns(report, name)]
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    return "\n".join([*lines, "", *_notes(report), _conditions(report)]) + "\n"


def _cells(report: Report, name: str, loads: list[str]) -> list[str]:
    server, taken = SERVED[name], list(turns(report, name).values())
    version = report["servers"][name]["version"]
    found = [f"{server.title} {version}" if version and name not in OWN else server.title]
    found += [str(report["servers"][name]["workers"])]
    found += [" / ".join(f"{np.median([turn[key] for turn in taken]):.0f}" for key in ("processes", "threads"))]
    for load in loads:
        windows = [turn["loads"][load] for turn in taken]
        found += [_rate(windows, ratios(report, name, load)), _latency(windows)]
        found.append(number(_median(windows, "cpu_us_per_text")))
    memory = int(np.median([turn["memory_bytes"] for turn in taken]))
    return [*found, megabytes(memory), f"{min(turn['agree'] for turn in taken)} of {report['data']['texts']}"]


def _rate(windows: list[dict[str, Any]], to_best: list[float]) -> str:
    rate = number(_median(windows, "texts_per_second"))
    failed = sum(window["errors"] for window in windows)
    errors = f", {failed} errors" if failed else ""
    if not to_best:
        return f"{rate}{errors}"
    return f"{rate} ({np.median(to_best):.2f}x [{min(to_best):.2f}, {max(to_best):.2f}]){errors}"


def _latency(windows: list[dict[str, Any]]) -> str:
    return " / ".join(number(float(np.median([one["latency_ms"][key] for one in windows]))) for key in ("p50", "p99"))


def _median(windows: list[dict[str, Any]], key: str) -> float:
    return float(np.median([window[key] for window in windows]))


def _notes(report: Report) -> list[str]:
    """Sentences on servers, and on those that could not be measured."""
    measured = [SERVED[name] for name in SERVED if turns(report, name)]
    notes = [f"{server.title}: {server.note}." for server in measured if server.note]
    notes += [f"{SERVED[name].title} is left out: {reason}." for name, reason in report["left_out"].items()]
    return [" ".join(notes), ""] if notes else []


def _conditions(report: Report) -> str:
    where, settings, model = report["machine"], report["settings"], report["artefact"]
    versions = ", ".join(f"{name} {found}" for name, found in where["versions"].items() if found)
    same = f"The same {model['precision']} ONNX file ({model['method']}) and tokenizer behind every server"
    if model["method"] == "ngram":
        same = "The same n-grams, read by our own code, behind every server"
    return (
        f"{same}; "
        f"{model['name']}, {report['data']['texts']} texts of {report['data']['name']} in rotation; closed loop of so "
        "many connections on loopback, one text a request, then one connection with lists. Labels as ours: as those of "
        f"onnxruntime in process, one text a request. Every server has the {where['usable_cores']} "
        f"cores, which the client shares. Medians of {settings['rounds']} rounds of {number(settings['seconds'])} s in "
        "which servers take turns, each started anew; ratios to the quickest peer of the same round: median and range. "
        "CPU is user and system time of all processes of a server, memory their PSS after the load. The "
        f"client took {_client(report)} µs of CPU a request of one text. Measured "
        f"{report['created'][:10]} on {where['cpu']} ({', '.join(where['flags'])}), load before "
        f"{where['load_before'][0]:.1f}, "
        f"commit {(where['commit'] or 'unknown')[:10]}; {versions}. MB are 10^6 bytes."
    )


def _client(report: Report) -> str:
    """From the cheapest window to the dearest."""
    lists = f"list of {report['settings']['list']}"
    windows = [one for row in report["rows"] for name, one in row["loads"].items() if name != lists]
    found = [one["client_us_per_text"] for one in windows if "client_us_per_text" in one]
    return f"{number(min(found))} to {number(max(found))}" if found else "unknown"

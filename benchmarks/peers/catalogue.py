"""The servers that are compared: how each is installed, started and asked. One entry and one script each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVERS = Path(__file__).parent / "servers"
HOST = "127.0.0.1"
KEY = "benchmarks-ask-with-this-key"  # of our own service, whose limits are on, and never reached
LIMITS = "rate=1000000/s burst=1000000 concurrent=100000"
OURS = (
    "import os, sys; os.environ.update(BANTAM_KEYS=sys.argv[6]) if sys.argv[6] else None; "
    "from serve.launch import launch; "
    "launch(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), server=sys.argv[5])"
)


@dataclass(frozen=True)
class Place:
    """What a server is told when it starts."""

    artefact: Path  # the artefact's folder
    bundle: Path  # what `benchmarks.peers.bundle` made of it
    scratch: Path  # an empty folder that goes with the server
    programs: Path  # the `bin` of the environment that it runs in
    ports: tuple[int, int, int]  # free ones; it answers on the first
    workers: int
    group: int  # texts a run that suit the model's file


@dataclass(frozen=True)
class Server:
    title: str
    package: str  # whose version the report gives
    command: Callable[[Place], list[str]]
    question: Callable[[Sequence[str]], Any]  # texts -> the body's JSON
    labels: Callable[[Any], list[str]]  # the answer's JSON -> a label a text
    path: str = "/predict"
    workers: int = 2
    agree: float = 0.99  # share of labels that must be as ours: less is another model, whose speed says nothing
    requirements: str | None = None  # a file of `servers`; None: it runs in this environment
    variables: tuple[tuple[str, str], ...] = ()
    any_model: bool = True  # it runs whatever code is put into it
    headers: tuple[str, ...] = ()  # of a request, beyond what each has
    note: str = ""  # what a reader of the table should know


def message(server: Server, texts: Sequence[str]) -> bytes:
    """A whole POST of those texts."""
    body = json.dumps(server.question(texts)).encode()
    head = f"POST {server.path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nAccept: application/json"
    head = "\r\n".join([head, *server.headers])
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def best(scores: Sequence[dict[str, Any]]) -> str:
    return str(max(scores, key=lambda entry: entry["score"])["label"])


def _texts(texts: Sequence[str]) -> Any:
    return {"texts": list(texts)}


def _labels(answer: Any) -> list[str]:
    return [entry["label"] for entry in answer]


def _inputs(texts: Sequence[str]) -> Any:
    return {"inputs": texts[0] if len(texts) == 1 else [[text] for text in texts], "truncate": True}


def _scores(answer: Any) -> list[str]:
    return [best(answer)] if isinstance(answer[0], dict) else [best(scores) for scores in answer]


def _script(name: str) -> Callable[[Place], list[str]]:
    return lambda place: [str(place.programs / "python"), str(SERVERS / name)]


def _bentoml(place: Place) -> list[str]:
    return [
        *(str(place.programs / "bentoml"), "serve", "with_bentoml:Classifier", "--working-dir", str(SERVERS)),
        *("--host", HOST, "--port", str(place.ports[0])),
    ]


def _infinity(place: Place) -> list[str]:
    return [
        *(str(place.programs / "infinity_emb"), "v2", "--model-id", ".", "--served-model-name", "model"),
        *("--engine", "optimum", "--device", "cpu", "--batch-size", str(place.group)),
        # Optimising an INT8 file fails, and its warm-up is longer than the model's positions.
        *("--onnx-disable-optimize", "--no-model-warmup", "--log-level", "error"),
        *("--host", HOST, "--port", str(place.ports[0])),
    ]


def _mlserver(place: Place) -> list[str]:
    answers, calls, metrics = place.ports
    # In files, since they go before environment variables.
    settings = {"host": HOST, "http_port": answers, "grpc_port": calls, "metrics_port": metrics, "debug": False}
    settings |= {"parallel_workers": place.workers}
    (place.scratch / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    model = {"name": "model", "implementation": "with_mlserver.Classifier"}
    (place.scratch / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    return [str(place.programs / "mlserver"), "start", str(place.scratch)]


def served(artefact: Path, port: int, workers: int, server: str = "uvicorn", *, keys: Path | None = None) -> list[str]:
    """The command of our own service. `keys`: the file of its API keys, if it asks for one."""
    return [sys.executable, "-c", OURS, str(artefact), HOST, str(port), str(workers), server, str(keys or "")]


def keys_in(folder: Path) -> Path:
    """A new file of keys, KEY the only one of them."""
    path = folder / "keys"
    path.write_text(f"load:{KEY} {LIMITS}\n", encoding="utf-8")
    path.chmod(0o600)
    return path


def _own(runtime: str, workers: int, server: str = "uvicorn", *, parallel: int = 1) -> Server:
    many = "1 worker" if workers == 1 else f"{workers} workers"
    many += f", {parallel} runs at once" if parallel > 1 else ""
    where = "" if server == "uvicorn" else f" in {server}"
    return Server(
        title=f"bantam{where}, {runtime}, {many}",
        package="bantam",
        command=lambda place: served(
            place.artefact, place.ports[0], place.workers, server, keys=keys_in(place.scratch)
        ),
        headers=(f"Authorization: Bearer {KEY}",),
        question=_inputs,
        labels=_scores,
        workers=workers,
        agree=0.99 if runtime == "onnxruntime" else 0.9,  # another engine rounds otherwise
        variables=(("BANTAM_RUNTIME", runtime), ("BANTAM_THREADS", "1"), ("BANTAM_PARALLEL", str(parallel))),
    )


def _asked_texts(title: str, package: str, command: Callable[[Place], list[str]], **more: Any) -> Server:
    return Server(title, package, command, _texts, _labels, requirements=f"{package}.txt", **more)


PEERS: dict[str, Server] = {
    "fastapi": _asked_texts(
        "FastAPI, thread pool",
        "fastapi",
        _script("with_fastapi.py"),
        workers=1,
        note="one process whose pool of 40 threads uses every core",
    ),
    "litserve": _asked_texts("LitServe", "litserve", _script("with_litserve.py")),
    "bentoml": _asked_texts("BentoML, batchable", "bentoml", _bentoml),
    "infinity": Server(
        title="Infinity",
        package="infinity-emb",
        command=_infinity,
        question=lambda texts: {"model": "model", "input": list(texts)},
        labels=lambda answer: [best(scores) for scores in answer["data"]],
        path="/classify",
        workers=1,
        requirements="infinity.txt",
        any_model=False,
        note="it has no setting for onnxruntime's threads, which are one a core and spin",
    ),
    "mlserver": Server(
        title="MLServer",
        package="mlserver",
        command=_mlserver,
        question=lambda texts: {
            "inputs": [{"name": "texts", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}]
        },
        labels=lambda answer: list(answer["outputs"][0]["data"]),
        path="/v2/models/model/infer",
        requirements="mlserver.txt",
    ),
    "ray": _asked_texts("Ray Serve", "ray", _script("with_ray.py")),
}
OWN: dict[str, Server] = {
    "ours-onnxruntime-1": _own("onnxruntime", 1),
    "ours-onnxruntime-2": _own("onnxruntime", 2),
    "ours-auto-1": _own("auto", 1),
    "ours-auto-1x2": _own("auto", 1, parallel=2),
    "ours-auto-2": _own("auto", 2),
    "ours-bentoml-2": _own("auto", 2, "bentoml"),
}
SERVED: dict[str, Server] = {**PEERS, **OWN}


def chosen(names: Sequence[str]) -> list[str]:
    """Keys of SERVED: "ours" stands for all of our own. ValueError for a name that is none."""
    known = [*PEERS, "ours"]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"peers must be among {', '.join(known)}; got {', '.join(unknown)}")
    return [key for name in dict.fromkeys(names) for key in (OWN if name == "ours" else [name])]

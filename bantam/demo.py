"""`bantam demo`: the whole line on real text, each step the command that a person would type."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from rich.console import Console

console = Console(stderr=True)
RECIPE = "demo"
STUDENT = "student"
QUESTION = "a warm, funny, engaging film ."
START = 60  # seconds that the endpoint has to become ready


def demo(out: Path, settings: list[str], port: int) -> None:
    """Compress, build, serve, ask, benchmark; print the table and where everything lies.

    A second run keeps what the first has finished. Raises ValueError naming the step that failed.
    """
    student, began = out / STUDENT, time.monotonic()
    options = [part for setting in settings for part in ("--set", setting)]
    step("compress", RECIPE, "--out", str(student), "--set", f"name={STUDENT}", *options, "--resume")
    bento = json.loads(step("build", str(student), "--json").splitlines()[-1])["tag"]
    with endpoint(bento, port) as address:
        label, score = ask(address)
        say(f'POST {address}/predict {{"inputs": "{QUESTION}"}} -> {label} ({score:.3f})')
    report, page = out / "report.json", out / "report.html"
    if measured(report, student):
        from benchmarks.report import read, show

        say(f"measured before; delete {report} to measure again")
        show(read(report), console)
    else:
        step("bench", str(student), "--json", str(report), "--html", str(page))
    print(f"report    {page}")
    print(f"artefact  {student}")
    print(f"bento     {bento}")
    print(f"took      {time.monotonic() - began:.0f} s\n")
    print("Try it:")
    print(f"  bantam serve {student} --port {port} &")
    print(f"  curl -s localhost:{port}/predict -H 'content-type: application/json' -d '{{\"inputs\": \"{QUESTION}\"}}'")


def measured(report: Path, student: Path) -> bool:
    """Whether `report` is there and measured this very student."""
    if not report.exists():
        return False
    made = json.loads((student / "manifest.json").read_text(encoding="utf-8"))["created"]
    return made in {one["created"] for one in json.loads(report.read_text(encoding="utf-8"))["artefacts"]}


def step(*arguments: str) -> str:
    """Run `bantam` with these arguments, its progress passed on; give back its standard output."""
    say(f"$ bantam {' '.join(arguments)}")
    done = subprocess.run([sys.executable, "-m", "bantam", *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode == 130:
        raise KeyboardInterrupt("run the demo again to go on from here")
    if done.returncode:
        raise ValueError(
            f"`bantam {arguments[0]}` failed; its message stands above, and a second run goes on from there"
        )
    return done.stdout


@contextmanager
def endpoint(bento: str, port: int) -> Iterator[str]:
    """The Bento as an HTTP endpoint on this machine while the block runs; its address."""
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "bentoml", "serve", bento, "--host", "127.0.0.1", "--port", str(port)]
    say(f"$ bentoml serve {bento} --port {port}")
    server = subprocess.Popen(command, stdout=sys.stderr, stderr=subprocess.STDOUT)
    try:
        wait_until_ready(server, address)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()


def wait_until_ready(server: subprocess.Popen, address: str) -> None:
    for _ in range(START * 10):
        if server.poll() is not None:
            raise ValueError(f"the endpoint at {address} ended by itself, as said above; --port takes another port")
        try:
            with urlopen(f"{address}/readyz", timeout=1):
                return
        except (URLError, TimeoutError):
            time.sleep(0.1)
    raise ValueError(f"the endpoint at {address} was not ready within {START} s")


def ask(address: str) -> tuple[str, float]:
    body = json.dumps({"inputs": QUESTION}).encode()
    request = Request(f"{address}/predict", body, {"content-type": "application/json"})
    with urlopen(request, timeout=10) as response:
        best = json.load(response)[0]
    return best["label"], best["score"]


def say(message: str) -> None:
    console.print(message, style="bold", highlight=False, markup=False, soft_wrap=True)

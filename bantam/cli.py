"""`bantam`: one command over all rooms. Rooms are imported when their command runs, so that help is quick."""

import json
import logging
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Small models that hit like large ones: compress a fine-tuned transformer, serve it, prove what it kept.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

ROOMS = ("bantam", "benchmarks", "compress", "serve")  # a module missing there is ours to mend, not the user's


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command of the app: what a user can mend, and a stop, end as one line on standard error and a code."""

    @app.command()
    @wraps(function)
    def run(*args: Any, **options: Any) -> None:
        try:
            function(*args, **options)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in ROOMS:
                raise
            name = function.__name__
            extra = {"study": "compress"}.get(name, name)
            print(f"error: bantam {name} needs {error.name}: pip install 'bantam[{extra}]'", file=sys.stderr)
            raise typer.Exit(2) from None
        except OSError as error:
            print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt as stop:
            print(f"stopped: {stop}" if str(stop) else "stopped", file=sys.stderr)
            raise typer.Exit(130) from None

    return run


Artefact = Annotated[Path, typer.Argument(help="Folder written by `bantam compress`.", metavar="ARTEFACT")]
Json = Annotated[bool, typer.Option("--json", help="End standard output with one JSON object.")]


@command
def compress(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe that comes along.")],
    out: Annotated[Path, typer.Option(help="Where the artefact goes; DIR.run beside it holds the run.", metavar="DIR")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="Lay key.path=value over the recipe.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped run, or keep a finished one.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there, once the new one is whole.")] = False,
    share: Annotated[
        Path | None, typer.Option(help="Keep stages there, for runs that begin alike.", metavar="DIR")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fine-tune the teacher, train the student, export it and measure it against the teacher."""
    from compress.launch import start_promised
    from compress.recipe import Recipe

    start_promised()
    chosen = Recipe.read(recipe, settings or [])
    from compress.pipeline import compress as run

    made = run(chosen, out, resume=resume, force=force, share=share)
    if is_first_process():
        result = {"artefact": str(made.root), "served": made.manifest.served, "metrics": made.manifest.metrics}
        answer(result, as_json, f"{made.root} is ready: bantam serve {made.root}")


@command
def inspect(artefact: Artefact, as_json: Json = False) -> None:
    """Verify every checksum and show the manifest."""
    from serve.inspect import report, show

    found = report(artefact)
    if not as_json:
        show(found)
    answer(found, as_json)


@command
def pack(
    artefact: Artefact,
    out: Annotated[Path, typer.Option(help="Where the packed artefact goes.", metavar="DIR")],
    everything: Annotated[
        bool, typer.Option("--everything", help="Keep the fp32 ONNX file and the torch weights as well.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there, once the new one is whole.")] = False,
    as_json: Json = False,
) -> None:
    """Make it small for download: without the zeros of pruned weights. All commands take a packed artefact as it is."""
    from serve.inspect import show_storage
    from serve.packing.pack import pack as run

    packed = run(artefact, out, everything=everything, force=force)
    if not as_json:
        show_storage(packed.storage)
    answer({"artefact": str(out), "storage": packed.storage}, as_json, f"{out} is ready: bantam serve {out}")


@command
def unpack(
    artefact: Annotated[Path, typer.Argument(help="Folder written by `bantam pack`.", metavar="ARTEFACT")],
    out: Annotated[Path, typer.Option(help="Where the ordinary artefact goes.", metavar="DIR")],
    force: Annotated[bool, typer.Option("--force", help="Replace what is there, once the new one is whole.")] = False,
    as_json: Json = False,
) -> None:
    """Make an ordinary artefact of a packed one; loading one does the same in the user's cache."""
    from serve.packing.unpack import unpack as run

    made = run(artefact, out, force=force)
    answer({"artefact": str(made.root), "served": made.manifest.served}, as_json, f"{made.root} is ready")


@command
def predict(
    artefact: Artefact,
    source: Annotated[
        str, typer.Option("--input", help="txt, jsonl, csv, tsv or parquet; - for standard input.")
    ] = "-",
    target: Annotated[str, typer.Option("--output", help="jsonl; - for standard output.")] = "-",
    batch: Annotated[int, typer.Option(min=1, help="Texts a chunk.")] = 256,
    as_json: Json = False,
) -> None:
    """Label a file of texts."""
    from serve.predict_file import predict_file

    summary = predict_file(artefact, source, target, batch=batch, progress=sys.stderr.isatty())
    answer(summary, as_json)


@command
def serve(
    artefact: Artefact,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 3000,
    workers: Annotated[int, typer.Option(min=1, help="Processes, one inference thread each.")] = 1,
    server: Annotated[
        str, typer.Option(help="uvicorn, granian (an extra), or bentoml: the service of a Bento, without building one.")
    ] = "uvicorn",
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Serve /metrics there; for uvicorn.", metavar="PORT")
    ] = None,
) -> None:
    """Answer over HTTP until stopped."""
    from serve.launch import launch

    launch(artefact, host, port, workers, server=server, metrics_port=metrics_port)


@command
def bench(
    artefacts: Annotated[
        list[Path], typer.Argument(help="Folders written by `bantam compress`.", metavar="ARTEFACT...")
    ],
    teacher: Annotated[Path | None, typer.Option(help="Folder of the teacher; found in the cache if left out.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Labelled texts; left out: the split that compress reported on.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Of each target.")] = 1,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the report here.", metavar="FILE")] = None,
    html_path: Annotated[
        Path | None, typer.Option("--html", help="Write a page with plots here.", metavar="FILE")
    ] = None,
) -> None:
    """Measure students against their teacher: speed, size, accuracy, agreement."""
    from benchmarks.report import markdown
    from benchmarks.run import bench as run

    report = run(
        artefacts, teacher=teacher, data=data, device=device, threads=threads, json_path=json_path, html_path=html_path
    )
    if not sys.stdout.isatty():  # a person has just seen the table
        print(markdown(report))


@command
def study(
    source: Annotated[Path, typer.Argument(help="A YAML file: arms, tasks, seeds.", metavar="STUDY.yaml")],
    out: Annotated[Path, typer.Option(help="Where runs, tables and plots go.", metavar="DIR")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what DIR holds, finished runs kept.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run anew what has another recipe now.")] = False,
    known: Annotated[
        Path | None, typer.Option(help="A study.json: what it finished is not run again.", metavar="JSON")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once; they share the cores.")] = 1,
    spare: Annotated[float, typer.Option(min=0, help="GiB of memory to leave free.", metavar="GIB")] = 2.0,
    as_json: Json = False,
) -> None:
    """Run arms x tasks x seeds, and tell means, spreads and paired differences."""
    from benchmarks.study.report import summary, write_all
    from benchmarks.study.table import markdown
    from compress.study.run import run_study

    def tell(results: dict[str, Any]) -> None:
        write_all(results, out)

    results = run_study(source, out, resume=resume, force=force, known=known, at_once=jobs, spare=spare, changed=tell)
    answer({"study": str(out), "arms": summary(results)}, as_json, markdown(results))


@command
def build(artefact: Artefact, as_json: Json = False) -> None:
    """Put the artefact into BentoML's model store and build a Bento around it."""
    from serve.bento import build as run

    built = run(artefact)
    answer(
        built, as_json, f"built {built['tag']}: bentoml serve {built['tag']}, or bentoml containerize {built['tag']}"
    )


@command
def demo(
    out: Annotated[Path, typer.Option(help="Where the artefact and the reports go.", metavar="DIR")] = Path("demo"),
    settings: Annotated[list[str] | None, typer.Option("--set", help="Lay key.path=value over the recipe.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 3000,
) -> None:
    """The whole line on film reviews: compress, build, serve, ask, benchmark."""
    from bantam.demo import demo as run

    run(out, settings or [], port)


def answer(result: dict[str, Any], as_json: bool, text: str = "") -> None:
    """The last line of standard output: JSON for programs, or a sentence for people."""
    if as_json:
        print(json.dumps(result), flush=True)
    elif text:
        print(text, flush=True)


def is_first_process() -> bool:
    """Under `accelerate launch` only the first process speaks."""
    return os.environ.get("RANK", "0") == "0"


def main() -> None:
    if is_first_process():
        logging.getLogger("compress").setLevel(logging.INFO)
    app()

"""What a worker process does; `python -m serve.launch.work` where it is not forked."""

import json
import os
import signal
import socket
import sys
from typing import Any

from serve.launch.board import BEATS, CLOSED, Board
from serve.launch.door import Channel
from serve.launch.server import Worker
from serve.settings import Settings


def work(app: Any, settings: Settings, channel: socket.socket, board: Board, metrics: socket.socket | None) -> int:
    """Serve what comes over `channel` until SIGTERM, or until the parent is gone; the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal it comes to all: the parent tells when to stop
    index = int(os.environ["BANTAM_WORKER"])

    def lost() -> None:
        board.add(index, CLOSED)

    worker = Worker(app, settings, Channel(channel, lost), metrics)
    worker.lost, worker.looked = lost, lambda: board.add(index, BEATS)
    return 0 if worker.run((signal.SIGTERM,)) and not app.failed else 1


def main() -> None:
    from serve.app import create_app
    from serve.settings import from_environment

    told = json.loads(sys.argv[1])
    # What the supervisor's workers are told, settings do not know.
    environ = {name: value for name, value in os.environ.items() if name != "BANTAM_WORKER"}
    settings = from_environment(environ)
    channel = socket.socket(fileno=told["channel"])
    metrics = None if told["metrics"] is None else socket.socket(fileno=told["metrics"])
    board = Board(settings.workers, told["board"])
    sys.exit(work(create_app(settings), settings, channel, board, metrics))


if __name__ == "__main__":
    main()

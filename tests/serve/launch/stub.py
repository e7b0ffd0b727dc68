"""`launch` with an app that answers by itself, so that what is seen is the server's doing: stub.py PORT WORKERS SERVER.

STUB_THREAD=1: loading leaves a thread, so that nothing may be forked. STUB_FAILS=1: a worker ends before it is ready.
"""

import asyncio
import json
import os
import sys
import threading
import types
from typing import Any


class Metrics:
    def text(self) -> bytes:
        return f"worker {os.environ.get('BANTAM_WORKER', '-')}\n".encode()


class App:
    failed = False
    metrics = Metrics()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            if os.environ.get("STUB_FAILS"):
                os._exit(7)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message["body"])
            more = message["more_body"]
        body = await self.answer(scope["path"].split("/")[1:], size)
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]}
        )
        await send({"type": "http.response.body", "body": body})

    async def answer(self, path: list[str], size: int) -> bytes:
        match path:
            case ["sleep", seconds]:
                await asyncio.sleep(float(seconds))
            case ["large", length]:
                return b"x" * int(length)
        worker = os.environ.get("BANTAM_WORKER")
        return json.dumps({"pid": os.getpid(), "parent": os.getppid(), "worker": worker, "size": size}).encode()


def create_app(settings: Any = None) -> App:
    if os.environ.get("STUB_THREAD"):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    return App()


# In the worker processes that are not forked this module stands in for the app as well, see `sitecustomize`.
sys.modules["serve.app"] = types.SimpleNamespace(create_app=create_app)  # type: ignore[assignment]

if __name__ == "__main__":
    from serve.launch import launch

    launch(".", "127.0.0.1", int(sys.argv[1]), int(sys.argv[2]), server=sys.argv[3])

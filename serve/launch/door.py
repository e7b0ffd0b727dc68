"""Where a worker's connections come from: the port itself, or a parent process that accepts and hands them over."""

import asyncio
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from serve.launch.address import BACKLOG

Factory = Callable[[], asyncio.Protocol]
AT_ONCE = 64  # connections that are taken before others have their turn


class Door(Protocol):
    async def open(self, factory: Factory, gone: Callable[[], None]) -> None:
        """Make a protocol for each connection from here on; `gone` is called when no more can come."""

    async def close(self) -> None:
        """Take what is already there, and nothing after it."""


class Port:
    """For a worker alone: the event loop accepts by itself."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening

    async def open(self, factory: Factory, gone: Callable[[], None]) -> None:
        self._factory = factory
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(factory, sock=self._listening.dup(), backlog=BACKLOG)

    async def close(self) -> None:
        """Closing a port that listens resets the connections in its queue, whose requests may be on their way."""
        loop = asyncio.get_running_loop()
        with suppress(BlockingIOError):
            while True:
                await _take(loop, self._factory, self._listening.accept()[0])
        self._server.close()
        self._listening.close()


class Channel:
    """For a worker among several: connections come as file descriptors, see `serve.launch.spread`."""

    def __init__(self, channel: socket.socket, failed: Callable[[], None]) -> None:
        self._channel = channel
        self._failed = failed  # one that was handed over could not be opened
        self._tasks = set[asyncio.Task[None]]()

    async def open(self, factory: Factory, gone: Callable[[], None]) -> None:
        self._factory, self._gone = factory, gone
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._channel, self._receive)
        self._channel.send(b"r")  # ready

    async def close(self) -> None:
        while self._receive():
            pass
        self._loop.remove_reader(self._channel)
        await asyncio.gather(*self._tasks)

    def _receive(self) -> bool:
        """Whether there may be more."""
        for _ in range(AT_ONCE):
            handed = receive(self._channel)
            if handed is None:
                return False
            if not handed:  # the parent is gone
                self._loop.remove_reader(self._channel)
                self._gone()
                return False
            for connection in handed:
                task = self._loop.create_task(self._made(connection))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        return True

    async def _made(self, connection: socket.socket) -> None:
        if not await _take(self._loop, self._factory, connection):
            self._failed()


async def _take(loop: AbstractEventLoop, factory: Factory, connection: socket.socket) -> bool:
    try:
        await loop.connect_accepted_socket(factory, connection)
    except OSError:  # its client has left already
        connection.close()
        return False
    return True


def hand(channel: socket.socket, connection: socket.socket) -> bool:
    """Whether the other end of `channel` will find `connection` there; its queue may be full."""
    try:
        socket.send_fds(channel, [b"c"], [connection.fileno()])
    except OSError:
        return False
    return True


def receive(channel: socket.socket) -> list[socket.socket] | None:
    """What was handed over; [] when the other end is closed, None when there is nothing now."""
    try:
        words, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    except (BlockingIOError, InterruptedError):
        return None
    return [socket.socket(fileno=descriptor) for descriptor in descriptors] if words else []

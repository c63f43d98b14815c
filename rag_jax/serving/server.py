"""Owns uvicorn: listens, answers until it is told to stop, and then finishes what was asked."""

import asyncio
import errno
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from rag_jax.errors import UserError
from rag_jax.serving.batching import Batcher
from rag_jax.serving.endpoint import make_app
from rag_jax.serving.page import mount
from rag_jax.serving.views import Views

LONGEST_FAREWELL = 60  # seconds for what is in flight; a second Ctrl-C does not wait
STOPPING = signal.SIGINT, signal.SIGTERM


def listen(host: str, port: int) -> socket.socket:
    """Takes the port, 0 for any that is free, before anything is loaded; UserError where it cannot be had."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            problem = f"--port: found {port} in use on {host}, expected a free one; --port=0 finds one"
        elif error.errno == errno.EACCES:
            problem = f"--port: found {port}, which needs more rights, expected 1024 or more"
        else:
            problem = f"--host: found {host!r} ({error.strerror}), expected an address of this machine, as 127.0.0.1"
        raise UserError(problem) from error


def address(listening: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(views: Views, listening: socket.socket, *, title: str) -> None:
    """Serves page and endpoint until SIGTERM or SIGINT; returns when all that was asked is answered, or given up."""
    with Batcher(views.answer, views.batch) as batcher:
        batcher.submit(views.own, ["?"]).result()  # its program is compiled before anybody waits for it
        left = asyncio.run(_serve(views, batcher, listening, title))
    ended = f"{left} questions were not answered in the time there was" if left else "all that was asked is answered"
    print(f"stopped; {ended}", flush=True)


async def _serve(views: Views, batcher: Batcher, listening: socket.socket, title: str) -> int:
    """Serves; returns how many questions were given up at the end."""
    app, where = make_app(views, batcher, title=title), address(listening)
    # Without uvicorn's logging, whose set-up closes everybody else's, and with it standard error.
    settings = uvicorn.Config(
        app, timeout_graceful_shutdown=LONGEST_FAREWELL, log_config=None, log_level="warning", ws="none"
    )
    server = uvicorn.Server(settings)
    with _signals_to(server.handle_exit):
        mount(app, views, batcher, title=title)  # here, as gradio makes its locks for the loop that runs
        print(f"page {where}  HTTP {where}/answer  described at {where}/docs  Ctrl-C stops", flush=True)
        await server.serve(sockets=[listening])
    return batcher.counts.waiting


@contextmanager
def _signals_to(stop: Callable[[int, Any], None]) -> Iterator[None]:
    """uvicorn hears signals only while it serves, and raises them once more when it is done: it hears these as well."""
    before = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

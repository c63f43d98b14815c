"""The tiny run, served: both of its indexes, in this process."""

import asyncio
from typing import NamedTuple

import httpx
import pytest

from rag_jax.serving.batching import Batcher
from rag_jax.serving.endpoint import make_app
from rag_jax.serving.views import Views


class Served(NamedTuple):
    views: Views
    batcher: Batcher
    app: object

    def post(self, *bodies, **request):
        """The responses to all bodies, sent at once; or to one request as httpx takes it."""

        async def all_at_once():
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here", timeout=300) as client:
                requests = [{"json": body} for body in bodies] or [request]
                return await asyncio.gather(*(client.post("/answer", **each) for each in requests))

        return asyncio.run(all_at_once())

    def get(self, path):
        async def one():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://here") as client:
                return await client.get(path)

        return asyncio.run(one())


@pytest.fixture(scope="module")
def views(tiny_run, tiny_rag, compiled_in_haste):
    return Views(tiny_rag, {"before": tiny_run.workdir / "index", "after": tiny_run.index_after})


@pytest.fixture(scope="module")
def served(views):
    """Batches are of 8 questions, as many as the devices: one program. They wait for each other for long."""
    with Batcher(views.answer, views.batch, gather=0.2) as batcher:
        yield Served(views, batcher, make_app(views, batcher, title="tiny"))

"""Owns fastapi: answers for programs. POST /answer, GET /healthz, and /docs, which needs no network."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict
from starlette.exceptions import HTTPException

from rag_jax.api import Answer
from rag_jax.errors import UserError
from rag_jax.progress import tell
from rag_jax.serving.batching import Batcher, Busy
from rag_jax.serving.problems import BodyLimit, explain, refusal, shown
from rag_jax.serving.views import MOST_LETTERS, Settings, Views

MOST_BYTES, MOST_QUESTIONS = 1 << 20, 64
JSON = "application/json"
EXAMPLE: JsonDict = {"questions": ["who wrote Dracula?"], "k": 5}


class Asked(BaseModel):
    """Questions, and how to answer them; what is left out is as the model was trained."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [EXAMPLE]})
    questions: list[Annotated[str, Field(max_length=MOST_LETTERS)]] = Field(
        min_length=1, max_length=MOST_QUESTIONS, description="What to answer, in this order."
    )
    index: str | None = Field(None, description="The index to answer from, by name; see /healthz.")
    kind: Literal["token", "sequence"] | None = Field(None, description="RAG-Token or RAG-Sequence.")
    mode: Literal["search", "sample", "thorough", "fast"] | None = Field(
        None, description="The decoding: search or sample for RAG-Token, thorough or fast for RAG-Sequence."
    )
    beams: int | None = Field(None, description="Beams of the search, for RAG-Sequence of every passage's.")
    k: int | None = Field(None, description="Passages to read.")
    tokens: bool = Field(False, description="Also which passages every token came from (RAG-Token).")


class Answers(BaseModel):
    """An answer to every question, in order, and the settings that they were given with."""

    answers: list[Answer]
    settings: Settings


class Problems(BaseModel):
    """Why a request was refused: a sentence a field, with what was found and what was expected."""

    problems: list[str]


class Health(BaseModel):
    """What is served: the indexes' names, the settings of a request that names none; and how much was done."""

    status: Literal["ok"]
    indexes: list[str]
    settings: Settings
    waiting: int = Field(description="Questions that are not answered yet.")
    questions: int = Field(description="Questions answered.")
    batches: int = Field(description="Batches that they were answered in.")


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problems, "description": "The body is not JSON."},
    413: {"model": Problems, "description": f"The body has more than {MOST_BYTES} bytes."},
    415: {"model": Problems, "description": f"The body is not said to be {JSON}."},
    422: {"model": Problems, "description": "A field is missing, unknown or wrong."},
    500: {"model": Problems, "description": "The server failed, as of a damaged file; its log says the same."},
    503: {"model": Problems, "description": "Too many questions wait for their answer."},
}


def make_app(views: Views, batcher: Batcher, *, title: str) -> FastAPI:
    """The endpoint as an ASGI application."""
    app = FastAPIOffline(title=title, version="1", description="Answers, and the passages they came from.")
    app.add_middleware(BodyLimit, most=MOST_BYTES)
    _refuse(app)

    @app.post("/answer", response_model=Answers, responses=REFUSALS, summary="Answers questions")
    async def answer(asked: Asked) -> Answers | Response:
        settings = views.settings(**asked.model_dump(exclude={"questions", "tokens"}))
        if problems := [*_problems(views, asked, settings)]:
            raise UserError("\n".join(problems))
        try:
            answers = await asyncio.wrap_future(batcher.submit(settings, asked.questions))
        except UserError as error:  # all that is the client's was checked before
            tell(f"error: {error}")
            return refusal(500, str(error).split("\n"))
        return Answers(answers=answers if asked.tokens else list(map(_without_tokens, answers)), settings=settings)

    @app.get("/healthz", summary="Whether the server answers, and what it serves")
    async def health() -> Health:
        return Health(status="ok", indexes=views.indexes, settings=views.own, **batcher.counts._asdict())

    return app


def _problems(views: Views, asked: Asked, settings: Settings) -> Iterator[str]:
    for number, question in enumerate(asked.questions):
        if problem := views.problem(question):
            yield f"questions[{number}]: {problem}"
    if asked.tokens and not views.tells_tokens(settings):
        yield "tokens: found true, expected false: here an answer has one posterior as a whole, not one a token"


def _without_tokens(answer: Answer) -> Answer:
    return replace(answer, tokens=(), others=tuple(map(_without_tokens, answer.others)))


def _refuse(app: FastAPI) -> None:
    """Every refusal has one form, and names what was wrong."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        found = request.headers.get("content-type", "")
        if found.partition(";")[0].strip().lower() != JSON:
            return refusal(415, [f"Content-Type: found {shown(found)}, expected {JSON}"])
        status = 400 if any(problem["type"] == "json_invalid" for problem in error.errors()) else 422
        return refusal(status, [explain(problem, Asked.model_fields, EXAMPLE) for problem in error.errors()])

    @app.exception_handler(UserError)
    async def wrong(_: Request, error: UserError) -> Response:
        return refusal(422, str(error).split("\n"))

    @app.exception_handler(Busy)
    async def busy(_: Request, error: Busy) -> Response:
        return refusal(503, [str(error)], {"Retry-After": "1"})

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # of a body that json does not read
            return refusal(400, [f"body: found no JSON in UTF-8, expected an object as {json.dumps(EXAMPLE)}"])
        problem = error.detail if error.status_code == 413 else f"{request.method} {request.url.path}: {error.detail}"
        return refusal(error.status_code, [problem], error.headers)

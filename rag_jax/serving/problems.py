"""What is wrong with a request: a sentence a field, with what was found and expected; and bodies that are too large."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

MOST_SHOWN = 60  # letters of what was found


def refusal(status: int, problems: Iterable[str], headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer to a request that cannot be answered: {"problems": [...]}."""
    return JSONResponse({"problems": list(problems)}, status, dict(headers or {}))


def explain(error: Mapping[str, Any], fields: Iterable[str], example: Any) -> str:
    """One of pydantic's errors as a sentence; fields: the names that the body may have. example: a body."""
    found: Any = error.get("input")
    about = error.get("ctx", {})
    field, kind = _named(error["loc"][1:]), error["type"]
    expected = f"an object as {json.dumps(example)}"
    if kind == "json_invalid":
        return f"body: found no JSON ({about['error']} at character {error['loc'][-1]}), expected {expected}"
    if kind == "missing":
        return f"{field or 'body'}: missing, expected {expected}"
    if kind == "extra_forbidden":
        return f"{field}: unknown, expected one of {', '.join(fields)}"
    if kind == "string_too_long":
        return f"{field}: found {len(found)} characters, expected at most {about['max_length']}"
    if kind in ("too_long", "too_short"):
        limit = f"at most {about['max_length']}" if kind == "too_long" else f"at least {about['min_length']}"
        return f"{field}: found {about['actual_length']} items, expected {limit}"
    if not field:
        return f"body: found {shown(found)}, expected {expected}"
    return f"{field}: found {shown(found)}, expected {error['msg'].removeprefix('Input should be ')}"


def shown(found: Any) -> str:
    """What was found, the beginning of it if it is long."""
    text = repr(found)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."


def _named(place: Iterable[str | int]) -> str:
    """questions[3] for ('questions', 3)."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


class BodyLimit:
    """An ASGI layer that refuses a request whose body has more than `most` bytes, before it is in memory."""

    def __init__(self, app: Any, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._most:
            await refusal(413, [self._reason(int(declared))])(scope, receive, send)
            return
        size = 0

        async def counted() -> Any:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._most:
                raise HTTPException(413, self._reason(size))
            return message

        await self._app(scope, counted, send)

    def _reason(self, size: int) -> str:
        return f"body: found {size} bytes or more, expected at most {self._most}"

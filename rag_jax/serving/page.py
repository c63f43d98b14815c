"""Owns gradio: the page, which asks and shows an answer with the passages that it came from."""

import asyncio
from typing import Any

import gradio
from fastapi import FastAPI

from rag_jax.decode.generate import MODES
from rag_jax.errors import UserError, fail
from rag_jax.serving.batching import Batcher, Busy
from rag_jax.serving.drawing import CSS, answer_html, problem_html
from rag_jax.serving.views import MOST_BEAMS, MOST_LETTERS, Settings, Views

KINDS = {"token": "RAG-Token", "sequence": "RAG-Sequence"}
MOST_BYTES = 1024  # of a file that is uploaded, which nothing here asks for


def mount(app: FastAPI, views: Views, batcher: Batcher, *, title: str) -> None:
    """Puts the page at / of an application.

    What a page chooses goes along with its question, so that nobody sees another one's choice.
    """
    with gradio.Blocks(analytics_enabled=False, title=title) as blocks:
        gradio.Markdown(f"## {title}")
        with gradio.Row(equal_height=True):
            question = gradio.Textbox(
                label="question", max_length=MOST_LETTERS, autofocus=True, scale=5, elem_id="question"
            )
            button = gradio.Button("ask", variant="primary", scale=1, elem_id="ask")
        with gradio.Row():
            controls = _controls(views)
        answer = gradio.HTML(elem_id="answer", apply_default_css=False, js_on_load=None)

        async def ask(asked: str, *values: Any) -> str:
            return await _ask(views, batcher, asked, dict(zip(controls, values, strict=True)))

        asking: dict[str, Any] = {"fn": ask, "inputs": [question, *controls.values()], "outputs": answer}
        # Without gradio's queue: there is one of our own, and an answer is an answer to a request.
        plain: dict[str, Any] = {"queue": False, "api_visibility": "private"}
        gradio.on([button.click, question.submit], **asking, **plain)
        for name, control in controls.items():
            if name == "kind" and "mode" in controls:
                chosen = control.input(_modes, control, controls["mode"], show_progress="hidden", **plain)
                chosen.then(**asking, **plain)
            elif name in ("beams", "k"):
                control.release(**asking, **plain)
            else:
                control.input(**asking, **plain)
    system = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    gradio.mount_gradio_app(
        app, blocks, path="/", theme=system, css=CSS, footer_links=[], max_file_size=MOST_BYTES, ssr_mode=False,
        mcp_server=False, pwa=False, enable_monitoring=False, run_history=False,
    )  # fmt: skip


def _controls(views: Views) -> dict[str, Any]:
    """What can be chosen of this model, by the names of Settings."""
    own = views.own
    controls: dict[str, Any] = {}
    if views.indexes:
        controls["index"] = gradio.Radio(views.indexes, value=own.index, label="index", elem_id="index")
    kinds = [(label, kind) for kind, label in KINDS.items()]
    controls["kind"] = gradio.Radio(kinds, value=own.kind, label="marginal", elem_id="kind")
    if not views.labelled:
        controls["mode"] = gradio.Radio(MODES[own.kind], value=own.mode, label="decoding", elem_id="mode")
        most = max(MOST_BEAMS, own.beams)
        controls["beams"] = _slider("beams", most, value=own.beams, label="beams")
    if views.indexes:
        most = max(map(views.most_k, views.indexes))
        if most > 1:
            controls["k"] = _slider("k", most, value=own.k, label="passages")
    return controls


def _slider(name: str, most: int, *, value: int, label: str) -> gradio.Slider:
    """Whole numbers from 1 on."""
    return gradio.Slider(1, most, value, step=1, precision=0, label=label, buttons=[], elem_id=name)


def _modes(kind: str) -> Any:
    """The decodings of a marginal, the first one chosen."""
    return gradio.Radio(MODES[kind], value=MODES[kind][0])


async def _ask(views: Views, batcher: Batcher, question: str, chosen: dict[str, Any]) -> str:
    """The answer as HTML, or why there is none; nothing before there is a question."""
    if not question.strip():
        return ""
    try:
        settings = views.settings(**chosen)
        if problem := views.problem(question):
            fail(f"question: {problem}")
        [answer] = await asyncio.wrap_future(batcher.submit(settings, [question]))
    except (UserError, Busy) as error:
        return problem_html(str(error))
    return answer_html(answer, _about(settings, views))


def _about(settings: Settings, views: Views) -> str:
    """How the answer came about."""
    said = [KINDS[settings.kind]]
    if not views.labelled:
        said += [settings.mode, f"{settings.beams} beam{'s' * (settings.beams > 1)}"]
    if settings.index:
        said += [f"{settings.k} passage{'s' * (settings.k > 1)} of index {settings.index}"]
        if not views.tells_tokens(settings):
            said += ["coloured as a whole: it has one posterior, not one a token"]
    return "".join(f" · {part}" for part in said)

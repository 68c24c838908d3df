"""The client's verbs on the command line: ``ask`` and ``watch``. Needs the extra ``cli``."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from longlook_client._ask import AskPlan, tell_on_stdout
from longlook_client._ask import ask as run_ask
from longlook_client._client import AsyncClient
from longlook_client._errors import AuthenticationError, ConnectError, LonglookError, UnavailableError
from longlook_client._options import SessionOptions
from longlook_client._types import Ingest
from longlook_client._watch import watch as run_watch

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Ask questions about live video.")

Source = Annotated[Path, typer.Argument(help="a video file", exists=True, dir_okay=False, readable=True)]
Url = Annotated[str | None, typer.Option(envvar="LONGLOOK_URL", help="the server's address")]
Key = Annotated[str | None, typer.Option(envvar="LONGLOOK_API_KEY", help="the API key that `longlook serve` prints")]
Fps = Annotated[float | None, typer.Option(min=0.01, help="pictures a second that the model sees")]
ModelName = Annotated[str | None, typer.Option("--model", help="the model to ask, if the server has several")]


@app.command()
def ask(
    source: Source,
    question: Annotated[list[str], typer.Option("--question", "-q", help="what to ask; may be given several times")],
    at: Annotated[float | None, typer.Option(min=0.0, help="ask at this second of the video, not at its end")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="not in real time, but as fast as the server can watch")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object at the end")] = False,
    fps: Fps = None,
    model: ModelName = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Play a video file to the server as a live stream, ask about it and print the answers as they come."""
    options = _options("complete" if fast else "live", fps, model)
    plan = AskPlan(source, tuple(question), at=at, fast=fast, options=options)

    async def run() -> bool:
        async with AsyncClient(url, key) as client:
            console = Console(stderr=True, quiet=as_json)
            report = await run_ask(client, plan, _silent if as_json else tell_on_stdout, console)
        if as_json:
            sys.stdout.write(json.dumps(asdict(report)) + "\n")
        return report.failed

    if _run(run()):
        raise typer.Exit(1)


@app.command()
def watch(source: Source, fps: Fps = None, model: ModelName = None, url: Url = None, key: Key = None) -> None:
    """Play a video file to the server as a live stream, see the stream's health and ask by typing."""
    options = _options("live", fps, model)

    async def run() -> None:
        async with AsyncClient(url, key) as client:
            await run_watch(client, source, options, Console())

    _run(run())


def _options(ingest: Ingest, fps: float | None, model: str | None) -> SessionOptions:
    options: SessionOptions = {"ingest": ingest}
    if fps is not None:
        options["fps"] = fps
    if model is not None:
        options["model"] = model
    return options


def _silent(text: str) -> None:
    """The teller of ``--json``: everything is in the report."""


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a verb; what went wrong is told in one line, with what to do about it."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except LonglookError as error:
        Console(stderr=True).print(Text.assemble(("longlook: ", "red"), _advice(error)), soft_wrap=True)
        raise typer.Exit(1) from None


def _advice(error: LonglookError) -> str:
    match error:
        case ConnectError():
            return f"{error}\nIs the server running? Start one with `longlook serve`, or name another with --url."
        case AuthenticationError():
            return f"{error}\nGive the key that the server printed at its start with --key or in LONGLOOK_API_KEY."
        case UnavailableError(code="starting"):
            return f"{error}\nThe server has no worker yet: its log says whether one is loading its model."
    return str(error)

"""The command's flags that are settings: each is written down once, and stands above file and environment."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from launcher.settings import put_flags

FLAGS: dict[str, Any] = {
    "host": Annotated[str | None, typer.Option(help="address to listen on")],
    "port": Annotated[int | None, typer.Option(min=0, max=65_535, help="port to listen on; 0 picks a free one")],
    "model": Annotated[
        str | None, typer.Option(help="bundled name, folder of weights, or organisation/name on the hub")
    ],
    "revision": Annotated[str | None, typer.Option(help="branch, tag or commit on the hub")],
    "cache_dir": Annotated[Path | None, typer.Option(help="where downloads are kept; default: the hub's own cache")],
    "offline": Annotated[bool | None, typer.Option("--offline", help="download nothing")],
    "device": Annotated[str | None, typer.Option(help="cpu or cuda")],
    "tensor_parallel": Annotated[int | None, typer.Option(min=1, help="GPUs that the model is divided among")],
    "weights": Annotated[str | None, typer.Option(help="fp8: matrices in eight bits")],
    "redis_url": Annotated[str | None, typer.Option(help="redis://, rediss:// or unix://; also REDIS_URL")],
    "unsafe_decoder": Annotated[
        bool | None, typer.Option("--unsafe-decoder", help="take media even where decoders cannot be confined")
    ],
}
GATEWAY = ("host", "port", "redis_url", "unsafe_decoder")
WORKER = ("model", "revision", "cache_dir", "offline", "device", "tensor_parallel", "weights", "redis_url")

Verb = Callable[[], None]


def takes(*names: str) -> Callable[[Verb], Callable[..., None]]:
    """A verb with these flags: what is given of them is set before it begins."""

    def with_flags(verb: Verb) -> Callable[..., None]:
        def run(**given: Any) -> None:
            put_flags(given)
            verb()

        kind = inspect.Parameter.KEYWORD_ONLY
        flags = [inspect.Parameter(name, kind, default=None, annotation=FLAGS[name]) for name in names]
        run.__name__, run.__doc__ = verb.__name__, verb.__doc__
        run.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]  # where Typer looks
        return run

    return with_flags

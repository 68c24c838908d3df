"""The ``longlook`` command: all in one, its parts one by one, and the client's verbs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from launcher.settings import Settings, put_flags
from launcher.valkey import ValkeyMissing

MISCONFIGURED = 78
CLIENT_VERBS = ("ask", "watch")

Host = Annotated[str | None, typer.Option(help="address to listen on")]
Port = Annotated[int | None, typer.Option(min=0, max=65_535, help="port to listen on; 0 picks a free one")]
Model = Annotated[str | None, typer.Option(help="bundled name, folder of weights, or organisation/name on the hub")]
Revision = Annotated[str | None, typer.Option(help="branch, tag or commit on the hub")]
CacheDir = Annotated[Path | None, typer.Option(help="where downloads are kept; default: the hub's own cache")]
Offline = Annotated[bool | None, typer.Option("--offline", help="download nothing")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda")]
UnsafeDecoder = Annotated[
    bool | None, typer.Option("--unsafe-decoder", help="take media even where decoders cannot be confined")
]
RedisUrl = Annotated[str | None, typer.Option(help="redis://, rediss:// or unix://; also REDIS_URL")]


class Verbs(TyperGroup):
    """Our verbs, and the client's, which are imported only when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *CLIENT_VERBS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in CLIENT_VERBS:
            from longlook_client.cli import app as client

            group: Any = typer.main.get_command(client)
            return group.get_command(ctx, cmd_name)
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Questions about live video, answered while it is still running.",
)


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    model: Model = None,
    revision: Revision = None,
    cache_dir: CacheDir = None,
    offline: Offline = None,
    device: Device = None,
    redis_url: RedisUrl = None,
    unsafe_decoder: UnsafeDecoder = None,
) -> None:
    """Run everything on this machine: an embedded Valkey (unless REDIS_URL is set), a worker and the gateway."""
    from launcher.serve import Plan, free_port, port_problem
    from launcher.serve import serve as run
    from protocol.logs import configure_logs
    from server.auth import new_key, parse_keys
    from server.settings import Settings as GatewaySettings
    from workers.settings import Settings as WorkerSettings

    _need_torch()
    put_flags({"host": host, "port": port, "redis_url": redis_url, "unsafe_decoder": unsafe_decoder})
    put_flags({"model": model, "revision": revision, "cache_dir": cache_dir, "offline": offline, "device": device})
    configure_logs("launcher")
    gateway, worker = GatewaySettings(), WorkerSettings()
    if gateway.port == 0:
        put_flags({"port": free_port(gateway.host)})
        gateway = GatewaySettings()
    if problem := port_problem(gateway.host, gateway.port):
        _fail(f"the gateway cannot listen on {problem}")
    try:
        parse_keys(gateway.api_keys.get_secret_value())
    except ValueError as error:
        _fail(str(error))
    key = ""
    if not gateway.api_keys.get_secret_value() and gateway.api_keys_file is None:
        key = new_key()
        put_flags({"api_keys": key})
    plan = Plan(
        host=gateway.host,
        port=gateway.port,
        model=worker.model,
        gateway_drain_s=gateway.drain_s,
        worker_drain_s=worker.drain_s,
        key=key,
    )
    try:
        raise typer.Exit(asyncio.run(run(Settings(), plan, typer.echo)))
    except (ValkeyMissing, OSError) as error:
        _fail(str(error))


@app.command()
def gateway(
    host: Host = None, port: Port = None, redis_url: RedisUrl = None, unsafe_decoder: UnsafeDecoder = None
) -> None:
    """Run a gateway alone. Needs REDIS_URL."""
    from server.__main__ import main as run

    put_flags({"host": host, "port": port, "redis_url": redis_url or _redis_url()})
    put_flags({"unsafe_decoder": unsafe_decoder})
    raise typer.Exit(run())


@app.command()
def worker(
    model: Model = None,
    revision: Revision = None,
    cache_dir: CacheDir = None,
    offline: Offline = None,
    device: Device = None,
    redis_url: RedisUrl = None,
) -> None:
    """Run a worker alone. Needs REDIS_URL and torch."""
    _need_torch()
    from workers.main import main as run
    from workers.settings import Settings as WorkerSettings

    put_flags({"model": model, "revision": revision, "cache_dir": cache_dir, "offline": offline, "device": device})
    put_flags({"redis_url": redis_url or _redis_url()})
    raise typer.Exit(run(WorkerSettings()))


@app.command()
def config() -> None:
    """Print the settings as they apply here, as a longlook.toml; secrets are masked."""
    from launcher.config import describe

    typer.echo(describe())


@app.command()
def doctor() -> None:
    """Check this machine, and say what is wrong and what to do about it."""
    from launcher.doctor import diagnose

    checks = asyncio.run(diagnose())
    for check in checks:
        typer.echo(f"{'ok  ' if check.ok else 'BAD '} {check.name:<8} {check.found}")
        if not check.ok:
            typer.echo(f"     {'':<8} {check.advice}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def main() -> None:
    """Entry point of the console script. A setting that makes no sense is told by its name, never by its value."""
    try:
        app()
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_input=False)]
        problem = "wrong settings: " + "; ".join(wrong)
    except TOMLDecodeError as error:
        problem = f"longlook.toml cannot be read: {error}"
    else:
        return
    typer.echo(f"longlook: {problem}", err=True)
    sys.exit(MISCONFIGURED)


def _redis_url() -> str:
    url = Settings().redis_url
    if not url:
        _fail("there is no bus: set REDIS_URL to a Redis >= 7 or Valkey >= 8, or run `longlook serve`")
    return url


def _need_torch() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "tokenizers", "safetensors", "huggingface_hub") if find_spec(name) is None]
    if missing:
        _fail(f"a worker needs {', '.join(missing)}: install them with `pip install 'longlook[worker]'`")


def _fail(sentence: str) -> None:
    typer.echo(f"longlook: {sentence}", err=True)
    raise typer.Exit(MISCONFIGURED)


if __name__ == "__main__":
    main()

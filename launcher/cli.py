"""The ``longlook`` command: all in one, its parts one by one, and the client's verbs."""

from __future__ import annotations

import asyncio
import sys
from tomllib import TOMLDecodeError
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from launcher.flags import GATEWAY, WORKER, takes
from launcher.settings import Settings, put_flags
from launcher.valkey import ValkeyMissing

if TYPE_CHECKING:
    from launcher.serve import Plan

MISCONFIGURED = 78
CLIENT_VERBS = ("ask", "watch")


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
@takes(*dict.fromkeys(GATEWAY + WORKER))
def serve() -> None:
    """Run everything on this machine: an embedded Valkey (unless REDIS_URL is set), a worker and the gateway."""
    from launcher.serve import serve as run
    from protocol.logs import configure_logs

    _need_torch()
    configure_logs("launcher")
    try:
        raise typer.Exit(asyncio.run(run(Settings(), _plan(), typer.echo)))
    except (ValkeyMissing, OSError) as error:
        _fail(str(error))


@app.command()
@takes(*GATEWAY)
def gateway() -> None:
    """Run a gateway alone. Needs REDIS_URL."""
    from server.__main__ import main as run

    _need_bus()
    raise typer.Exit(run())


@app.command()
@takes(*WORKER)
def worker() -> None:
    """Run a worker alone. Needs REDIS_URL and torch."""
    _need_torch()
    from workers.main import main as run
    from workers.settings import Settings as WorkerSettings

    _need_bus()
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


def _plan() -> Plan:
    """What `serve` is to start. A port and a key that nobody has set are chosen here."""
    from launcher.serve import Plan, free_port, port_problem
    from server.auth import new_key, parse_keys
    from server.settings import Settings as GatewaySettings
    from workers.settings import Settings as WorkerSettings

    gateway, worker = GatewaySettings(), WorkerSettings()
    if gateway.port == 0:
        put_flags({"port": free_port(gateway.host)})
        gateway = GatewaySettings()
    if problem := port_problem(gateway.host, gateway.port):
        _fail(f"the gateway cannot listen on {problem}")
    given, key = gateway.api_keys.get_secret_value(), ""
    try:
        parse_keys(given)
    except ValueError as error:
        _fail(str(error))
    if not given and gateway.api_keys_file is None:
        key = new_key()
        put_flags({"api_keys": key})
    return Plan(
        host=gateway.host,
        port=gateway.port,
        model=worker.model,
        gateway_drain_s=gateway.drain_s,
        worker_drain_s=worker.drain_s,
        key=key,
    )


def _need_bus() -> None:
    url = Settings().redis_url
    if not url:
        _fail("there is no bus: set REDIS_URL to a Redis >= 7 or Valkey >= 8, or run `longlook serve`")
    put_flags({"redis_url": url})


def _need_torch() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "tokenizers", "safetensors", "huggingface_hub") if find_spec(name) is None]
    if missing:
        _fail(f"a worker needs {', '.join(missing)}: install them with `pip install 'longlook[worker]'`")


def _fail(sentence: str) -> NoReturn:
    typer.echo(f"longlook: {sentence}", err=True)
    raise typer.Exit(MISCONFIGURED)


if __name__ == "__main__":
    main()

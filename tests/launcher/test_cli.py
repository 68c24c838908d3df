import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launcher import serve
from launcher.cli import app, main
from launcher.serve import Plan, free_port
from launcher.settings import Settings, put_flags
from server.settings import Settings as GatewaySettings
from workers.settings import Settings as WorkerSettings

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting from outside, and none left behind."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith("LONGLOOK_") or name == "REDIS_URL":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield
    os.environ.clear()
    os.environ.update(before)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_all_verbs_are_there() -> None:
    status, output = run("--help")
    assert status == 0
    for verb in ("serve", "gateway", "worker", "config", "doctor", "ask", "watch"):
        assert verb in output


def test_the_clients_verbs_are_the_clients() -> None:
    status, output = run("ask", "--help")
    assert status == 0
    assert "--question" in output


@pytest.mark.parametrize("verb", ["gateway", "worker"])
def test_a_part_alone_says_what_it_misses(verb: str) -> None:
    status, output = run(verb)
    assert status == 78
    assert "REDIS_URL" in output


def test_a_missing_torch_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for verb in ("serve", "worker"):
        status, output = run(verb)
        assert status == 78
        assert "pip install 'longlook[worker]'" in output


def test_config_masks_secrets() -> None:
    os.environ["LONGLOOK_API_KEYS"] = "alice:hunter2hunter2hunter2"
    os.environ["REDIS_URL"] = "redis://user:hunter2@example.org:6379/0"
    status, output = run("config")
    assert status == 0
    assert "hunter2" not in output
    assert 'redis_url = "redis://user:********@example.org:6379/0"' in output
    assert "[gateway.limits]" in output


def test_what_config_prints_is_a_file_that_sets_the_same() -> None:
    _, before = run("config")
    Path("longlook.toml").write_text(before)
    _, after = run("config")
    assert after == before


def test_flags_outrank_the_environment_which_outranks_the_file() -> None:
    Path("longlook.toml").write_text('[gateway]\nport = 1111\nhost = "10.0.0.1"\n[worker]\nmodel = "from-file"\n')
    assert (GatewaySettings().port, WorkerSettings().model) == (1111, "from-file")
    os.environ["LONGLOOK_PORT"] = "2222"
    os.environ["LONGLOOK_MODEL"] = "from-environment"
    assert (GatewaySettings().port, WorkerSettings().model) == (2222, "from-environment")
    put_flags({"port": 3333, "model": None})
    assert (GatewaySettings().port, WorkerSettings().model) == (3333, "from-environment")
    assert GatewaySettings().host == "10.0.0.1"


def test_either_name_of_the_bus_will_do() -> None:
    assert Settings().redis_url == ""
    os.environ["REDIS_URL"] = "redis://one"
    assert Settings().redis_url == "redis://one"
    os.environ["LONGLOOK_REDIS_URL"] = "redis://two"
    assert Settings().redis_url == "redis://two"


def test_the_engine_is_told_what_was_set() -> None:
    settings = WorkerSettings(model="m", device="cuda", pool_tokens=64, offline=True)
    assert settings.engine_arguments() == ["--model", "m", "--device", "cuda", "--pool-tokens", "64", "--offline"]


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("", "http://127.0.0.1:80"), ("::1", "http://[::1]:80")],
)
def test_the_address_is_one_that_can_be_opened_here(host: str, address: str) -> None:
    plan = Plan(host=host, port=80, model="m", gateway_drain_s=1, worker_drain_s=1, key="")
    assert plan.address == address


def test_a_free_port_is_free() -> None:
    assert free_port("127.0.0.1") > 0


def test_doctor_tells_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    os.environ["REDIS_URL"] = "unix:///nowhere/s.sock"
    status, output = run("doctor")
    assert status == 1
    assert "BAD  redis" in output
    assert "ok   python" in output


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["longlook", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_setting_that_makes_no_sense_is_told_by_name_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    os.environ["LONGLOOK_PORT"] = "hunter2"
    assert run_main(monkeypatch, "config") == 78
    told = capsys.readouterr().err
    assert "PORT" in told.upper()
    assert "hunter2" not in told


def test_a_broken_file_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("longlook.toml").write_text("[gateway\n")
    assert run_main(monkeypatch, "config") == 78
    assert "longlook.toml cannot be read" in capsys.readouterr().err


def test_serve_refuses_what_the_gateway_would_stumble_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        status, output = run("serve", "--port", str(taken.getsockname()[1]))
    assert status == 78
    assert "cannot listen" in output
    os.environ["LONGLOOK_API_KEYS"] = "short"
    status, output = run("serve", "--port", "0")
    assert status == 78
    assert "shorter than 16" in output


def test_serve_without_the_bus_it_was_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "BUS_WAIT_S", 0.0)
    status, output = run("serve", "--port", "0", "--redis-url", "unix:///nowhere/s.sock")
    assert status == 1
    assert "Is REDIS_URL right" in output


def test_where_a_model_comes_from_is_told_by_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[WorkerSettings] = []

    def listen(settings: WorkerSettings) -> int:
        told.append(settings)
        return 0

    monkeypatch.setattr("workers.main.main", listen)
    flags = ("--model", "a/b", "--revision", "main", "--cache-dir", str(tmp_path), "--offline", "--device", "cuda")
    status, _ = run(
        "worker", *flags, "--weights", "fp8", "--tensor-parallel", "2", "--redis-url", "redis://127.0.0.1:1"
    )
    assert status == 0
    (settings,) = told
    asked = ["--model", "a/b", "--revision", "main", "--cache-dir", str(tmp_path), "--device", "cuda"]
    assert settings.engine_arguments() == [*asked, "--tensor-parallel", "2", "--weights", "fp8", "--offline"]

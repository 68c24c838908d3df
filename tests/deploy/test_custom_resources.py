"""KEDA's and the Prometheus operator's resources, against the validators and types of npm's @kubernetes-models."""

import json
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path

import pytest

from tests.deploy.charts import EXAMPLES, NEEDS, Object, example, render
from tests.deploy.test_kubernetes_schemas import CUSTOM

pytestmark = pytest.mark.e2e

HERE = Path(__file__).parent


def complaints(objects: list[Object]) -> list[str]:
    node = shutil.which("node")
    if node is None or not (HERE / "node_modules").is_dir():
        pytest.skip(f"needs node, and {NEEDS.removeprefix('needs ')}")
    done = subprocess.run(
        [node, HERE / "check.mjs"], input=json.dumps(objects), capture_output=True, text=True, timeout=50, check=True
    )
    found: list[str] = json.loads(done.stdout)
    return found


def custom(objects: list[Object]) -> list[Object]:
    return [item for item in objects if item["kind"] in CUSTOM]


def test_custom_resources_are_valid() -> None:
    objects = [item for path in EXAMPLES for item in custom(render(example(path.stem)))]
    assert {item["kind"] for item in objects} == CUSTOM
    assert complaints(objects) == []


def test_the_check_can_fail() -> None:
    (scaled,) = [item for item in custom(render(example("production"))) if item["kind"] == "ScaledObject"]
    unknown, mistyped, misnamed, incomplete = (deepcopy(scaled) for _ in range(4))
    unknown["spec"]["triggers"][0]["metadataa"] = {}
    mistyped["spec"]["triggers"][0]["metadata"]["threshold"] = 0.7
    misnamed["spec"]["minReplicas"] = misnamed["spec"].pop("minReplicaCount")
    del incomplete["spec"]["triggers"][0]["type"]
    found = " ".join(complaints([unknown, mistyped, misnamed, incomplete]))
    for says in ("metadataa", "threshold must be string", "minReplicas", "must have required property type"):
        assert says in found

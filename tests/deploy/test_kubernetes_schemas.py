"""Every rendered object against Kubernetes' own schemas, strictly: a misspelt field fails."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import yaml

from tests.deploy.charts import CHART, EXAMPLES, NEEDS, Object, example, merged, render

pytestmark = pytest.mark.unit

OLDEST = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"].removeprefix(">=").removesuffix(".0-0")
VERSIONS = (OLDEST, "1.37")
CUSTOM = {"ScaledObject", "ServiceMonitor", "PrometheusRule"}  # test_custom_resources.py


@pytest.fixture(scope="module")
def validator() -> Iterator[Any]:
    """kubernetes_validate, which reads its 10 MB of schemas anew for each object unless it is kept from it."""
    module = pytest.importorskip("kubernetes_validate", reason=NEEDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kubernetes_validate.utils.schema_contents", cache(module.utils.schema_contents))
        yield module


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", [path.stem for path in EXAMPLES])
def test_objects_are_valid(values: str, version: str, validator: Any) -> None:
    for item in render(example(values)):
        if item["kind"] not in CUSTOM:
            validator.validate(item, version, strict=True)


def test_what_users_may_add_is_placed_where_it_is_valid(validator: Any) -> None:
    scheduling = {
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}
        ],
        "priorityClassName": "high",
        "podAnnotations": {"note": "x"},
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "settings": {"LONGLOOK_DRAIN_S": "9"},
    }
    more = {
        "gateway": {**scheduling, "service": {"type": "LoadBalancer", "annotations": {"a": "b"}}},
        "worker": {**scheduling, "runtimeClassName": "nvidia"},
        "valkey": {"nodeSelector": {"disk": "fast"}, "tolerations": [{"operator": "Exists"}]},
        "serviceAccount": {"annotations": {"role": "reader"}},
        "imagePullSecrets": [{"name": "registry"}],
        "commonLabels": {"team": "vision"},
    }
    objects = render(merged(example("trial"), more))
    for item in objects:
        validator.validate(item, VERSIONS[-1], strict=True)
        assert item["metadata"]["labels"]["team"] == "vision"
        if item["kind"] == "Deployment":
            spec = item["spec"]["template"]["spec"]
            assert spec["imagePullSecrets"] == [{"name": "registry"}]
            assert spec["nodeSelector"] == {"disk": "fast"}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda container: container.update(livenessProbee={}), "livenessProbee"),
        (lambda container: container["resources"].update(limits={"memory": ["4Gi"]}), "4Gi"),
        (lambda container: container["ports"][0].update(containerPort="http"), "http"),
    ],
)
def test_the_check_can_fail(spoil: object, says: str, validator: Any) -> None:
    assert callable(spoil)
    (gateway,) = [
        item for item in deployments(render(example("trial"))) if item["metadata"]["name"].endswith("gateway")
    ]
    spoil(gateway["spec"]["template"]["spec"]["containers"][0])
    with pytest.raises(validator.ValidationError, match=says):
        validator.validate(gateway, VERSIONS[-1], strict=True)


def deployments(objects: list[Object]) -> list[Object]:
    return [item for item in objects if item["kind"] == "Deployment"]

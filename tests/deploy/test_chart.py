"""What the chart must get right whatever the values: rendered by Helm, looked at as objects."""

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.routing import APIRoute

from server.drain import GRACE_S
from server.routes import health
from server.settings import Limits
from server.settings import Settings as GatewaySettings
from tests.deploy.charts import (
    CHART,
    EXAMPLES,
    NEEDS,
    Object,
    example,
    kinds,
    merged,
    render,
    render_texts,
    the,
)
from tests.deploy.metrics import complaints
from workers.main import BUS_WAIT_S
from workers.settings import Settings as WorkerSettings

pytestmark = pytest.mark.unit

FIELDS = {"gateway": set(GatewaySettings.model_fields), "worker": set(WorkerSettings.model_fields)}


@pytest.fixture(params=[path.stem for path in EXAMPLES])
def objects(request: pytest.FixtureRequest) -> list[Object]:
    """Each of the example releases in turn."""
    return render(example(request.param))


def pods(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Each object that makes pods, with the pod's template."""
    for item in objects:
        if item["kind"] == "Deployment":
            yield item, item["spec"]["template"]
        elif item["kind"] == "Pod":
            yield item, item


def containers(objects: list[Object]) -> Iterator[Object]:
    for _, pod in pods(objects):
        yield from pod["spec"]["containers"]


def environment(container: Object) -> dict[str, str]:
    """The variables that are given a value in the manifest itself."""
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def container(objects: list[Object], component: str) -> Object:
    (only,) = the(objects, "Deployment", component)["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def test_lint_has_no_complaint() -> None:
    helm = pytest.importorskip("helm_python", reason=NEEDS)
    for path in EXAMPLES:
        report = helm.lint(CHART, example(path.stem), strict=True)
        assert [message for message in report["messages"] if message["severity"] > 1] == []
        assert report["errors"] == []


def test_a_packaged_chart_holds_the_dashboard_and_the_alerts_themselves(tmp_path: Path) -> None:
    helm = pytest.importorskip("helm_python", reason=NEEDS)
    with tarfile.open(helm.package(CHART, destination=tmp_path)) as archive:
        for name in ("alerts.yaml", "longlook.json"):
            packed = archive.extractfile(f"longlook/files/{name}")
            assert packed is not None
            assert packed.read() == (CHART / "files" / name).read_bytes()


def test_no_two_objects_share_a_name(objects: list[Object]) -> None:
    assert len(set(kinds(objects))) == len(objects)


def test_what_is_off_is_not_there() -> None:
    everything = render(example("production"))
    no_gateway = render(example("workers"))
    assert not [name for name in kinds(no_gateway) if name.endswith("-gateway")]
    assert not [name for name in kinds(no_gateway) if name.startswith("Pod/")]
    bare = merged(example("production"), {"networkPolicy": {"enabled": False}, "worker": {"enabled": False}})
    left = {name.split("/")[0] for name in kinds(render(bare))}
    assert "NetworkPolicy" not in left
    assert "ScaledObject" not in left
    assert "NetworkPolicy" in {name.split("/")[0] for name in kinds(everything)}


# --- settings ---------------------------------------------------------------------------------------------------------


def test_every_variable_is_a_setting_of_its_program(objects: list[Object]) -> None:
    for item in containers(objects):
        if item["name"] not in FIELDS:
            continue
        named = {entry["name"] for entry in item["env"] if entry["name"].startswith("LONGLOOK_")}
        assert named
        assert {name.removeprefix("LONGLOOK_").lower().split("__")[0] for name in named} <= FIELDS[item["name"]]


def test_the_gateway_understands_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    item = container(render(example("production")), "gateway")
    for name, value in environment(item).items():
        monkeypatch.setenv(name, value)
    settings = GatewaySettings()
    (port,) = [port["containerPort"] for port in item["ports"]]
    assert (settings.host, settings.port) == ("0.0.0.0", port)  # noqa: S104 - it is meant to be reached
    assert settings.drain_s == 30
    assert settings.origins == ("https://app.example.org",)
    assert settings.limits.sessions == 256
    assert settings.api_keys_file == Path("/etc/longlook/keys/api-keys")


def test_the_worker_understands_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(container(render(example("production")), "worker")).items():
        monkeypatch.setenv(name, value)
    settings = WorkerSettings()
    assert (settings.model, settings.device) == ("Qwen/Qwen2.5-VL-7B-Instruct", "cuda")
    assert (settings.start_s, settings.drain_s) == (1800, 60)


def test_keys_and_passwords_come_from_secrets_alone(objects: list[Object]) -> None:
    for item in containers(objects):
        for entry in item.get("env", []):
            if re.search("PASSWORD|TOKEN|KEY$", entry["name"]):
                assert set(entry["valueFrom"]) == {"secretKeyRef"}
    (keys,) = [
        volume["secret"]["secretName"]
        for item, pod in pods(objects)
        for volume in pod["spec"].get("volumes", [])
        if volume["name"] == "keys"
    ] or ["longlook-keys"]
    assert keys == "longlook-keys"


def test_the_kubelet_puts_the_password_into_the_url() -> None:
    names = [entry["name"] for entry in container(render(example("trial")), "gateway")["env"]]
    assert names.index("VALKEY_PASSWORD") < names.index("LONGLOOK_REDIS_URL")
    assert environment(container(render(example("trial")), "worker"))["LONGLOOK_REDIS_URL"] == (
        "redis://:$(VALKEY_PASSWORD)@demo-longlook-valkey:6379/0"
    )


# --- life cycle -------------------------------------------------------------------------------------------------------


def test_a_gateway_has_time_to_drain_before_it_is_killed() -> None:
    values = merged(example("production"), {"gateway": {"drainSeconds": 123, "preStopSeconds": 7}})
    objects = render(values)
    item = container(objects, "gateway")
    assert item["lifecycle"]["preStop"] == {"sleep": {"seconds": 7}}
    assert environment(item)["LONGLOOK_DRAIN_S"] == "123"
    spec = the(objects, "Deployment", "gateway")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] >= 7 + 123 + GRACE_S + 5


def test_a_worker_has_time_to_drain_before_it_is_killed() -> None:
    objects = render(merged(example("production"), {"worker": {"drainSeconds": 123}}))
    assert environment(container(objects, "worker"))["LONGLOOK_DRAIN_S"] == "123"
    spec = the(objects, "Deployment", "worker")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] >= 123 + 15


def test_probes_ask_for_what_the_gateway_serves() -> None:
    served = {route.path for route in health.router.routes if isinstance(route, APIRoute)}
    item = container(render(example("production")), "gateway")
    asked = {item[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")}
    assert asked == {"/livez", "/readyz"} < served
    # A gateway that waits for its bus must not be restarted for it.
    assert item["livenessProbe"]["httpGet"]["path"] == item["startupProbe"]["httpGet"]["path"] == "/livez"
    (endpoint,) = the(render(example("production")), "ServiceMonitor", "gateway")["spec"]["endpoints"]
    assert endpoint["path"] in served


def test_an_update_waits_for_each_worker_to_be_ready_before_the_next_goes() -> None:
    objects = render(example("production"))
    spec = the(objects, "Deployment", "worker")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert spec["progressDeadlineSeconds"] > 1800
    item = container(objects, "worker")
    startup = item["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] >= 1800 + BUS_WAIT_S
    asked = [item[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")]
    assert asked == ["/readyz", "/readyz", "/livez"]
    assert environment(item)["LONGLOOK_HEALTH_PORT"] == str(item["ports"][0]["containerPort"])


def test_an_autoscaler_alone_says_how_many_pods_there_are() -> None:
    scaled = render(example("production"))
    fixed = render(example("trial"))
    for component in ("gateway", "worker"):
        assert "replicas" not in the(scaled, "Deployment", component)["spec"]
        assert the(fixed, "Deployment", component)["spec"]["replicas"] == 1


@pytest.mark.parametrize("kind", ["keda", "hpa"])
def test_workers_scale_by_their_reserved_share(kind: str) -> None:
    values = merged(example("production"), {"worker": {"autoscaling": {"kind": kind, "targetShare": 0.65}}})
    objects = render(values)
    if kind == "keda":
        spec = the(objects, "ScaledObject", "worker")["spec"]
        (trigger,) = spec["triggers"]
        assert trigger["metricType"] == "AverageValue"
        assert trigger["metadata"]["threshold"] == "0.65"
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    else:
        spec = the(objects, "HorizontalPodAutoscaler", "worker")["spec"]
        assert spec["metrics"][0]["external"]["target"] == {"type": "AverageValue", "averageValue": "650m"}
        behavior = spec["behavior"]
    assert spec["scaleTargetRef"]["name"] == the(objects, "Deployment", "worker")["metadata"]["name"]
    assert behavior["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 300}]


def test_workers_scale_by_metrics_that_exist() -> None:
    (trigger,) = the(render(example("production")), "ScaledObject", "worker")["spec"]["triggers"]
    assert complaints(trigger["metadata"]["query"]) == []


def test_an_update_of_the_chart_by_itself_restarts_no_pod(objects: list[Object]) -> None:
    for item in objects:
        if item["kind"] == "Deployment":
            assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(
                item["spec"]["template"]["metadata"]["labels"]
            )


def test_gpus_are_asked_for_and_limited_alike() -> None:
    resources = container(render(example("production")), "worker")["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == 1
    on_cpu = container(render(example("trial")), "worker")
    assert "nvidia.com/gpu" not in json.dumps(on_cpu)
    assert environment(on_cpu)["LONGLOOK_DEVICE"] == "cpu"


def test_a_model_is_divided_among_a_workers_gpus() -> None:
    several = container(render(merged(example("production"), {"worker": {"gpu": {"count": 2}}})), "worker")
    assert environment(several)["LONGLOOK_TENSOR_PARALLEL"] == "2"
    assert {"name": "shared", "mountPath": "/dev/shm"} in several["volumeMounts"]
    alone = container(render(example("production")), "worker")
    assert "LONGLOOK_TENSOR_PARALLEL" not in environment(alone)
    assert "/dev/shm" not in json.dumps(alone)


# --- who finds whom ---------------------------------------------------------------------------------------------------


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def test_every_selector_finds_the_pods_of_its_component_and_no_others(objects: list[Object]) -> None:
    labels = {item["metadata"]["name"]: pod["metadata"]["labels"] for item, pod in pods(objects)}
    for item in objects:
        selector: Any = {
            "Service": lambda spec: spec["selector"],
            "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda spec: spec["podSelector"]["matchLabels"],
            "Deployment": lambda spec: spec["selector"]["matchLabels"],
        }.get(item["kind"])
        if selector is not None:
            found = [name for name, own in labels.items() if matches(selector(item["spec"]), own)]
            assert found == [item["metadata"]["name"]]


def test_named_ports_exist_where_they_are_named(objects: list[Object]) -> None:
    ports = {item["name"]: {port["name"] for port in item.get("ports", [])} for item in containers(objects)}
    for item in containers(objects):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in item:
                actions = [item[probe][key] for key in ("httpGet", "tcpSocket") if key in item[probe]]
                assert all(action["port"] in ports[item["name"]] for action in actions)
    for item in objects:
        component = item["metadata"]["labels"]["app.kubernetes.io/component"]
        if item["kind"] == "Service":
            assert {port["targetPort"] for port in item["spec"]["ports"]} <= ports[component]
            services = {port["name"] for port in item["spec"]["ports"]}
            assert services == {"redis"} if component == "valkey" else services == {"http"}
        if item["kind"] == "ServiceMonitor":
            assert {endpoint["port"] for endpoint in item["spec"]["endpoints"]} == {"http"}
        if item["kind"] == "NetworkPolicy":
            assert {port["port"] for rule in item["spec"]["ingress"] for port in rule["ports"]} <= ports[component]


def test_the_monitor_finds_the_gateways_service() -> None:
    objects = render(example("production"))
    wanted = the(objects, "ServiceMonitor", "gateway")["spec"]["selector"]["matchLabels"]
    services = [item for item in objects if item["kind"] == "Service"]
    assert [item["metadata"]["name"] for item in services if matches(wanted, item["metadata"]["labels"])] == [
        "demo-longlook-gateway"
    ]


def test_helm_test_reaches_a_gateway_that_is_closed_to_others() -> None:
    objects = render(example("production"))
    (rule,) = the(objects, "NetworkPolicy", "gateway")["spec"]["ingress"]
    allowed = [peer["podSelector"]["matchLabels"] for peer in rule["from"] if "podSelector" in peer]
    assert any(matches(labels, the(objects, "Pod", "test")["metadata"]["labels"]) for labels in allowed)
    assert len(rule["from"]) == 3


def test_the_ingress_lets_the_largest_file_through() -> None:
    annotations = the(render(example("production")), "Ingress", "gateway")["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/proxy-body-size"] == f"{Limits().file_bytes >> 20}m"


def egress_ports(objects: list[Object], component: str) -> list[list[int]]:
    rules = the(objects, "NetworkPolicy", component)["spec"]["egress"]
    return [[port["port"] for port in rule["ports"]] for rule in rules]


def test_gateways_reach_cameras_only_where_that_is_asked_for() -> None:
    production = example("production")
    assert egress_ports(render(production), "gateway") == [[53, 53], [6379]]
    near = [{"ipBlock": {"cidr": "192.168.7.0/24"}}]
    asked = render(merged(production, {"networkPolicy": {"cameras": {"enabled": True, "to": near, "ports": [554]}}}))
    assert egress_ports(asked, "gateway") == [[53, 53], [6379], [554]]
    assert the(asked, "NetworkPolicy", "gateway")["spec"]["egress"][-1]["to"] == near
    assert egress_ports(asked, "worker") == egress_ports(render(production), "worker")


def test_a_journal_lies_on_its_volume_and_its_key_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    helm = pytest.importorskip("helm_python", reason=NEEDS)
    journal = {"enabled": True, "existingClaim": "recordings", "keySecret": {"name": "longlook-journal"}}
    objects = render(merged(example("production"), {"gateway": {"journal": journal}}))
    gateway = container(objects, "gateway")
    for name, value in environment(gateway).items():
        monkeypatch.setenv(name, value)
    settings = GatewaySettings().journal
    mounts = {mount["name"]: mount["mountPath"] for mount in gateway["volumeMounts"]}
    assert str(settings.dir) == mounts["journal"]
    assert settings.key_file == Path(mounts["journal-key"]) / "journal-key"
    volumes = the(objects, "Deployment", "gateway")["spec"]["template"]["spec"]["volumes"]
    named = {volume["name"]: volume for volume in volumes}
    assert named["journal"]["persistentVolumeClaim"]["claimName"] == "recordings"
    assert named["journal-key"]["secret"]["secretName"] == "longlook-journal"
    plain = container(render(example("production")), "gateway")
    assert not [mount for mount in plain["volumeMounts"] if mount["name"].startswith("journal")]
    for missing in ({**journal, "existingClaim": ""}, {**journal, "keySecret": {"name": ""}}):
        with pytest.raises(helm.HelmError, match=r"gateway\.journal"):
            render(merged(example("production"), {"gateway": {"journal": missing}}))


def test_what_workers_download_lies_on_their_volume() -> None:
    item = container(render(example("production")), "worker")
    mounts = {mount["name"]: mount["mountPath"] for mount in item["volumeMounts"]}
    assert environment(item)["HOME"] == mounts["models"]


def test_nothing_reaches_into_a_worker() -> None:
    assert the(render(example("production")), "NetworkPolicy", "worker")["spec"]["ingress"] == []


def test_the_trial_valkey_is_reached_by_this_product_alone() -> None:
    policy = the(render(example("trial")), "NetworkPolicy", "valkey")["spec"]
    assert policy["egress"] == []
    (rule,) = policy["ingress"]
    assert rule["from"] == [
        {
            "podSelector": {
                "matchLabels": {"app.kubernetes.io/instance": "demo", "app.kubernetes.io/part-of": "longlook"}
            }
        }
    ]


# --- security ---------------------------------------------------------------------------------------------------------


def test_pods_meet_the_restricted_pod_security_standard(objects: list[Object]) -> None:
    for _, pod in pods(objects):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert all({"emptyDir", "secret", "persistentVolumeClaim"} & set(volume) for volume in spec.get("volumes", []))
    for item in containers(objects):
        assert item["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert item["resources"]["limits"]["memory"]


# --- bad values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"redis": {"url": ""}}, "the bus: set redis.url"),
        ({"redis": {"url": "redis://r"}, "valkey": {"enabled": True}}, "the bus: set only one"),
        ({"redis": {"url": "redis://r"}, "auth": {"existingSecret": {"name": ""}}}, "set auth.existingSecret.name"),
        ({"redis": {"url": "redis://r"}, "gateway": {"ingress": {"enabled": True}}}, "at least one name"),
        ({"redis": {"url": "http://r"}}, "does not match pattern"),
        ({"gateway": {"replica": 3}}, "replica"),
        ({"gateway": {"settings": {"longlook_port": "1"}}}, "longlook_port"),
        ({"worker": {"autoscaling": {"kind": "vpa"}}}, "kind"),
        ({"worker": {"autoscaling": {"targetShare": 1.5}}}, "targetShare"),
        ({"worker": {"gpu": {"resource": "gpu"}}}, "resource"),
        ({"workers": {}}, "workers"),
    ],
)
def test_bad_values_are_refused_by_name(values: dict[str, Any], says: str) -> None:
    helm = pytest.importorskip("helm_python", reason=NEEDS)
    with pytest.raises(helm.HelmError, match=re.escape(says)):
        render_texts(merged({"auth": {"existingSecret": {"name": "longlook-keys"}}}, values))


def test_the_schema_knows_every_value_and_no_other() -> None:
    """Walks both: a value without a rule would pass unchecked, a rule without a value would be undocumented."""
    schema = json.loads((CHART / "values.schema.json").read_text())

    def walk(values: dict[str, Any], rule: dict[str, Any], path: str) -> Iterator[str]:
        rule = schema["definitions"][rule["$ref"].rpartition("/")[2]] if "$ref" in rule else rule
        if "properties" not in rule:
            return
        for name in sorted(set(values) ^ set(rule["properties"])):
            yield f"{path}{name}"
        for name in set(values) & set(rule["properties"]):
            if isinstance(values[name], dict):
                yield from walk(values[name], rule["properties"][name], f"{path}{name}.")

    optional = {"global", "gateway.resources.requests", "gateway.resources.limits"}
    assert set(walk(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")) <= optional


def test_the_values_meet_their_schema_by_another_validator_too() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason=NEEDS)
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    for path in EXAMPLES:
        jsonschema.Draft7Validator(schema).validate(merged(defaults, example(path.stem)))

import shutil
import subprocess

import pytest
import yaml

from tests.deploy.charts import DEPLOY, NEEDS, Object, example, render, the
from tests.deploy.metrics import complaints

pytestmark = pytest.mark.unit

RULES = DEPLOY / "prometheus" / "alerts.yaml"
EXAMPLES = DEPLOY / "prometheus" / "alerts.test.yaml"


def rules() -> list[Object]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_metrics_that_exist(rule: Object) -> None:
    assert complaints(rule["expr"]) == []


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_how_much_it_matters(rule: Object) -> None:
    assert rule["alert"].startswith("Longlook")
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "description"}
    assert rule["for"]


def test_every_alert_has_an_example_in_which_it_fires() -> None:
    fires = {
        check["alertname"]
        for test in yaml.safe_load(EXAMPLES.read_text())["tests"]
        for check in test["alert_rule_test"]
        if check["exp_alerts"]
    }
    assert fires == {rule["alert"] for rule in rules()}


def test_the_examples_fire_as_they_should() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (apt-get install prometheus)")
    subprocess.run([promtool, "test", "rules", EXAMPLES], check=True, capture_output=True, timeout=50)


def test_the_chart_carries_the_same_rules() -> None:
    carried = the(render(example("production")), "PrometheusRule", "alerts")["spec"]
    assert carried == yaml.safe_load(RULES.read_text())


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("longlook_buss_up == 0", ["no metric longlook_buss_up"]),
        ('longlook_frames_dropped_total{why="x"}', ["longlook_frames_dropped_total has no label why"]),
        ("sum by (tenant) (longlook_bus_up)", ["grouped by tenant, which no metric of it has"]),
        ("rate(longlook_frames_received[5m])", ["no metric longlook_frames_received"]),
        ("sum by (le) (longlook_ingest_lag_seconds_bucket)", []),
    ],
)
def test_the_check_can_fail(expression: str, says: list[str]) -> None:
    assert complaints(expression) == says


def test_broken_expressions_are_refused() -> None:
    pytest.importorskip("promql_parser", reason=NEEDS)
    with pytest.raises(ValueError, match=r"\S"):
        complaints("sum by (le (longlook_bus_up)")

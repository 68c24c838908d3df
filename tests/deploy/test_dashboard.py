import json
import re
from itertools import combinations

import pytest

from tests.deploy.charts import DEPLOY, Object, example, render, the
from tests.deploy.metrics import complaints

pytestmark = pytest.mark.unit

DASHBOARD: Object = json.loads((DEPLOY / "grafana" / "longlook.json").read_text())
PANELS: list[Object] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_asks_for_metrics_that_exist(panel: Object) -> None:
    for target in panel["targets"]:
        assert complaints(target["expr"]) == []
        for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
            assert label in re.search(r"by \(([^)]*)\)", target["expr"])[1]  # type: ignore[index]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_in_which_unit(panel: Object) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_follows_the_choice_of_source_and_gateway(panel: Object) -> None:
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}"
        assert target["expr"].count("longlook_") == target["expr"].count('instance=~"$instance"')


def test_no_panel_lies_on_another() -> None:
    def cells(panel: Object) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        return {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}

    for one, other in combinations(DASHBOARD["panels"], 2):
        assert not cells(one) & cells(other)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_chart_carries_the_same_dashboard() -> None:
    carried = the(render(example("production")), "ConfigMap", "dashboard")
    assert carried["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(carried["data"]["longlook.json"]) == DASHBOARD

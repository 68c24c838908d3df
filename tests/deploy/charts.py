"""The chart as Helm itself renders it: its Go library, loaded from a wheel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm" / "longlook"
EXAMPLES = sorted((DEPLOY / "helm" / "values").glob("*.yaml"))
NEEDS = "needs the packages of `make deploy-tools`"

Object = dict[str, Any]
Values = Mapping[str, Any]


def example(name: str) -> Values:
    """The values of deploy/helm/values/NAME.yaml."""
    values: Values = yaml.safe_load((DEPLOY / "helm" / "values" / f"{name}.yaml").read_text())
    return values


def merged(values: Values, more: Values) -> dict[str, Any]:
    """``more`` over ``values``, as a second ``--values`` file."""
    result = dict(values)
    for key, value in more.items():
        before = result.get(key)
        both_maps = isinstance(before, Mapping) and isinstance(value, Mapping)
        result[key] = merged(before, value) if both_maps and before is not None else value
    return result


def render_texts(values: Values, *, name: str = "demo", namespace: str = "video") -> dict[str, str]:
    """Template path to text. Skips the test where Helm is not installed; raises HelmError as Helm does."""
    helm = pytest.importorskip("helm_python", reason=NEEDS)
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        texts: dict[str, str] = chart.render(values, name=name, namespace=namespace)
    return texts


def render(values: Values, *, name: str = "demo", namespace: str = "video") -> list[Object]:
    """All Kubernetes objects of a release."""
    texts = render_texts(values, name=name, namespace=namespace)
    documents = (
        document
        for path, text in sorted(texts.items())
        if not path.endswith(".txt")
        for document in yaml.safe_load_all(text)
    )
    return [document for document in documents if document is not None]


def the(objects: list[Object], kind: str, name: str) -> Object:
    """The only object of a kind whose name ends so."""
    (found,) = [item for item in objects if item["kind"] == kind and item["metadata"]["name"].endswith(name)]
    return found


def kinds(objects: list[Object]) -> list[str]:
    return [f"{item['kind']}/{item['metadata']['name']}" for item in objects]

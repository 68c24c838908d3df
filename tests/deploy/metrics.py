"""Which metrics the code exports, and which ones an expression of PromQL asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from server.metrics import Metrics
from tests.deploy.charts import NEEDS

SCRAPED = {"instance", "job", "namespace", "pod"}  # labels that Prometheus itself adds
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "summary": ["_sum", "_count"]}
# Grafana puts these in before Prometheus sees the expression.
VARIABLES = {"$__rate_interval": "5m", "$__range": "1h", "$instance": ".*"}


def exported(registry: CollectorRegistry) -> dict[str, set[str]]:
    """Sample name -> its labels, of all that a registry holds, whether or not a sample is there yet."""
    names: dict[str, set[str]] = {}
    for collector in set(registry._names_to_collectors.values()):
        labels = set(getattr(collector, "_labelnames", ())) | SCRAPED
        for family in collector.describe():  # type: ignore[attr-defined]
            for suffix in SUFFIXES.get(family.type, [""]):
                names[family.name + suffix] = labels | {"le"} if suffix == "_bucket" else labels
    return names


def known() -> dict[str, set[str]]:
    """What the product exports."""
    return exported(Metrics().registry)


def complaints(expression: str) -> list[str]:
    """What an expression asks for that nobody exports. ValueError where it is no PromQL."""
    names = known()
    asked = list(selectors(expression))
    found = [f"no metric {name}" for name, _ in asked if name not in names]
    matched = {(name, label) for name, labels in asked for label in labels}
    found += [f"{name} has no label {label}" for name, label in matched if label not in names.get(name, {label})]
    grouped = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(",")}
    there = {label for name, _ in asked for label in names.get(name, set())}
    return found + [f"grouped by {label}, which no metric of it has" for label in grouped - there]


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Metric and label names of each selector. ValueError where the expression is no PromQL."""
    parser = pytest.importorskip("promql_parser", reason=NEEDS)
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    found: list[Any] = []

    def visit(node: Any) -> bool:
        if isinstance(node, parser.VectorSelector):
            found.append(node)
        return True

    parser.walk(parser.parse(expression), visit)
    for node in found:
        yield node.name, {matcher.name for matcher in node.matchers.matchers}

"""Generates the Grafana dashboard, and a copy of the alert rules as a resource of the Prometheus operator.

Usage: generate_dashboard.py [ROOT]. Both files are written below ROOT, by default the repository.
"""

import itertools
import string
import sys
from pathlib import Path

import yaml
from dashboard_panels import ROWS, Shown
from grafana_foundation_sdk.builders import common as builders
from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models

REPOSITORY = Path(__file__).resolve().parents[1]
DASHBOARD = "deploy/grafana/dashboards/userservice.json"
ALERTS = "deploy/prometheus/alerts.yml"
PROMETHEUS_RULE = "deploy/kubernetes/components/monitoring/prometheus-rule.yaml"
_SELECTED = 'job="userservice", instance=~"$instance"'
_SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_STATS_PER_ROW, _GRAPHS_PER_ROW = 8, 2
_COLUMNS = 24
_STAT_HEIGHT, _GRAPH_HEIGHT = 4, 8


def single_value(shown: Shown) -> stat.Panel:
    """Returns the builder of a panel with the latest value of a query."""
    text = common.BigValueTextMode.NAME if shown.shows_name else common.BigValueTextMode.VALUE
    latest = builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False)  # noqa: FBT003 - the SDK's form
    built = stat.Panel().text_mode(text).graph_mode(common.BigValueGraphMode.NONE).reduce_options(latest)
    return built.height(_STAT_HEIGHT).span(_COLUMNS // _STATS_PER_ROW)


def graph() -> timeseries.Panel:
    """Returns the builder of a panel with a graph."""
    legend = builders.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST)
    legend.placement(common.LegendPlacement.BOTTOM).show_legend(True)  # noqa: FBT003
    tooltip = builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
    built = timeseries.Panel().min(0).legend(legend).tooltip(tooltip)
    return built.height(_GRAPH_HEIGHT).span(_COLUMNS // _GRAPHS_PER_ROW)


def panel(shown: Shown, number: int) -> "stat.Panel | timeseries.Panel":
    """Returns the builder of a panel."""
    built = single_value(shown) if shown.is_stat else graph()
    built.id(number).title(shown.title).description(shown.description).unit(shown.unit).datasource(_SOURCE)
    for letter, query in zip(string.ascii_uppercase, shown.queries, strict=False):
        target = prometheus.Dataquery().ref_id(letter).datasource(_SOURCE)
        target.expr(query.expr.replace("$S", _SELECTED)).legend_format(query.legend)
        built.with_target(target.instant() if shown.is_stat else target.range())
    return built


def board() -> dashboard.Dashboard:
    """Returns the builder of the dashboard."""
    built = dashboard.Dashboard("userservice").uid("userservice").tags(["userservice"]).editable()
    built.refresh("30s").time("now-1h", "now").timezone("browser").tooltip(models.DashboardCursorSync.CROSSHAIR)
    built.with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    built.with_variable(
        dashboard.QueryVariable("instance")
        .label("Instance")
        .query('label_values(userservice_build_info{job="userservice"}, instance)')
        .datasource(_SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)  # noqa: FBT003 - the SDK's form
        .include_all(True)  # noqa: FBT003
        .all_value(".*")
    )
    numbers = itertools.count(1)
    for title, row in ROWS.items():
        built.with_row(dashboard.Row(title).id(next(numbers)))
        for shown in row:
            built.with_panel(panel(shown, next(numbers)))
    return built


def main() -> None:
    """Writes both files."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY
    rules = yaml.safe_load((REPOSITORY / ALERTS).read_text())
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "userservice", "labels": {"app.kubernetes.io/name": "userservice"}},
        "spec": rules,
    }
    texts = {
        DASHBOARD: JSONEncoder(sort_keys=True, indent=2).encode(board().build()),
        PROMETHEUS_RULE: "# Generated from deploy/prometheus/alerts.yml; run make generate.\n"
        + yaml.safe_dump(resource, sort_keys=False, width=1000),
    }
    for path, text in texts.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.rstrip("\n") + "\n")


if __name__ == "__main__":
    main()

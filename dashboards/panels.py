"""The few kinds of panel that the dashboards are made of, and queries over declared metrics."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    timeseries,
)
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)

from glc_ray.telemetry import Metric

TAG = "glc-ray"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
OUTPUT = 'output=~"$output"'

Query = tuple[str, str]
"""PromQL and how its series are called."""
Limits = tuple[tuple[float | None, str], ...]
"""Values from which on a colour holds, None for the lowest, which else is green."""


def of(metric: Metric, part: str = "", **labels: str) -> str:
    """The series of a metric of the chosen outputs.

    Args:
        metric: a declared one.
        part: of a histogram: ``_bucket`` or ``_count``.
        labels: what they are; several values with ``|`` between them.
    """
    metric.check({name: _known(metric, name, labels) for name in metric.labels})
    chosen = [OUTPUT]
    for name, value in labels.items():
        operator = "=~" if "|" in value else "="
        chosen.append(f'{name}{operator}"{value}"')
    return f"{metric.exported}{part}{{{', '.join(chosen)}}}"


def now(metric: Metric, *by: str, **labels: str) -> str:
    """A gauge; of several processes that tell, one of which replaced the other, the highest."""
    return f"max by ({', '.join(('output', *by))}) ({of(metric, **labels)})"


def added(metric: Metric, *by: str, **labels: str) -> str:
    """A gauge, over all outputs."""
    grouped = f" by ({', '.join(by)}) " if by else ""
    return f"sum{grouped}({of(metric, **labels)})"


def rate(metric: Metric, *by: str, part: str = "", **labels: str) -> str:
    """A counter's, a second, over all processes that count."""
    grouped = f" by ({', '.join(by)}) " if by else ""
    return f"sum{grouped}(rate({of(metric, part, **labels)}[$__rate_interval]))"


def quantile(share: float, metric: Metric, *by: str) -> str:
    """Of a histogram."""
    return f"histogram_quantile({share}, {rate(metric, 'le', *by, part='_bucket')})"


def ratio(above: str, below: str) -> str:
    """Nothing while nothing is below."""
    return f"{above} / ({below} > 0)"


def graph(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    limits: Limits = (),
    stacked: bool = False,
    least: float | None = 0,
    most: float | None = None,
    width: int = 12,
) -> timeseries.Panel:
    """Lines over time; ``limits`` are drawn, ``least`` and ``most`` end the axis."""
    panel = timeseries.Panel().fill_opacity(25 if stacked else 8).line_width(1).show_points(_NEVER)
    panel = panel.legend(_LEGEND).tooltip(_ALL_SERIES)
    if least is not None:
        panel = panel.min(least)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    if most is not None:
        panel = panel.max(most)
    if limits:
        style = common.GraphThresholdsStyleConfig().mode(_DASHED)
        panel = panel.thresholds(_thresholds(limits)).thresholds_style(style)
    return _filled(panel, title, description, unit, queries, width).height(8)


def number(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    limits: Limits = (),
    width: int = 4,
    line: bool = True,
) -> stat.Panel:
    """What holds now, coloured by ``limits``, over a small line of how it came to it."""
    mode = common_models.BigValueGraphMode
    panel = stat.Panel().graph_mode(mode.AREA if line else mode.NONE)
    panel = panel.color_mode(common_models.BigValueColorMode.VALUE).thresholds(_thresholds(limits))
    return _filled(panel, title, description, unit, queries, width).height(4)


def bars(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    limits: Limits = (),
    most: float | None = None,
    width: int = 12,
    link: dashboard.DashboardLink | None = None,
) -> bargauge.Panel:
    """A bar for each series, as it is now; ``link`` is where a click on one goes."""
    panel = bargauge.Panel().display_mode(common_models.BarGaugeDisplayMode.BASIC).min(0)
    panel = panel.orientation(common_models.VizOrientation.HORIZONTAL)
    panel = panel.thresholds(_thresholds(limits))
    if most is not None:
        panel = panel.max(most)
    if link is not None:
        panel = panel.data_links([link])
    return _filled(panel, title, description, unit, queries, width).height(8)


def board(
    uid: str, title: str, description: str, *content: Any, has_video: bool = False
) -> dashboard.Dashboard:
    """A dashboard of rows and panels with the variables and links that all have.

    Args:
        uid: of its address; its file is called so, too.
        title, description: for people.
        content: rows and panels.
        has_video: one video is chosen.
    """
    made = dashboard.Dashboard(title).uid(uid).description(description).tags([TAG]).editable()
    made = made.refresh("10s").time("now-30m", "now").timezone("browser")
    made = made.with_variable(
        dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    )
    made = made.with_variable(_chosen("output", "Output", _OUTPUTS, many=True))
    if has_video:
        names = f"label_values(glc_video_info{{{OUTPUT}}}, video)"
        made = made.with_variable(_chosen("video", "Video", names, many=False))
    links = dashboard.DashboardLink("glc-ray").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    made = made.link(links.include_vars(True).keep_time(True))
    for index, part in enumerate(content, start=1):
        part = part.id(index)
        made = made.with_row(part) if isinstance(part, dashboard.Row) else made.with_panel(part)
    return made


def row(title: str) -> dashboard.Row:
    """What the panels below it are about."""
    return dashboard.Row(title)


_OUTPUTS = 'label_values({__name__=~"glc_videos|ray_glc_workers"}, output)'
_NEVER = common_models.VisibilityMode.NEVER
_DASHED = common_models.GraphThresholdsStyleMode.DASHED
_LEGEND = (
    common.VizLegendOptions()
    .show_legend(True)
    .display_mode(common_models.LegendDisplayMode.LIST)
    .placement(common_models.LegendPlacement.BOTTOM)
    .calcs([])
)
_ALL_SERIES = (
    common.VizTooltipOptions()
    .mode(common_models.TooltipDisplayMode.MULTI)
    .sort(common_models.SortOrder.DESCENDING)
)


def _filled(
    panel: Any, title: str, description: str, unit: str, queries: tuple[Query, ...], width: int
) -> Any:
    panel = panel.title(title).description(description).unit(unit).datasource(SOURCE).span(width)
    for index, (expression, legend) in enumerate(queries):
        query = prometheus.Dataquery().expr(expression).legend_format(legend).range()
        panel = panel.with_target(query.ref_id(chr(ord("A") + index)).datasource(SOURCE))
    return panel


def _known(metric: Metric, name: str, labels: dict[str, str]) -> str:
    """A value that is declared, for what is not selected; the first of several."""
    allowed = metric.labels[name]
    default = allowed[0] if isinstance(allowed, tuple) else ""
    return labels.get(name, default).partition("|")[0]


def _thresholds(limits: Limits) -> dashboard.ThresholdsConfig:
    # A scale of good and bad begins with good, unless it says otherwise.
    first = () if limits and limits[0][0] is None else ((None, "green"),)
    steps = [Threshold(value=value, color=colour) for value, colour in (*first, *limits)]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _chosen(name: str, label: str, query: str, *, many: bool) -> dashboard.QueryVariable:
    variable = dashboard.QueryVariable(name).label(label).query(query).datasource(SOURCE)
    variable = variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    variable = variable.sort(VariableSort.ALPHABETICAL_ASC)
    return variable.multi(many).include_all(many)

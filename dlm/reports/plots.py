"""Plots as inline SVG: curves with a band over the seeds, bars with intervals, values by cost.

Lines differ in dash and marker as well as in colour, so that black and white suffices. Text stays
text.
"""

import contextlib
import html
import io
import math
import re
import zlib
from collections.abc import Iterator
from typing import Any

from dlm.reports.groups import Group
from dlm.reports.scores import shown

COLOURS = (
    "#2f6fba",
    "#c2600d",
    "#1f8a5b",
    "#9147a8",
    "#8a6d1b",
    "#b8325e",
    "#3a8f9c",
    "#6b6b6b",
)
DASHES = (
    "-",
    (0, (5, 2)),
    (0, (1.5, 1.5)),
    (0, (6, 1.5, 1.5, 1.5)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "///", "...", "xx")
INK = "#767676"  # readable on white and on black
_WIDTH = 5.4  # inches
_FEW = 6  # so many different costs are all marked on the axis
_EARLY = 0.08  # share of the updates in which the loss falls from far above
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dlm",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
}

_BAND = {
    "alpha": 0.18,
    "linewidth": 0,
}
_ERROR_BAR = {
    "color": INK,
    "capsize": 3,
    "linewidth": 1.2,
}
_FRONT_LINE = {
    "color": INK,
    "linewidth": 1,
    "linestyle": (0, (4, 3)),
    "zorder": 0,
}
_MARK = {
    "linestyle": "",
    "markersize": 7,
    "capsize": 3,
}
_LEGEND = {
    "loc": "upper center",
    "ncols": 1,
    "fontsize": 9,
}

Series = dict[int, list[float]]  # step → the values of all seeds
Point = tuple[float, float]  # (cost, value)
Priced = tuple[str, float, float, float]  # (label, cost, value, half of its interval)
Prices = list[Priced]
Bar = tuple[str, float, float]  # (label, value, half of its interval)
Style = dict[str, Any]


def curves(groups: list[Group], name: str, y_label: str) -> str:
    """Draws a field of the metrics against updates: the mean over seeds, and a band of all seeds.

    '' where no group has logged it twice.
    """
    drawn = []
    for group in groups:
        points = _points(group, name)
        if len(points) > 1:
            drawn.append((group.label, points))
    if not drawn:
        return ""

    height = 3.6 + 0.2 * len(drawn)
    drawing = _Drawing(f"{y_label} against updates", height)
    with drawing.axes() as axes:
        for i, (label, points) in enumerate(drawn):
            _curve(axes, i, label, points)
        _limit_to_late(axes, [points for _, points in drawn])
        axes.set(xlabel="updates", ylabel=y_label)
        _legend(axes)
    return drawing.svg


def _points(group: Group, name: str) -> Series:
    """The values of all seeds; a step at which one is missing or not finite has no mean."""
    by_step: Series = {}
    for record in group.records:
        for row in record.metrics:
            if name in row:
                values = by_step.setdefault(row["step"], [])
                values.append(math.nan if row[name] is None else row[name])

    # A mean over fewer seeds than elsewhere would make a step in the curve.
    seeds = max(map(len, by_step.values()), default=0)
    points = {}
    for step in sorted(by_step):
        values = by_step[step]
        if len(values) == seeds and all(map(math.isfinite, values)):
            points[step] = values
    return points


def _curve(axes, i: int, label: str, points: Series) -> None:
    """Draws the line of a model and its band."""
    # One mean for each step at which all seeds logged.
    steps = list(points)
    values = list(points.values())
    means = [sum(seeds) / len(seeds) for seeds in values]
    colour = _colour(i)
    style = dict(color=colour, linestyle=_dash(i), linewidth=1.6)
    axes.plot(steps, means, label=label, **style)

    # A band of one seed would look like a certain one.
    if max(map(len, values)) > 1:
        lowest = [min(seeds) for seeds in values]
        highest = [max(seeds) for seeds in values]
        axes.fill_between(steps, lowest, highest, color=colour, **_BAND)


def _limit_to_late(axes, series: list[Series]) -> None:
    """Fits the axis to all but the first updates, whose values are far above the others."""
    last = max(max(points) for points in series)
    late = []
    for points in series:
        for step, values in points.items():
            if step >= _EARLY * last:
                late += values
    if late:
        lowest = min(late)
        # A little room, so that no curve runs along the frame.
        highest = max(late)
        pad = 0.05 * (highest - lowest) + 1e-9
        axes.set_ylim(lowest - pad, highest + pad)


def bars(rows: list[Bar], x_label: str) -> str:
    """Draws one bar for each (label, value, half of its 95 % interval), from the top.

    Names are above the bars, so that a phone has room for both.
    """
    rows = [row for row in rows if math.isfinite(row[1])]
    if not rows:
        return ""
    labels = ", ".join(label for label, *_ in rows)
    drawing = _Drawing(f"{x_label}: {labels}", 0.7 + 0.5 * len(rows))
    with drawing.axes() as axes:
        ends = []
        for i, (label, value, error) in enumerate(rows):
            # An unknown interval is printed, and not drawn.
            known = error if math.isfinite(error) else 0
            ends.append(value + known)
            _bar(axes, i, value, known)
            words = shown("{:.3f}".format, value, error)
            axes.text(0, i - 0.36, f"{label}: {words}", va="center", fontsize=9)
        longest = max(ends) or 1
        axes.set(xlim=(0, 1.05 * longest), xlabel=x_label)
        axes.set(ylim=(len(rows) - 0.6, -0.7), yticks=[])
    return drawing.svg


def _bar(axes, i: int, value: float, error: float) -> None:
    # Neighbouring bars differ in their hatch as well as in colour.
    hatch = HATCHES[i % len(HATCHES)]
    style = dict(color=_colour(i), hatch=hatch, edgecolor="white")
    axes.barh(i, value, height=0.42, **style)
    if error:
        axes.errorbar(value, i, xerr=error, **_ERROR_BAR)


def pareto(points: Prices, x_label: str, y_label: str, lower: bool = True) -> str:
    """Draws values against costs, and joins the points that no other beats in both.

    '' where all cost the same. With `lower` the smaller value is the better one.
    """
    # An axis that may be logarithmic has no place for a cost of 0.
    drawn = []
    for label, cost, value, half in points:
        if cost > 0 and math.isfinite(cost) and math.isfinite(value):
            error = half if math.isfinite(half) else 0.0
            drawn.append((label, cost, value, error))
    costs = sorted({cost for _, cost, _, _ in drawn})
    if len(costs) < 2:
        return ""

    names = list(dict.fromkeys(label for label, *_ in drawn))
    title = f"{y_label} against {x_label}: {', '.join(names)}"
    drawing = _Drawing(title, 3.4 + 0.2 * len(names))
    with drawing.axes() as axes:
        for i, name in enumerate(names):
            mine = [point for point in drawn if point[0] == name]
            _marks(axes, i, name, mine)
        best = front([(cost, value) for _, cost, value, _ in drawn], lower)
        axes.plot(*zip(*best, strict=True), **_FRONT_LINE)

        # Costs within a factor of 8 are easier to compare on a linear axis.
        spread = costs[-1] / costs[0]
        scale = "log" if spread > 8 else "linear"
        axes.set(xlabel=x_label, ylabel=y_label, xscale=scale)
        _plain_numbers(axes)
        if len(costs) <= _FEW and spread > 1.5:
            axes.set_xticks(costs)
        axes.tick_params(axis="x", labelrotation=30)
        _legend(axes)
    return drawing.svg


def _marks(axes, i: int, label: str, points: Prices) -> None:
    """Draws the points of a model with their intervals."""
    # Where no interval is known, none is drawn.
    _, costs, values, errors = zip(*points, strict=True)
    known = errors if any(errors) else None
    marker = MARKERS[i % len(MARKERS)]
    style = dict(color=_colour(i), marker=marker)
    axes.errorbar(costs, values, yerr=known, label=label, **style, **_MARK)


def lines(
    series: dict[str, list[Point]],
    x_label: str,
    y_label: str,
    least: float = 0.0,
    beside: tuple[str, ...] = (),
) -> str:
    """Draws a line for each name through its points.

    Args:
        series: name → [(cost, value), …]
        x_label: of the costs
        y_label: of the values
        least: where positive, the values' axis is logarithmic and lower values are drawn at it
        beside: names of references, drawn broad and without colour
    """
    finite = {}
    for name, points in series.items():
        line = []
        for cost, value in points:
            if cost > 0 and math.isfinite(value):
                line.append((cost, max(value, least)))
        if line:
            finite[name] = sorted(line)
    if not finite:
        return ""

    title = f"{y_label} against {x_label}: {', '.join(finite)}"
    drawing = _Drawing(title, 3.8 + 0.2 * len(finite))
    with drawing.axes() as axes:
        # A reference takes no colour from the others.
        coloured = [name for name in finite if name not in beside]
        for name, line in finite.items():
            if name in beside:
                style = _reference_style(beside.index(name))
            else:
                style = _line_style(coloured.index(name))
            costs, values = zip(*line, strict=True)
            axes.plot(costs, values, label=name, **style)
        prices = sorted({cost for line in finite.values() for cost, _ in line})
        if prices[-1] > 4 * prices[0]:
            # Costs are numbers of passes: powers of 2, or nearly.
            axes.set_xscale("log", base=2)
        scale = "log" if least > 0 else "linear"
        axes.set(xlabel=x_label, ylabel=y_label, yscale=scale)
        _plain_numbers(axes)
        if len(prices) <= _FEW:
            axes.set_xticks(prices)
        _legend(axes)
    return drawing.svg


def _reference_style(i: int) -> Style:
    return dict(color=INK, linewidth=2.4, linestyle=DASHES[i], zorder=1)


def _line_style(i: int) -> Style:
    marker = MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
    style = dict(color=_colour(i), linestyle=_dash(i), linewidth=1.4)
    return style | dict(marker=marker, markersize=5)


def front(points: list[Point], lower: bool) -> list[Point]:
    """Returns the points that none beats: no other is both cheaper and as good.

    With `lower` the smaller value is the better one.
    """
    sign = 1 if lower else -1
    # From cheap to expensive, a point is on the front if it improves.
    best = math.inf
    frontier = []
    # Of equal costs the best value comes first, and hides the others.
    signed = sorted((cost, sign * value) for cost, value in points)
    for cost, value in signed:
        if value < best:
            best = value
            frontier.append((cost, sign * value))
    return frontier


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _dash(i: int) -> Any:
    # A colour that occurs again has another dash.
    return DASHES[(i + i // len(COLOURS)) % len(DASHES)]


def _plain_numbers(axes) -> None:
    """Labels costs as 10k and 3M."""
    from matplotlib.ticker import EngFormatter, NullFormatter

    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(axes) -> None:
    """Puts the legend below the axes: on a phone there is no room beside them."""
    inches = axes.get_window_extent().height / axes.figure.dpi
    anchor = (0.5, -0.65 / inches)
    axes.legend(bbox_to_anchor=anchor, **_LEGEND)


class _Drawing:
    """A figure of one plot: `svg` is the drawing once the block of `axes()` has ended.

    A screen reader reads the title.
    """

    def __init__(self, title: str, height: float):
        self._title = title
        self._inches = (_WIDTH, height)
        self.svg = ""

    @contextlib.contextmanager
    def axes(self) -> Iterator[Any]:
        import matplotlib
        from matplotlib.figure import Figure

        with matplotlib.rc_context(_SETTINGS):
            figure = Figure(figsize=self._inches)
            yield figure.add_subplot()
            # Without a date, equal runs give equal pages.
            text = io.StringIO()
            options: Style = dict(bbox_inches="tight", transparent=True)
            metadata = dict(Date=None, Creator=None)
            figure.savefig(text, format="svg", metadata=metadata, **options)
        drawing = text.getvalue()
        begin = drawing.index("<svg")
        self.svg = _framed(drawing[begin:], html.escape(self._title))


def _framed(drawing: str, title: str) -> str:
    """The drawing without a size and with ids of its own, since a page contains several."""
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    # The page sets the size, and a name space is needless inside HTML.
    head, rest = drawing.split(">", 1)
    head = re.sub(r' (?:width|height|xmlns:xlink|version)="[^"]*"', "", head)
    mark = f"p{zlib.crc32(title.encode())}"
    rest = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{mark}-", rest)
    return f'{head} role="img" aria-label="{title}"><title>{title}</title>{rest}'

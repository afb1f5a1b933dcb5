"""Plots as inline SVG: curves with a band over the seeds, bars with 95 % intervals, and what is bought at which price.

Lines differ in dash and marker as well as in colour, so that black and white suffices; text stays text.
"""

import html
import io
import math
import re
import zlib

from dlm.reports.groups import Group
from dlm.reports.scores import shown

COLOURS = ("#2f6fba", "#c2600d", "#1f8a5b", "#9147a8", "#8a6d1b", "#b8325e", "#3a8f9c", "#6b6b6b")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_FEW = 6  # prices that are all marked on the axis
INK = "#767676"  # readable on white and on black
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dlm",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    **{f"{name}.color": INK for name in ("text", "xtick", "ytick", "grid")},
    **{f"axes.{name}color": INK for name in ("edge", "label")},
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
}


def curves(groups: list[Group], name: str, y_label: str) -> str:
    """A field of the metrics against updates: the mean over seeds, and a band from the lowest seed to the highest."""
    lines = [(g, _points(g, name)) for g in groups]
    lines = [(g, points) for g, points in lines if len(points) > 1]
    if not lines:
        return ""
    with _Figure(f"{y_label} against updates", (5.4, 3.6 + 0.2 * len(lines))) as (figure, axes):
        for i, (group, points) in enumerate(lines):
            steps, values = list(points), list(points.values())
            means = [sum(v) / len(v) for v in values]
            axes.plot(
                steps, means, color=_colour(i), linestyle=_dash(i), label=group.label, linewidth=1.6
            )
            if max(map(len, values)) > 1:
                axes.fill_between(
                    steps,
                    [min(v) for v in values],
                    [max(v) for v in values],
                    color=_colour(i),
                    alpha=0.18,
                    linewidth=0,
                )
        last = max(max(points) for _, points in lines)
        late = [
            v
            for _, points in lines
            for step, values in points.items()
            for v in values
            if step >= 0.08 * last
        ]
        if late:  # the first updates fall from far above
            pad = 0.05 * (max(late) - min(late)) + 1e-9
            axes.set_ylim(min(late) - pad, max(late) + pad)
        axes.set(xlabel="updates", ylabel=y_label)
        _legend(axes)
    return figure.svg


def _points(group: Group, name: str) -> dict[int, list[float]]:
    """The values of all seeds by step; a step at which one is missing or not finite has no mean."""
    by_step: dict[int, list[float]] = {}
    for record in group.records:
        for row in record.metrics:
            if name in row:
                by_step.setdefault(row["step"], []).append(
                    math.nan if row[name] is None else row[name]
                )
    seeds = max(map(len, by_step.values()), default=0)
    return {
        step: by_step[step]
        for step in sorted(by_step)
        if len(by_step[step]) == seeds and all(map(math.isfinite, by_step[step]))
    }


def bars(rows: list[tuple[str, float, float]], x_label: str) -> str:
    """(label, value, half of its 95 % interval), one bar each, from the top; names above the bars, so that a phone has room for both."""
    rows = [row for row in rows if math.isfinite(row[1])]
    if not rows:
        return ""
    with _Figure(
        f"{x_label}: {', '.join(label for label, *_ in rows)}", (5.4, 0.7 + 0.5 * len(rows))
    ) as (figure, axes):
        top = max(value + (error if math.isfinite(error) else 0) for _, value, error in rows) or 1
        for i, (label, value, error) in enumerate(rows):
            axes.barh(
                i,
                value,
                color=_colour(i),
                hatch=("", "///", "...", "xx")[i % 4],
                edgecolor="white",
                height=0.42,
            )
            if error and math.isfinite(error):
                axes.errorbar(value, i, xerr=error, color=INK, capsize=3, linewidth=1.2)
            axes.text(
                0,
                i - 0.36,
                f"{label}: {shown('{:.3f}'.format, value, error)}",
                va="center",
                fontsize=9,
            )
        axes.set(xlim=(0, 1.05 * top), ylim=(len(rows) - 0.6, -0.7), yticks=[], xlabel=x_label)
    return figure.svg


def pareto(
    points: list[tuple[str, float, float, float]], x_label: str, y_label: str, lower: bool = True
) -> str:
    """(label, price, value, half of its interval); a line joins those that no other beats in both. '' where all cost the same."""
    points = [
        (*p[:3], p[3] if math.isfinite(p[3]) else 0.0)
        for p in points
        if p[1] > 0 and all(map(math.isfinite, p[1:3]))
    ]
    if len({p[1] for p in points}) < 2:
        return ""
    from matplotlib.ticker import EngFormatter, NullFormatter

    names = list(dict.fromkeys(p[0] for p in points))
    with _Figure(
        f"{y_label} against {x_label}: {', '.join(names)}", (5.4, 3.4 + 0.2 * len(names))
    ) as (figure, axes):
        for i, name in enumerate(names):
            mine = [p for p in points if p[0] == name]
            xs, ys, errors = ([p[k] for p in mine] for k in (1, 2, 3))
            options = dict(
                color=_colour(i),
                marker=MARKERS[i % len(MARKERS)],
                linestyle="",
                markersize=7,
                capsize=3,
            )
            axes.errorbar(xs, ys, yerr=errors if any(errors) else None, label=name, **options)
        best = front([(p[1], p[2]) for p in points], lower)
        axes.plot(*zip(*best, strict=True), color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        spread = max(p[1] for p in points) / min(p[1] for p in points)
        axes.set(xlabel=x_label, ylabel=y_label, xscale="log" if spread > 8 else "linear")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        if len(prices := sorted({p[1] for p in points})) <= _FEW and spread > 1.5:
            axes.set_xticks(prices)
        axes.tick_params(axis="x", labelrotation=30)
        _legend(axes)
    return figure.svg


def lines(
    series: dict[str, list[tuple[float, float]]],
    x_label: str,
    y_label: str,
    least: float = 0.0,
    beside: tuple[str, ...] = (),
) -> str:
    """A line for each name through its (price, value); those `beside` are what the others are compared with, broad and without colour.

    With `least` the values' axis is logarithmic, and lower values are drawn at it.
    """
    series = {
        name: sorted((x, max(y, least)) for x, y in points if x > 0 and math.isfinite(y))
        for name, points in series.items()
    }
    series = {name: points for name, points in series.items() if points}
    if not series:
        return ""
    from matplotlib.ticker import EngFormatter, NullFormatter

    with _Figure(
        f"{y_label} against {x_label}: {', '.join(series)}", (5.4, 3.8 + 0.2 * len(series))
    ) as (figure, axes):
        i = 0
        for name, points in series.items():
            if name in beside:
                axes.plot(
                    *zip(*points, strict=True),
                    label=name,
                    color=INK,
                    linewidth=2.4,
                    linestyle=DASHES[beside.index(name)],
                    zorder=1,
                )
                continue
            options = dict(
                color=_colour(i),
                linestyle=_dash(i),
                marker=MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
                markersize=5,
            )
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1.4, **options)
            i += 1
        prices = sorted({x for points in series.values() for x, _ in points})
        if prices[-1] > 4 * prices[0]:
            axes.set_xscale("log", base=2)  # passes are powers of 2, or nearly
        axes.set(xlabel=x_label, ylabel=y_label, yscale="log" if least > 0 else "linear")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        if len(prices) <= _FEW:
            axes.set_xticks(prices)
        _legend(axes)
    return figure.svg


def front(points: list[tuple[float, float]], lower: bool) -> list[tuple[float, float]]:
    """The points that none beats: nothing is cheaper and as good. `lower`: the smaller value is the better one."""
    best, frontier = math.inf, []
    for price, value in sorted(points, key=lambda p: (p[0], p[1] if lower else -p[1])):
        if (value if lower else -value) < best:
            best = value if lower else -value
            frontier.append((price, value))
    return frontier


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _dash(i: int):
    return DASHES[(i + i // len(COLOURS)) % len(DASHES)]


def _legend(axes) -> None:
    """Below the axes: on a phone there is no room beside them."""
    high = axes.get_window_extent().height / axes.figure.dpi  # inches
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.65 / high), ncols=1, fontsize=9)


class _Figure:
    """`with _Figure(title, inches) as (figure, axes)`; afterwards `figure.svg` is the drawing, which says its title to a reader."""

    def __init__(self, title: str, inches: tuple[float, float]):
        self._title, self._inches, self.svg = title, inches, ""

    def __enter__(self):
        import matplotlib
        from matplotlib.figure import Figure

        self._context = matplotlib.rc_context(_SETTINGS)
        self._context.__enter__()
        self._figure = Figure(figsize=self._inches)
        return self, self._figure.add_subplot()

    def __exit__(self, kind, *rest) -> None:
        if kind is None:
            text = io.StringIO()
            self._figure.savefig(
                text,
                format="svg",
                bbox_inches="tight",
                transparent=True,
                metadata=dict(Date=None, Creator=None),
            )
            drawing = text.getvalue()
            self.svg = _framed(drawing[drawing.index("<svg") :], html.escape(self._title))
        self._context.__exit__(kind, *rest)


def _framed(drawing: str, title: str) -> str:
    """The drawing as wide as its place, with ids of its own, since a page holds several."""
    head, rest = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL).split(">", 1)
    head = re.sub(r' (?:width|height|xmlns:xlink|version)="[^"]*"', "", head)
    mark = f"p{zlib.crc32(title.encode())}"
    rest = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{mark}-", rest)
    return f'{head} role="img" aria-label="{title}"><title>{title}</title>{rest}'

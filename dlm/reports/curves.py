"""Training curves as inline SVG: lines told apart by dash and by a name at their end, so that colour is only a help."""

import html
import math

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 46, 84, 14, 44
DASHES = ("", "7 3", "2 3", "9 3 2 3")


def svg(lines: dict[str, list[tuple[float, float]]], x_label: str, y_label: str) -> str:
    """The curves (name → points); '' when there is nothing to draw. Styled by the page: .line0, .line1, …, .grid."""
    lines = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in lines.items()}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    xs, ys = zip(*(p for points in lines.values() for p in points), strict=True)
    x_ticks, y_ticks = ticks(0, max(xs)), ticks(min(ys), max(ys))
    x_end, low, high = max(xs) or 1, y_ticks[0], y_ticks[-1]

    def place(x, y):
        right, up = x / x_end, (y - low) / (high - low)
        return LEFT + right * (WIDTH - LEFT - RIGHT), TOP + (1 - up) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for y in y_ticks:
        _, v = place(0, y)
        parts.append(
            f'<path class="grid" d="M{LEFT} {v:.1f}H{WIDTH - RIGHT}"/><text x="{LEFT - 6}" y="{v + 4:.1f}" text-anchor="end">{y:g}</text>'
        )
    for x in [x for x in x_ticks if x <= x_end]:
        u, _ = place(x, low)
        parts.append(f'<text x="{u:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:,g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    parts += _drawn({name: [place(*p) for p in points] for name, points in lines.items()})
    title = html.escape(f"{y_label} against {x_label}: {', '.join(lines)}")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}"><title>{title}</title>{"".join(parts)}</svg>'


def _drawn(lines: dict[str, list[tuple[float, float]]]) -> list[str]:
    """A path for each line and its name beside the end; names are pushed apart where lines end together."""
    parts, taken = [], []
    for i, (name, points) in sorted(enumerate(lines.items()), key=lambda item: item[1][1][-1][1]):
        path = "L".join(f"{u:.1f} {v:.1f}" for u, v in points)
        parts.append(f'<path class="line{i % 4}" stroke-dasharray="{DASHES[i % 4]}" fill="none" d="M{path}"/>')
        u, v = points[-1]
        v = max(v, taken[-1] + 15) if taken else v
        taken.append(v)
        parts.append(f'<text class="name line{i % 4}" x="{u + 6:.1f}" y="{v + 4:.1f}">{html.escape(name)}</text>')
    return parts


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers, evenly spaced, from at or below `low` to at or above `high`."""
    span = max(high - low, 1e-9 * max(abs(high), 1))
    step = 10 ** math.floor(math.log10(span / about))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= about)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]

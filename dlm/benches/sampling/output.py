"""The tables, the CSV file and the page of plots that `bench samplers` writes."""

import csv
import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlm.reports import plots

Row = dict[str, Any]
Lines = dict[str, list]  # rule → its points

# Of each part: column, its description, digits.
MEASURES = dict(
    table=(
        ("tv", "total variation from p", 4),
        ("entropy", "entropy, nats a token", 3),
    ),
    chain=(
        ("invalid", "share of impossible bigrams", 4),
        ("tv", "total variation of the bigrams from p's", 4),
        ("entropy", "conditional entropy of the bigrams, nats", 3),
    ),
    run=(
        ("gen_ppl", "perplexity of samples under the judge", 1),
        ("entropy", "entropy of samples, nats", 3),
        ("distinct_2", "distinct pairs of tokens", 3),
        ("exact_bits_per_byte", "exact bits/byte under the sampler", 3),
        ("nfe", "passes", 0),
        ("tokens_per_s", "tokens/s", 0),
    ),
)
KNOWN = ("floor", "p itself")  # with which the rules are compared
LEAST = dict(invalid=1e-4, tv=1e-3)  # on logarithmic axes
COLUMNS = (
    "part",
    "rule",
    "steps",
    "nfe",
    "tv",
    "invalid",
    "invalid_se",
    "entropy",
    "entropy_se",
    "gen_bits_per_byte",
    "gen_bits_per_byte_se",
    "gen_ppl",
    "gen_ppl_se",
    "gen_cut",
    "gen_lost",
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "exact_bits_per_byte",
    "gap_bits_per_byte",
    "tokens_per_s",
    "flops_per_sample",
)
STYLE = (
    "body{font:16px/1.5 system-ui;max-width:44rem;margin:2rem auto;padding:0 1rem}"
    "svg{width:100%;height:auto}"
)


def tables(rows: list[Row], steps: list[int]) -> Iterator[str]:
    """Yields a grid of rules × steps for each part and measure, line by line."""
    for part, measures in MEASURES.items():
        # Rules keep the order in which they were measured.
        grid: dict[str, dict[int, Row]] = {}
        for row in rows:
            if row["part"] == part:
                grid.setdefault(row["rule"], {})[row["steps"]] = row
        for column, title, digits in measures:
            # A rule without this measure has no line.
            lines = []
            for rule, by_steps in grid.items():
                values = [by_steps.get(n, {}).get(column) for n in steps]
                if any(value is not None for value in values):
                    lines.append(f"  {rule:<34}{_cells(values, digits)}")
            if not lines:
                continue
            yield f"{part}: {title}"
            yield f"  {'steps':<34}{_cells(steps, 0)}"
            yield from lines
            yield ""


def _cells(values: list, digits: int) -> str:
    cells = ["" if value is None else f"{value:,.{digits}f}" for value in values]
    return "".join(f"{cell:>10}" for cell in cells)


def write(folder: Path, rows: list[Row]) -> None:
    """Writes samplers.csv, a line for each rule and number of steps, and samplers.html."""
    with open(folder / "samplers.csv", "w", newline="", encoding="utf-8") as file:
        # Columns that a rule does not have stay empty.
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    figures = []
    for part, measures in MEASURES.items():
        for column, title, _ in measures:
            # Passes are the horizontal axis.
            if column != "nfe":
                figures += _figures(part, column, title, rows)
    viewport = "<meta name=viewport content='width=device-width'>"
    head = f"<!doctype html><html lang=en><meta charset=utf-8>{viewport}<style>{STYLE}</style>"
    title = "<title>Samplers</title><h1>Quality against steps</h1>"
    page = f"{head}{title}{''.join(figures)}</html>"
    (folder / "samplers.html").write_text(page, encoding="utf-8")


def _figures(
    part: str,
    column: str,
    title: str,
    rows: list[Row],
) -> list[str]:
    """Returns the plots of one measure, as HTML."""
    points: dict[str, list] = {}
    for row in rows:
        value = row.get(column)
        if row["part"] == part and value is not None:
            # `p itself` has no passes: it is drawn at every number of steps.
            passes = row["nfe"] or row["steps"]
            points.setdefault(row["rule"], []).append((passes, value))
    figures = []
    least = LEAST.get(column, 0.0)
    for kind, lines in _kinds(points).items():
        drawing = plots.lines(lines, "forward passes", title, least=least, beside=KNOWN)
        if drawing:
            heading = html.escape(f"{part}, {kind}: {title}")
            figures.append(f"<h2>{heading}</h2>{drawing}")
    return figures


def _kinds(points: Lines) -> dict[str, Lines]:
    """Divides the lines into a plot of the rules and one of remasking.

    A plot is left out where it would compare nothing.
    """
    rules, remasking = {}, {}
    beside = {*KNOWN, "ancestral"}
    for name, line in points.items():
        if "+" not in name:
            rules[name] = line
        if "+" in name or name in beside:
            remasking[name] = line
    kinds = {}
    # Ancestral sampling alone is worth a plot only where there is none of remasking.
    remasked = any("+" in name for name in points)
    if set(rules) - (beside if remasked else set(KNOWN)):
        kinds["rules"] = rules
    if remasked:
        kinds["remasking"] = remasking
    return kinds

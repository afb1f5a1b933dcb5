"""Plots, read back from the SVG: text stays text, and without data nothing is drawn."""

import math
import re
import xml.dom.minidom

import pytest

from dlm.reports import groups, plots, record
from tests.reports.conftest import lines, write


def texts(svg):
    return set(re.findall(r"<text[^>]*>([^<]*)</text>", svg))


def ids(svg):
    return set(re.findall(r'id="([^"]+)"', svg))


@pytest.fixture
def two(tmp_path):
    """A model of two seeds and one of one."""
    paths = []
    for i, changes in enumerate([{}, {}, dict(nn=dict(width=1))]):
        path = tmp_path / f"r{i}"
        write(path, "masked", 2.0, 0.1, "bound", seed=i, **changes)
        rows = []
        for step in (20, 40, 60):
            bits = 4.0 - step / 100 + i / 10
            rows.append(dict(step=step, bits_per_byte=bits, lonely=1.0))
        rows.append(dict(step=61, bits_per_byte=math.nan))
        (path / "metrics.jsonl").write_text(lines(rows))
        paths.append(path)
    return groups.grouped(record.read(paths))


def test_curves_have_a_line_for_each_model_and_a_band_where_there_are_seeds(two):
    svg = plots.curves(two, "bits_per_byte", "bits<byte>")
    assert {g.label for g in two} <= texts(svg)
    assert "bits&lt;byte&gt;" in svg
    assert svg.count("FillBetween") == 1
    assert plots._points(two[0], "bits_per_byte") == {
        20: [3.8, 3.9],
        40: [3.6, 3.7],
        60: [pytest.approx(3.4), 3.5],
    }
    xml.dom.minidom.parseString(svg.replace("xlink:", ""))
    assert 'role="img"' in svg[:300]
    assert "width=" not in svg.split(">")[0]
    assert plots.curves(two, "none", "y") == ""
    other = plots.curves(two, "lonely", "y")
    assert not ids(svg) & ids(other), "two drawings on a page share no id"


def test_bars_say_their_value_and_interval():
    svg = plots.bars([("a&b", 2.0, 0.25), ("c", 1.0, 0.0)], "bits")
    assert {"a&amp;b: 2.000 ± 0.250", "c: 1.000", "bits"} <= texts(svg)
    assert plots.bars([], "x") == ""


def test_the_front_is_what_none_beats():
    points = [(1, 5.0), (2, 4.0), (2, 3.0), (3, 3.5), (4, 3.0), (5, 1.0)]
    assert plots.front(points, lower=True) == [(1, 5.0), (2, 3.0), (5, 1.0)]
    assert plots.front(points, lower=False) == [(1, 5.0)]


def test_prices_that_are_all_the_same_are_not_drawn():
    points = [("a", 5, 1.0, 0.1), ("b", 5, 2.0, 0.0), ("c", 0, 1.0, 0.0)]
    assert plots.pareto(points, "FLOPs", "bits") == ""
    cheap = ("a", 5e3, 1.0, 0.1)
    svg = plots.pareto([cheap, ("b", 9e6, 2.0, 0.0)], "FLOPs", "bits")
    unknown = plots.pareto([cheap, ("b", 9e6, 2.0, math.nan)], "FLOPs", "bits")
    assert "b" in texts(unknown)
    assert {"a", "b", "FLOPs", "bits"} <= texts(svg)
    assert any(t.endswith("M") for t in texts(svg))


def test_references_have_no_colour_and_passes_double_along_the_axis():
    series = {"floor": [(4, 0.1), (64, 0.01)], "none": []}
    for i in range(4):
        series[f"r{i}"] = [(4 + i, 0.5), (16 + i, 0.0)]
    svg = plots.lines(series, "passes", "share", least=1e-3, beside=("floor",))
    assert {
        "4",
        "8",
        "16",
        "32",
        "64",
        "floor",
        "r0",
        "r3",
        "passes",
        "share",
    } <= texts(svg)
    assert "none" not in texts(svg)
    assert svg.count("stroke-width: 2.4") == 2
    assert plots.COLOURS[0] in svg, "the floor and its line in the legend"
    assert plots.COLOURS[4] not in svg
    assert plots.lines({}, "x", "y") == ""

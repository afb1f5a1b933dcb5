"""The curves: round ticks around the data, every line inside its frame with a name of its own beside it."""

import re

import pytest

from dlm.reports import curves


@pytest.mark.parametrize("low, high, about", [(0, 1, 5), (2.13, 7.9, 5), (0, 2400, 5), (3.001, 3.002, 4), (5, 5, 5)])
def test_ticks_are_even_and_cover(low, high, about):
    found = curves.ticks(low, high, about)
    assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= about + 2
    assert len({round(b - a, 9) for a, b in zip(found, found[1:], strict=False)}) == 1


def test_lines_stay_in_the_frame_and_names_apart():
    text = curves.svg({"a<b": [(20, 8.0), (40, 3.01)], "b": [(20, 7.0), (40, 3.0)], "nan": [(1, float("nan"))]}, "updates", "bits")
    points = [tuple(map(float, p.split())) for path in re.findall(r'class="line\d"[^>]* d="M([^"]+)"', text) for p in path.split("L")]
    assert len(points) == 4 and all(curves.LEFT <= u <= curves.WIDTH - curves.RIGHT and curves.TOP <= v <= 276 for u, v in points)
    above, below = sorted(float(y) for y in re.findall(r'class="name line\d" x="[\d.]+" y="([\d.]+)"', text))
    assert below - above >= 15 and "a&lt;b" in text and "nan" not in text


def test_nothing_to_draw():
    assert curves.svg({"a": []}, "x", "y") == ""

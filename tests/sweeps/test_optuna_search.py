"""A search finds the best point, runs none twice, and one trial contains all seeds of a point."""

import math

import pytest

from dlm.sweeps.grid import chain, over, point, product, repeat
from dlm.sweeps.optuna_search import search


def test_it_finds_the_best_of_many_and_tries_none_twice():
    grid = product(over("a", *range(6)), over("b", *range(6)))
    points = repeat(grid, 2)
    tried = []

    def score(chosen):
        first, second = chosen
        tried.append(first.name)
        assert first.overrides["seed"] == 0
        assert second.overrides["seed"] == 1
        a = first.overrides["a"] - 4
        b = first.overrides["b"] - 1
        return a**2 + b**2

    # Of 36 points, 22 are tried.
    scores = search(points, 22, score)
    assert len(scores) == 22
    assert len(set(tried)) == len(tried) == 22
    best = next(iter(scores.items()))
    assert best == ("a=4-b=1", 0)
    values = list(scores.values())
    assert values == sorted(values)
    scores = search(points, 36, score, maximize=True)
    assert next(iter(scores.values())) == 32


@pytest.mark.parametrize("trials", [2, 9])
def test_points_of_unlike_shape_and_failures(trials):
    masked = product(point("masked", {}), over("s", "x", "y"))
    points = chain(point("ar", {}), masked)

    def score(chosen):
        if chosen[0].name == "ar":
            return math.nan
        return float(len(chosen))

    scores = search(points, trials, score)
    assert len(scores) == min(trials, 3)
    if trials >= 3:
        assert list(scores) == ["masked-s=x", "masked-s=y", "ar"]
        assert math.isnan(scores["ar"])

"""A search finds the best point, tries nothing twice, and takes all seeds of a point as one try."""

import math

import pytest

from dlm.sweeps.grid import chain, over, point, product, repeat
from dlm.sweeps.optuna_search import search


def test_it_finds_the_best_of_many_and_tries_none_twice():
    points, tried = repeat(product(over("a", *range(6)), over("b", *range(6))), 2), []

    def score(found):
        tried.append(found[0].name)
        assert [p.overrides["seed"] for p in found] == [0, 1]
        return (found[0].overrides["a"] - 4) ** 2 + (found[0].overrides["b"] - 1) ** 2

    scores = search(points, 22, score)
    assert len(scores) == len(set(tried)) == 22 and next(iter(scores.items())) == ("a=4-b=1", 0), (
        "of 36, 22 were tried"
    )
    assert list(scores.values()) == sorted(scores.values())
    assert next(iter(search(points, 36, score, maximize=True).values())) == 32


@pytest.mark.parametrize("tries", [2, 9])
def test_points_of_unlike_shape_and_failures(tries):
    points = chain(point("ar", {}), product(point("masked", {}), over("s", "x", "y")))
    scores = search(
        points, tries, lambda found: math.nan if found[0].name == "ar" else float(len(found))
    )
    assert len(scores) == min(tries, 3) and (
        tries < 3 or list(scores) == ["masked-s=x", "masked-s=y", "ar"] and math.isnan(scores["ar"])
    )

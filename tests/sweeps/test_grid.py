"""Sweeps in plain Python: points combine, names differ, mistakes are found before a run."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm.core.config import load_recipe, override, to_plain
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.sweeps import grid
from dlm.sweeps.grid import chain, over, point, product, repeat
from tests import tiny


def names(points):
    return [p.name for p in points]


def test_points_combine():
    a, b = over("nn.width", 8, 16), over("optim.lr", 0.1, 0.2)
    assert names(product(a, b)) == [
        "width=8-lr=0.1",
        "width=8-lr=0.2",
        "width=16-lr=0.1",
        "width=16-lr=0.2",
    ]
    assert [p.overrides for p in grid.zip(a, b)] == [
        {"nn.width": 8, "optim.lr": 0.1},
        {"nn.width": 16, "optim.lr": 0.2},
    ]
    assert names(chain(a, point("a/b c", {}))) == ["width=8", "width=16", "a_b_c"]
    assert [p.overrides["seed"] for p in repeat(a, 2)] == [0, 1, 0, 1]
    assert names(repeat(a, 2))[1] == "width=8-seed=1"
    with pytest.raises(UserError, match="zip of lists of 2, 1 points"):
        grid.zip(a, over("seed", 0))
    with pytest.raises(
        UserError, match="nn.width is overridden twice, in width=8 and in width=8"
    ):
        product(a, a)


def written(path, config, body):
    path.write_text(
        "from dlm.sweeps.grid import *\n"
        f"def get_config(arg=None):\n    return {config!r}\n"
        f"def sweep():\n    return {body}\n"
    )
    return str(path)


def test_a_run_is_what_its_flags_build(tmp_path):
    """Names, sections, tuples, None and numbers survive the command line that the sweep prints."""
    config = tiny.recipe("corpus.txt")
    body = """product(
        chain(point('ar', {'objective': {'name': 'objectives.ar'},
                           'sampler': {'steps': 1, 'block': 1}}),
              point('masked', {'objective': 'masked'})),
        over('data.source.paths', ('a b.txt', "it's.txt")),
        over('data.source.held_out_paths', None, ['x']),
        over('optim.lr', 1e-3, 2))"""
    sweep = grid.load(written(tmp_path / "r.py", config, body), [("config.steps", "9")])
    assert len(sweep.runs) == 8
    assert {run.steps for run in sweep.runs.values()} == {9}
    for name, run in sweep.runs.items():
        target, *words = sweep.flags[name]
        again = load_recipe(target.removeprefix("--config="))
        for word in words:
            dotted, _, text = word.removeprefix("--config.").partition("=")
            override(again, dotted, text)
        assert build_run(again) == run
    lr = {run.optim.lr for run in sweep.runs.values()}
    assert lr == {1e-3, 2.0}
    assert {type(r.objective).__name__ for r in sweep.runs.values()} == {
        "AR",
        "Masked",
    }
    assert len({str(to_plain(run)) for run in sweep.runs.values()}) == len(
        list(itertools.product("ab", "ab", "ab"))
    )


@pytest.mark.parametrize(
    "body, said",
    [
        (
            "over('optim.lrr', 1)",
            r"run 'lrr=1': unknown field config.optim.lrr .did you mean 'lr'?",
        ),
        ("chain(over('seed', 1), over('seed', 1))", "2 runs with the name 'seed=1'"),
        ("[]", "must return at least one point"),
        ("[{'seed': 1}]", "must return at least one point"),
        ("over('steps', 0)", "run 'steps=0': config: steps must be at least 1"),
    ],
)
def test_mistakes_are_found_before_anything_runs(body, said, tmp_path):
    with pytest.raises(UserError, match=said):
        grid.load(written(tmp_path / "r.py", tiny.recipe("corpus.txt"), body))


REFUSED = {
    "must begin with a letter or a digit": ["..", ".", ".hidden", "/etc", "-x", "~"],
    "is what a sweep keeps beside its runs": [
        "logs",
        "Logs",
        "report.html",
        "results.csv",
        "config.json",
    ],
    "2 runs with the name .*file systems": [("a", "A"), ("stra\u00dfe", "STRASSE")],
    "2 runs with the name": [
        ("a", "a"),
        ("\u00e9", "e\u0301"),
        ("x" * 200 + "a", "x" * 200 + "b"),
    ],
}


@pytest.mark.parametrize(
    "said, labels",
    [(said, one) for said, bodies in REFUSED.items() for one in bodies],
    ids=str,
)
def test_a_name_that_is_no_directory_of_its_own_is_refused(said, labels, tmp_path):
    body = (
        "chain("
        + ", ".join(
            f"point({label!r}, {{'seed': {i}}})"
            for i, label in enumerate([labels] if isinstance(labels, str) else labels)
        )
        + ")"
    )
    with pytest.raises(UserError, match=said):
        grid.load(written(tmp_path / "r.py", tiny.recipe("corpus.txt"), body))


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(
    labels=st.lists(
        st.text(max_size=200)
        | st.sampled_from(["..", ".", "a/..", "\0", "e\u0301" * 99, 3]),
        min_size=1,
        max_size=3,
    )
)
def test_a_name_is_one_component_of_a_path(labels):
    joined = product(*(point(label, {f"f{i}": 1}) for i, label in enumerate(labels)))[
        0
    ].name
    try:
        grid._check_names("r.py", [joined])
    except UserError:
        return
    assert Path("sweep", joined).parent == Path("sweep")
    assert not joined.startswith(".")
    assert len(joined.encode()) <= 120
    assert joined.isprintable()


def test_points_may_be_yielded(tmp_path):
    path = written(tmp_path / "r.py", tiny.recipe("corpus.txt"), "None")
    (tmp_path / "r.py").write_text(
        (tmp_path / "r.py")
        .read_text()
        .replace("return None", "yield from over('seed', 1, 2)")
    )
    assert list(grid.load(path).runs) == ["seed=1", "seed=2"]


def test_a_recipe_without_a_sweep(tmp_path):
    (tmp_path / "r.py").write_text("def get_config(arg=None):\n    return {}\n")
    with pytest.raises(UserError, match=r"r.py has no sweep\(\)"):
        grid.load(str(tmp_path / "r.py"))

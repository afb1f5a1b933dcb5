"""Results in a recipe's docstring: at their place, of its own runs, stale once it changes."""

from pathlib import Path

import pytest

from dlm.core.config import to_json, to_plain
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.reports import docstring_results, groups, record
from tests import tiny
from tests.reports.conftest import lines, score

RECIPE = '''"""A recipe.

    === results of {path}:n={n}, none yet ===
    === end of results ===

    === results of {path}, none yet ===
    === end of results ===
"""
from dlm.sweeps.grid import over


def get_config(arg=None):
    return {config!r}


def sweep():
    return over("seed", 0, 1)
'''


@pytest.fixture
def shipped(tmp_path, corpus):
    """(recipe, its runs)."""
    path, config = tmp_path / "recipe.py", tiny.recipe(corpus)
    path.write_text(RECIPE.format(path=path, n=1, config=config))
    for seed in (0, 1):
        folder = tmp_path / f"seed={seed}"
        folder.mkdir()
        run = build_run(dict(config, seed=seed, mesh=dict(data=seed + 1)))
        config_file = to_plain(run)
        del config_file["optim"]["skip"]  # as a run has it that is older than a field
        (folder / "config.json").write_text(to_json(config_file))
        (folder / "commit.txt").write_text("abcdef0123\n")
        (folder / "metrics.jsonl").write_text(lines([dict(step=4, loss=1.0)]))
        (folder / "environment.json").write_text(
            '{"devices": ["cpu cpu"], "cores": 2, "processor": "Z80", "python": "3.11"}'
        )
        (folder / "evals.jsonl").write_text(
            lines([score("bits_per_byte", 2.0 + seed, se=0.1, step=4)])
        )
    return path, groups.grouped(record.read([tmp_path]))


def test_results_are_between_their_markers_with_their_provenance(shipped, tmp_path):
    path, models = shipped
    for _ in range(2):  # the second time over the first
        assert docstring_results.write(str(path), models) == path
    text = path.read_text()
    digest = docstring_results.digest(str(path))
    made_by = f"config {digest}, commit abcdef0, 2 × Z80, Python 3.11, seeds 0 1"
    assert text.count(f"    === results of {path}, {made_by} ===\n    model") == 1
    assert f"{path}:n=1, none yet" in text
    assert "    masked   bound   2.500 ± 6.356" in text
    assert "\n    ± is half of the 95 % interval" in text
    assert text.count("=== end of results ===") == 2
    compile(text, "recipe.py", "exec")
    assert "    note: masked" not in text
    assert docstring_results.stale(path) == []
    (tmp_path / "seed=0" / "commit.txt").write_text("fedcba+changes\n")
    docstring_results.write(str(path), groups.grouped(record.read([tmp_path])))
    assert ", commit fedcba+changes and abcdef0, " in path.read_text(), (
        "code with changes is not that of its commit"
    )
    assert (
        "\n    note: the runs are of 2 versions of the code (abcdef0123, fedcba+changes)\n"
        "    === end" in path.read_text()
    )
    path.write_text(text.replace("'lr': 0.01", "'lr': 0.02"))
    assert docstring_results.stale(path) == [str(path)]


def test_runs_of_another_recipe_and_recipes_without_a_place_are_refused(
    shipped, tmp_path
):
    path, models = shipped
    path.write_text(path.read_text().replace("'lr': 0.01", "'lr': 0.02"))
    with pytest.raises(
        UserError, match="seed=0 is no run of .*recipe.py: optim.lr: 0.02 → 0.01"
    ):
        docstring_results.write(str(path), models)
    with pytest.raises(
        UserError, match="has no place for results of .*: put the two lines"
    ):
        docstring_results.write(f"{path}:n=2", models)
    assert "none yet" in path.read_text()


@pytest.mark.parametrize(
    "path",
    sorted(Path(__file__).parents[2].glob("configs/**/*.py")),
    ids=lambda p: p.name,
)
def test_no_shipped_result_is_stale(path):
    assert docstring_results.stale(path) == []

"""`dlm.sweep` from its command line: its lists, its output, its runs, and errors in one line."""

import json

import pytest

from dlm import report, sweep
from dlm.app import cli
from dlm.runs import directory, logs
from dlm.sweeps import grid
from tests import tiny

HEAD = (
    "from dlm.sweeps.grid import *\n\n\ndef get_config(arg=None):\n    return {config!r}\n\n\n"
    "def sweep():\n    return {body}\n"
)


@pytest.fixture
def recipe(tmp_path, corpus):
    def write(body, **changes):
        config = tiny.recipe(
            corpus, steps=2, nn__layers=1, intervals=dict(log=1, save=1), **changes
        )
        (tmp_path / "recipe.py").write_text(HEAD.format(config=config, body=body))
        return f"--config={tmp_path / 'recipe.py'}"

    return write


def outcome(capsys, *arguments):
    """(exit code, stdout, stderr) of the command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        cli.main(sweep.main, [*map(str, arguments)])
    return exit.value.code, *capsys.readouterr()


@pytest.mark.slow
def test_a_sweep_runs_all_it_can_and_a_second_call_does_the_rest(
    recipe, tmp_path, capsys
):
    config, workdir = (
        recipe(
            "chain(over('optim.lr', 0.01), point('blind', {'data.source.paths': ('none.txt',)}))"
        ),
        tmp_path / "runs",
    )
    code, out, err = outcome(
        capsys, config, f"--workdir={workdir}", "--parallel=2", "--json"
    )
    runs = {run["name"]: run for run in json.loads(out)["runs"]}
    assert code == 1 and {name: run["kind"] for name, run in runs.items()} == {
        "lr=0.01": "finished",
        "blind": "failed",
    }, err
    assert (
        "no file none.txt" in runs["blind"]["error"]
        and f"blind failed: no file none.txt (log: {workdir}/logs/blind.log)" in err
    )
    scores = logs.rows(workdir / "lr=0.01" / "evals.jsonl")
    assert json.loads(out)["scores"] == {
        "lr=0.01": next(s["value"] for s in scores if s["name"] == "bits_per_byte")
    }
    code, out, err = outcome(
        capsys,
        recipe("over('optim.lr', 0.01)"),
        f"--workdir={workdir}",
        "--config.steps=3",
    )
    assert code == 2 and "belongs to a run with another config (steps: 2 → 3)" in err, (
        "what is done is done for its own config"
    )
    code, out, err = outcome(
        capsys, recipe("over('optim.lr', 0.01)"), f"--workdir={workdir}"
    )
    assert (
        code == 0
        and "1 skipped" in err
        and logs.rows(workdir / "lr=0.01" / "evals.jsonl") == scores
    )
    capsys.readouterr()
    report.main([str(workdir), "--json"])
    assert [row["model"] for row in json.loads(capsys.readouterr().out)["rows"]][
        0
    ] == "masked"


def test_listing_and_printing_run_nothing(recipe, tmp_path, capsys):
    config = recipe("repeat(over('nn.width', 8, 16), seeds=2)")
    code, out, _ = outcome(capsys, config, "--dry_run", "--json", "--config.steps=7")
    assert code == 0 and [(r["name"], r["updates"]) for r in json.loads(out)["runs"]][
        1
    ] == (
        "width=8-seed=1",
        7,
    )
    words = [
        "--print=commands",
        "--config.steps=7",
        "--evals=bound",
        "--evals.bound.samples=4",
    ]
    code, out, _ = outcome(capsys, config, f"--workdir={tmp_path / 'w'}", *words)
    first = out.splitlines()[0]
    assert len(out.splitlines()) == 4 and first == (
        f"python -m dlm.train {config} --config.steps=7 --config.nn.width=8 --config.seed=0"
        f" --workdir={tmp_path}/w/width=8-seed=0"
        f" && python -m dlm.evaluate --workdir={tmp_path}/w/width=8-seed=0"
        " --evals=bound --evals.bound.samples=4"
    )
    code, out, _ = outcome(
        capsys,
        config,
        f"--workdir={tmp_path / 'w'}",
        "--print=slurm",
        "--parallel=3",
        "--evals=none",
    )
    assert (
        "#SBATCH --array=0-3%3" in out
        and "dlm.evaluate" not in out
        and not (tmp_path / "w").exists()
    )


def test_a_search_scores_tries_by_the_mean_over_their_seeds(
    recipe, tmp_path, capsys, monkeypatch
):
    """Fake runs show which commands are issued and how their scores are used."""
    from dlm.sweeps import worker_pool

    def run(self, stop):
        for job in self._jobs:
            job.workdir.mkdir(parents=True)
            value = 10.0 - int(job.name[6]) + int(job.name[-1])
            row = dict(
                name="accuracy",
                value=value,
                claims="exact" if job.name == "width=8-seed=1" else "bound",
            )
            (job.workdir / "evals.jsonl").write_text(json.dumps(row) + "\n")
        return [worker_pool.Outcome(job.name, "finished") for job in self._jobs]

    monkeypatch.setattr(worker_pool.Fleet, "__call__", run)
    config, flags = (
        recipe("repeat(over('nn.width', 8, 4, 2), seeds=2)"),
        [f"--workdir={tmp_path / 'w'}", "--search=3", "--json"],
    )
    code, out, err = outcome(capsys, config, *flags, "--metric=accuracy", "--maximize")
    result = json.loads(out)
    assert (
        code == 0
        and result["scores"] == {"width=2": 8.5, "width=4": 6.5, "width=8": 2.0}
        and len(result["runs"]) == 6
    ), err
    assert (
        "warning: width=8-seed=1 is not in the mean of its seeds, it was measured otherwise (claim)"
        in err
    )
    code, _, err = outcome(
        capsys, recipe("over('nn.width', 16)"), *flags, "--metric=nothing"
    )
    assert (
        code == 2 and "no evaluator of the sweep gives a score named 'nothing'" in err
    )


def test_rows_that_answer_a_sweep_are_those_of_its_own_settings(tmp_path):
    """Other scores of a run do not belong to the sweep and do not mark it as done."""
    own = dict(
        eval="bound",
        name="bits_per_byte",
        value=2.0,
        step=2,
        settings=dict(samples=4),
        differs={"evals.bound.samples": 4},
    )
    others = [
        dict(settings=dict(samples=8)),
        dict(differs=dict(own["differs"], data="x.txt")),
        dict(differs=dict(seed=1)),
    ]
    (tmp_path / "evals.jsonl").write_text(
        "".join(
            json.dumps(row) + "\n"
            for row in [own, *(dict(own, value=9.0, **o) for o in others)]
        )
    )
    assert (
        sweep.latest(tmp_path, "bits_per_byte", dict(bound=dict(samples=4)))["value"]
        == 2.0
    )
    assert sweep.latest(tmp_path, "bits_per_byte", dict(bound=dict(samples=2))) is None


def test_an_old_run_of_a_sweep_is_done_once_it_is_scored_as_it_began(recipe, tmp_path):
    result = grid.load(recipe("over('seed', 1)").removeprefix("--config="))
    run, workdir = result.runs["seed=1"], tmp_path / "runs" / "seed=1"
    workdir.mkdir(parents=True)
    directory.create(workdir, run, run.text.fit(()))
    stored = json.loads((workdir / "config.json").read_text())
    del stored["evals"]["bound"]["pattern"]
    (workdir / "config.json").write_text(json.dumps(stored))
    bound_settings = sweep.settings(run, None, [])["bound"]
    (job,) = sweep.jobs(result, tmp_path / "runs", None, [])
    for pattern in ("count", "own"):
        row = dict(
            eval="bound",
            name="bits_per_byte",
            value=2.0,
            step=2,
            differs={},
            settings=bound_settings | dict(pattern=pattern),
        )
        (workdir / "evals.jsonl").write_text(json.dumps(row) + "\n")
        assert job.commands[1][1]() == (pattern == "own"), pattern


@pytest.mark.parametrize(
    "body, words, said",
    [
        (
            "over('optim.lrr', 1)",
            [],
            "run 'lrr=1': unknown field config.optim.lrr (did you mean 'lr'?)",
        ),
        (
            "chain(over('seed', 1), over('seed', 1))",
            [],
            "2 runs with the name 'seed=1'",
        ),
        (
            "over('objective', 'ar')",
            [],
            "run 'objective=ar': config.sampler: a causal model decides one position in one step",
        ),
        ("over('seed', 1)", ["--parallel=0"], "--parallel must be at least 1"),
        ("over('seed', 1)", ["--workdir="], "--workdir is missing"),
        (
            "over('seed', 1)",
            ["--workdir=RUN"],
            "is a run directory: name a folder that may hold many runs",
        ),
        ("over('seed', 1)", ["--config.stepz=1"], "unknown field config.stepz"),
        ("over('seed', 1)", ["--evals.bound.samples=3"], "samples=3 must be even"),
        ("over('seed', 1)", ["--evals=bond"], "did you mean 'bound'?"),
        (
            "over('seed', 1)",
            ["--search=3", "--evals=none"],
            "--search needs a score to go by",
        ),
        ("over('seed', 1)", ["--paralel=1"], "did you mean '--parallel'?"),
    ],
)
def test_a_mistake_is_one_line_and_runs_nothing(
    body, words, said, recipe, tmp_path, capsys
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    arguments = [
        f"--workdir={tmp_path / 'w'}",
        *(word.replace("RUN", str(tmp_path / "run")) for word in words),
    ]
    code, out, err = outcome(capsys, recipe(body), *arguments)
    assert (
        code == 2
        and out == ""
        and err.startswith("error: ")
        and err.count("\n") == 1
        and said in err
    )
    assert not (tmp_path / "w").exists()

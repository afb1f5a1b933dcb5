"""The data of a score, as `evaluate`, reports and sweeps describe it; impossible scores."""

import json
import shutil

import pytest

from dlm import evaluate, sweep, train
from dlm.core.run import build_run
from dlm.data.base import digest
from dlm.reports import groups, record, table
from tests import tiny
from tests.commands.test_end_to_end import answer, mistake
from tests.tiny import write_recipe

JOINED = dict(
    data__source=dict(name="problems", count=300),
    text="bpe",
    evals=dict(tasks=dict(num=8)),
)


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            JOINED,
            "evals.tasks.ask='prompt': "
            "this run's tokenizer joins what is given with what is asked for",
        ),
        (dict(evals=dict(gen_ppl=dict(num=2))), "a judge is missing"),
        (dict(evals=dict(harness=dict(limit=2))), "which tasks, and where?"),
        (dict(evals=dict(routing={})), "this model has no experts"),
    ],
    ids=str,
)
def test_what_can_score_no_such_model_is_refused_before_one_is_trained(
    changes, said, corpus, tmp_path, capsys
):
    config = write_recipe(
        tmp_path / "recipe.py", tiny.recipe(corpus, **changes, intervals__eval=1)
    )
    assert said in mistake(
        capsys, train, f"--config={config}", f"--workdir={tmp_path / 'run'}"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_a_run_lacks_for_a_score_is_asked_for_by_evaluate_where_training_has_none(
    corpus, tmp_path, capsys
):
    changes = dict(evals=dict(gen_ppl=dict(num=2)), steps=2)
    for name, every in dict(never=0, later=3).items():
        config = write_recipe(
            tmp_path / f"{name}.py",
            tiny.recipe(corpus, **changes, intervals__eval=every),
        )
        answer(capsys, train, f"--config={config}", f"--workdir={tmp_path / name}")
    assert "a judge is missing" in mistake(
        capsys, evaluate, f"--workdir={tmp_path / 'never'}"
    )


@pytest.mark.slow
def test_a_score_knows_its_text_and_another_one_changes_no_table(
    trained, corpus, tmp_path, capsys, monkeypatch
):
    """Scores on the run's text, on two texts of one name, and on its own text after an edit.

    Those on an edited text do not count unless they are requested.
    """
    run = tmp_path / "run"
    shutil.copytree(trained("ar"), run)
    (run / "evals.jsonl").unlink(missing_ok=True)
    words = [f"--workdir={run}", "--evals=compression"]
    own = answer(capsys, evaluate, *words)["scores"]
    documents = build_run(
        json.loads((run / "config.json").read_text())
    ).data.source.documents("held_out")
    assert all(
        s["text"] == digest(documents) and s["differs"] == {} and s["interval"] == 0
        for s in own
    )
    assert own[0]["text"]["bytes"] == own[-1]["value"] and own[0]["commit"]

    def shown():
        grouped = groups.grouped(record.read([run]))
        latest = sweep.latest(
            run, "gzip_bits_per_byte", {"compression": own[0]["settings"]}
        )["value"]
        return (
            table.as_text(table.rows(grouped)),
            table.as_csv(grouped),
            latest,
        ), table.others_as_text(table.others(grouped))

    before, nothing = shown()
    for n in range(2):
        (tmp_path / str(n)).mkdir()
        (tmp_path / str(n) / "a.txt").write_text(f"text {n}\n" * 9)
        monkeypatch.chdir(tmp_path / str(n))
        answer(capsys, evaluate, *words, "--data=a.txt")
    text = corpus.read_text()
    corpus.write_text(text.replace(".\n", ". More\n"))
    try:
        said = mistake(capsys, evaluate, *words)
        assert (
            f"the training and held-out text of {run} has changed since it was trained: restore it"
            in said
            and "--accept_data" in said
        )
        accepted = answer(capsys, evaluate, *words, "--accept_data")["scores"]
        (run / "held_out.sha256").unlink()  # as an earlier version leaves a run
        assert "the training and perhaps the held-out text" in mistake(
            capsys, evaluate, *words
        )
    finally:
        corpus.write_text(text)
    assert {s["accepted_data"] for s in accepted} == {
        "training and held-out"
    } and accepted[0]["text"] != own[0]["text"]
    after, described = shown()
    assert (
        after == before
        and nothing == ""
        and described.count("data=a.txt (63 bytes, ") == 2
        and "text=changed since the training" in described
    )

"""train → evaluate → sample on a tiny corpus, by commands; a run resumes byte for byte."""

import contextlib
import io
import json
import os
import re
import shutil
import signal

import jax
import numpy as np
import pytest

from dlm import evaluate, sample, train
from dlm.app import cli
from dlm.app.open_run import reopen
from dlm.core.run import build_run
from dlm.drills import replay_update
from dlm.runs import checkpoint, directory, logs
from dlm.training.config import Average
from tests import tiny

KINDS = ["masked", "ar"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{kind: (workdir, arguments)} of two runs of 4 updates whose corpus is gone."""
    folder, by_kind = tmp_path_factory.mktemp("runs"), {}
    corpus = tiny.write_corpus(folder / "corpus.txt")
    text = corpus.read_text()
    corpus.write_text(
        text + "\n" + text[: text.index("\n\n")] + "\n"
    )  # its first paragraph again
    for kind in KINDS:
        config = tiny.recipe(
            corpus,
            text=dict(name="bpe", size=290),
            intervals=dict(log=1, save=2, eval=3),
            **(tiny.AR if kind == "ar" else {}),
        )
        arguments = [
            f"--config={tiny.write_recipe(folder / f'{kind}.py', config)}",
            f"--workdir={folder / kind}",
        ]
        arguments += [
            "--config.optim.ema=0.5",
            f"--config.data.source.unique={kind == 'ar'}",
        ]
        with contextlib.redirect_stderr(io.StringIO()) as said:
            train.main(arguments)
        assert said.getvalue().count("dropped from the data: 1 duplicates\n") == (
            kind == "ar"
        )
        by_kind[kind] = folder / kind, arguments
    return corpus, by_kind


def answer(capsys, command, *arguments):
    """The one JSON object of a command."""
    capsys.readouterr()
    command.main([*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def content(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_directory_holds_what_it_takes(runs, kind):
    workdir, _ = runs[1][kind]
    names = {p.name for p in workdir.iterdir()}
    assert {
        "config.json",
        "metrics.jsonl",
        "commit.txt",
        "environment.json",
        "checkpoints",
        "tokenizer.json",
    } <= names
    assert build_run(
        json.loads((workdir / "config.json").read_text())
    ).optim.ema == Average(0.5)
    assert json.loads((workdir / "environment.json").read_text())["dropped"] == (
        dict(duplicates=1) if kind == "ar" else {}
    )
    rows = logs.rows(workdir / "metrics.jsonl")
    assert [r["step"] for r in rows if "loss" in r] == [1, 2, 3, 4] and all(
        r["loss"] > 0 for r in rows if "loss" in r
    )
    assert [r["step"] for r in rows if "bound.bits_per_byte" in r] == [3] and set(
        rows[-1]["phases"]
    ) == {"data", "step", "eval", "save"}
    assert ("masked_share" in rows[0]) == (kind == "masked")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_resuming_is_byte_identical(runs, kind, tmp_path, capsys):
    """As after a crash between two checkpoints: rows beyond the checkpoint are written again."""
    workdir, arguments = runs[1][kind]
    again = tmp_path / "again"
    shutil.copytree(workdir, again)
    shutil.rmtree(again / "checkpoints" / "4")
    (again / "metrics.jsonl").write_text(
        "".join(
            json.dumps(r) + "\n"
            for r in logs.rows(again / "metrics.jsonl")
            if r["step"] <= 3
        )
    )
    train.main([arguments[0], f"--workdir={again}", *arguments[2:]])
    assert "going on after update 2" in capsys.readouterr().err
    tiny.identical(
        *(jax.device_get(reopen(w, whole=True)[1]) for w in (workdir, again))
    )
    exact = ("step", "loss", "grad_norm", "lr", "masked_share", "bound.bits_per_byte")
    rows = [
        [{k: r[k] for k in exact if k in r} for r in logs.rows(w / "metrics.jsonl")]
        for w in (workdir, again)
    ]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_run_goes_on_on_other_devices_and_back(runs, tmp_path):
    """Updates 3 and 4 on four devices from one device's checkpoint, and on one from that of two.

    The masks are the same, and the loss is up to rounding.
    """
    workdir, arguments = runs[1]["masked"]
    there, back = tmp_path / "there", tmp_path / "back"
    shutil.copytree(workdir, there)
    shutil.rmtree(there / "checkpoints" / "4")
    train.main(
        [arguments[0], f"--workdir={there}", *arguments[2:], "--config.mesh.data=4"]
    )
    train.main(
        [arguments[0], f"--workdir={back}", *arguments[2:], "--config.mesh.data=2"]
    )
    shutil.rmtree(back / "checkpoints" / "4")
    train.main([arguments[0], f"--workdir={back}", *arguments[2:]])
    unbroken, *others = (
        [r for r in logs.rows(w / "metrics.jsonl") if "loss" in r]
        for w in (workdir, there, back)
    )
    for rows in others:
        assert [r["step"] for r in rows] == [1, 2, 3, 4]
        for one, other in zip(unbroken, rows, strict=True):
            assert (
                other["loss"] == pytest.approx(one["loss"], rel=1e-5)
                and other["masked_share"] == one["masked_share"]
            )
    assert directory.run_of(there).mesh.data == 4


@pytest.mark.slow
def test_two_processes_stop_together_and_one_goes_on(runs, tmp_path):
    """After SIGTERM to one of them, around the first compilation, both save the same step.

    One device makes the remaining updates, with the result of an uninterrupted run.
    """
    workdir, arguments = runs[1]["masked"]
    again = tmp_path / "again"
    both = tiny.processes(
        2,
        "dlm.train",
        arguments[0],
        f"--workdir={again}",
        *arguments[2:],
        "--config.mesh.data=2",
        "--config.steps=4",
    )
    said, second = "", None
    for line in both.stderr:
        said += line
        if line.startswith("processes "):
            second = int(re.search(r"\[1\] (\d+)", line)[1])
        if line.startswith("[0] ") and "parameters," in line:
            os.kill(second, signal.SIGTERM)
            break
    said += both.communicate(timeout=120)[1]
    assert both.returncode == 75, said
    stopped = {
        rank: re.search(rf"\[{rank}\] stopped after update (\d);", said)[1]
        for rank in (0, 1)
    }
    assert (
        stopped[0] == stopped[1]
        and checkpoint.steps(again) == [int(stopped[0])]
        and int(stopped[0]) < 4
    )
    train.main([arguments[0], f"--workdir={again}", *arguments[2:]])
    unbroken, broken = (
        [r for r in logs.rows(w / "metrics.jsonl") if "loss" in r]
        for w in (workdir, again)
    )
    assert [r["step"] for r in broken] == [1, 2, 3, 4]
    for one, other in zip(unbroken, broken, strict=True):
        assert (
            other["loss"] == pytest.approx(one["loss"], rel=1e-5)
            and other["masked_share"] == one["masked_share"]
        )


@pytest.mark.slow
def test_moved_data_and_another_log_interval_are_taken_and_changed_data_refused_unless_accepted(
    runs, tmp_path, capsys
):
    """The result is bit for bit the same.

    The config records each other value with the update after which it holds.
    """
    workdir, arguments = runs[1]["ar"]
    again, moved = tmp_path / "again", shutil.copy(runs[0], tmp_path / "moved.txt")
    shutil.copytree(workdir, again, ignore=shutil.ignore_patterns("4"))
    words = [
        arguments[0],
        f"--workdir={again}",
        *arguments[2:],
        f"--config.data.source.paths={moved}",
        "--config.intervals.log=2",
    ]
    train.main([*words, "--config.data.threads=0"])
    tiny.identical(
        *(jax.device_get(reopen(w, whole=True)[1]) for w in (workdir, again))
    )
    changes = [
        (c["after"], c["change"].partition(":")[0])
        for c in json.loads((again / "config.json").read_text())["changes"]
    ]
    assert (
        changes == [(2, "data.source.paths"), (2, "data.threads"), (2, "intervals.log")]
        and " goes on after" in capsys.readouterr().err
    )
    assert [r["step"] for r in logs.rows(again / "metrics.jsonl") if "loss" in r] == [
        1,
        2,
        4,
    ]
    shutil.rmtree(again / "checkpoints" / "4")
    before, _ = (
        content(again),
        moved.write_text(moved.read_text().replace("cat", "cow", 1)),
    )
    assert "have changed since it began" in mistake(
        capsys, train, *words, "--config.mesh.data=2"
    )
    assert {k: v for k, v in content(again).items() if k != "lock"} == {
        k: v for k, v in before.items() if k != "lock"
    }
    assert (
        answer(capsys, train, *words, "--accept_data")["updates"] == 4
        and "data changed" in (again / "config.json").read_text()
    )


@pytest.mark.slow
def test_a_finished_run_is_left_alone(runs, capsys):
    workdir, arguments = runs[1]["masked"]
    before = content(workdir)
    reply = answer(capsys, train, *arguments)
    assert {k: v for k, v in content(workdir).items() if k != "lock"} == {
        k: v for k, v in before.items() if k != "lock"
    }
    assert (reply["workdir"], reply["updates"], reply["step"]) == (
        str(workdir),
        4,
        4,
    ) and reply["parameters"] > 1000


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_evaluate(runs, kind, capsys):
    workdir, _ = runs[1][kind]
    one, two, other = (
        answer(
            capsys,
            evaluate,
            f"--workdir={workdir}",
            "--evals=bound,compression",
            f"--seed={s}",
        )
        for s in (0, 0, 1)
    )
    scores = [
        {s["name"]: (s["value"], s["se"]) for s in reply["scores"]}
        for reply in (one, two, other)
    ]
    assert all(
        s["interval"] == pytest.approx(1.96 * s["se"]) for s in one["scores"]
    ) and (
        one["seed"],
        other["seed"],
    ) == (0, 1)
    evaluate.main([f"--workdir={workdir}", "--evals=bound"])
    (line,) = [
        line
        for line in capsys.readouterr().err.splitlines()
        if "bound.bits_per_byte" in line
    ]
    assert (f"± {1.96 * scores[0]['bits_per_byte'][1]:.4f}" in line) == (
        kind == "masked"
    ) and ("±" in line) == (kind == "masked")
    assert scores[0] == scores[1] and (scores[0] == scores[2]) == (kind == "ar")
    assert (scores[0]["bits_per_byte"][1] > 0) == (kind == "masked") and 1 < scores[0][
        "bits_per_byte"
    ][0] < 20
    assert {s["claims"] for s in one["scores"] if s["eval"] == "bound"} == {
        "exact" if kind == "ar" else "bound"
    }
    assert (one["step"], one["seed"]) == (4, 0) and len(
        (workdir / "evals.jsonl").read_text().splitlines()
    ) >= 3 * len(one["scores"])
    trained = [
        r for r in logs.rows(workdir / "metrics.jsonl") if "bound.bits_per_byte" in r
    ][-1]
    at_two = answer(
        capsys, evaluate, f"--workdir={workdir}", "--step=2", "--evals.bound.samples=4"
    )
    assert (
        at_two["step"] == 2
        and at_two["scores"][0]["settings"]["samples"] == 4
        and trained["step"] == 3
    )


@pytest.mark.slow
def test_evaluators_that_draw_give_the_same_for_the_same_seed(runs, capsys):
    (masked, _), (ar, _) = runs[1]["masked"], runs[1]["ar"]
    flags = [
        "samples.num=4",
        "gen_ppl.num=4",
        "infill.num=4",
        "infill.length=12",
        "infill.hole=4",
        "tasks.num=4",
        "calibration.windows=9",
    ]
    words = [
        f"--workdir={masked}",
        "--evals=samples,gen_ppl,infill,tasks,calibration",
        "--sampler.steps=2",
        "--evals.tasks.task.depth=3",
    ]
    words += [f"--evals.gen_ppl.judge={ar}", *(f"--evals.{flag}" for flag in flags)]
    one, two = (
        answer(capsys, evaluate, *words, "--seed=3")["scores"] for _ in range(2)
    )
    assert [(s["name"], s["value"], s["se"]) for s in one] == [
        (s["name"], s["value"], s["se"]) for s in two
    ] and len(one) == 22
    drawn = [s for s in one if s["eval"] != "calibration"]
    assert all(
        s["nfe"] == 2
        and s["sampler"]["steps"] == 2
        and s["seconds"] > 0
        and s["seed"] == 3
        and s["se"] >= 0
        for s in drawn
    )
    assert {s["sampler"]["temperature"] for s in one if s["eval"] == "infill"} == {0.0}
    assert all(
        ("text" in s and s["text"] is not None)
        == (s["eval"] not in ("samples", "tasks"))
        for s in one
    )
    assert all(
        s["differs"]["seed"] == 3
        and ("sampler.steps" in s["differs"]) == (s["eval"] != "calibration")
        for s in one
    )
    assert {s["judge"]["step"] for s in one if s["name"] == "gen_ppl"} == {4} and {
        s["eval"] for s in one if "task" in s
    } == {"tasks"}
    shares = [s for s in one if "trials" in s]
    assert (
        all(s["interval"] > 0 for s in shares)
        and {s["name"] for s in shares if s["value"] in (0, 1)}
        and len(shares) == 4
    )
    other = answer(
        capsys,
        evaluate,
        f"--workdir={ar}",
        "--evals=infill",
        "--evals.infill.num=4",
        "--evals.infill.length=12",
    )["scores"]
    assert [s["name"] for s in other] == [
        "token_accuracy",
        "exact_match",
    ] and "judge is missing" in mistake(
        capsys, evaluate, f"--workdir={masked}", "--evals=gen_ppl"
    )


@pytest.mark.slow
def test_evaluate_another_text(runs, tmp_path, capsys):
    text = tmp_path / "other.txt"
    text.write_text("a text of its own\n" * 9)
    result = answer(
        capsys,
        evaluate,
        f"--workdir={runs[1]['ar'][0]}",
        f"--data={text}",
        "--evals=compression",
    )
    assert {s["name"]: s["value"] for s in result["scores"]}[
        "held_out_bytes"
    ] == 162 and result["scores"][0]["data"] == str(text)
    words = (
        f"--workdir={runs[1]['ar'][0]}",
        f"--data={text}",
        "--evals=compression",
        "--data.unit=line",
    )
    for unique, size in (("false", 153), ("true", 17)):
        evaluate.main([*words, "--json", f"--data.unique={unique}"])
        out, err = capsys.readouterr()
        assert {s["name"]: s["value"] for s in json.loads(out)["scores"]}[
            "held_out_bytes"
        ] == size
        assert ("other.txt: dropped 8 duplicates" in err) == (unique == "true")
    assert "--data.unit says how another text is read: name it" in mistake(
        capsys, evaluate, words[0], words[-1]
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_sample_needs_the_run_directory_alone(runs, kind, tmp_path, capsys):
    workdir, _ = runs[1][kind]
    moved = tmp_path / "moved"
    shutil.copytree(workdir, moved)
    runs[0].rename(runs[0].with_suffix(".gone"))
    try:
        arguments = [
            f"--workdir={moved}",
            "--prompt=the cat ",
            "--num=2",
            "--length=6",
            f"--trace={tmp_path / 'new' / 'page.html'}",
        ]
        one, two = (
            answer(capsys, sample, *arguments),
            answer(capsys, sample, *arguments),
        )
    finally:
        runs[0].with_suffix(".gone").rename(runs[0])
    texts = [[s["text"] for s in reply["samples"]] for reply in (one, two)]
    assert texts[0] == texts[1] and all(t.startswith("the cat ") for t in texts[0])
    pieces = one["samples"][0]["pieces"]
    assert pieces[0] == ["the cat ", True] and [p[1] for p in pieces] == [True, False]
    assert (
        one["samples"][0]["nfe"] >= 1
        and one["samples"][0]["kind"] == "prompt"
        and one["samples"][0]["logprob"] < 0
    )
    page = (tmp_path / "new" / "page.html").read_text()
    assert page.startswith("<!doctype html>") or "<html" in page.lower()
    assert len((moved / "samples.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
def test_infill(runs, capsys):
    workdir = runs[1]["masked"][0]
    reply = answer(
        capsys,
        sample,
        f"--workdir={workdir}",
        "--infill=the ___ sat\\n___.",
        "--num=1",
        "--length=3",
        "--sampler.rule=confident",
    )
    (only,) = reply["samples"]
    assert [p[1] for p in only["pieces"]] == [True, False, True, False, True]
    assert [p[0] for p in only["pieces"] if p[1]] == ["the ", " sat\n", "."] and only[
        "sampler"
    ]["rule"]["name"] == "samplers.rules.confident"


# ----------------------------------------------------------------------------------------- errors


def mistake(capsys, command, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        cli.main(command.main, [*map(str, arguments)])
    out, err = capsys.readouterr()
    assert (
        exit.value.code == 2
        and out == ""
        and err.startswith("error: ")
        and err.count("\n") == 1
    ), err
    return err


@pytest.fixture
def place(tmp_path, corpus):
    """Returns (recipe argument, folder) with an empty file, a foreign directory and a run."""
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("x")
    return (
        f"--config={tiny.write_recipe(tmp_path / 'recipe.py', tiny.recipe(corpus))}",
        tmp_path,
    )


TRAIN = {
    "--config.optim.lrr=1": r"unknown field config.optim.lrr (did you mean 'lr'?)",
    "--config.steps=many": "config.steps must be of type int, not 'many'",
    "--config.nn.attention.heads=3 --config.nn.attention.kv_heads=2": (
        "heads=3 must be a multiple of kv_heads=2"
    ),
    "--config.data.length=100000": "config.data.length=100000 is longer than the corpus (",
    "--config.data.source=embeded": "no data 'data.embeded' (did you mean 'embedded'?)",
    "--config.data.source={'name':'tfds','dataset':'nothing','data_dir':'FOLDER'}": (
        "data set 'nothing' is not prepared in"
    ),
    "--config.data.source.paths=FOLDER/none.txt": "no file FOLDER/none.txt",
    "--config.data.source.paths=FOLDER/empty.txt": "FOLDER/empty.txt is empty",
    "--config.data.source=3": "config.data.source must name a member of data",
    "--config.evals.bound=3": "config.evals.bound is a section, not 3",
    "--config.objective=None": "config.objective must name a member of objectives",
    "--config.optim.microbatches=3": (
        "config.data.batch=8 must be a multiple of optim.microbatches=3"
    ),
    "--config.mesh.tensor=64": "config.mesh: ",
    "--config.objective=ar": (
        "config.sampler: a causal model decides one position in one step: "
        "sampler.block=0 and sampler.steps=4 must"
    ),
    "--workdri=x": "unknown argument --workdri (did you mean '--workdir'?)",
    "--workdir=FOLDER/foreign": "holds other things: choose an empty or a new directory",
    "--workdir=FOLDER/empty.txt": "is a file",
    "--workdir=FOLDER/empty.txt/below": "FOLDER/empty.txt/below",
    "--config=FOLDER/recpe.py": "no recipe FOLDER/recpe.py (did you mean 'recipe.py'?)",
}


@pytest.mark.parametrize("arguments", TRAIN)
def test_training_mistakes_are_one_line_and_write_nothing(arguments, place, capsys):
    config, folder = place
    before = content(folder)
    words = arguments.replace("FOLDER", str(folder)).split()
    said = mistake(capsys, train, config, f"--workdir={folder / 'new'}", *words)
    assert TRAIN[arguments].replace("FOLDER", str(folder)) in said
    assert content(folder) == before and not (folder / "new").exists()


def test_dry_run_says_sizes_and_writes_nothing(place, capsys):
    config, folder = place
    before = content(folder)
    reply = answer(
        capsys,
        train,
        config,
        f"--workdir={folder / 'new'}",
        "--dry_run",
        "--config.steps=1e3",
    )
    assert reply["parameters"] == build_run(tiny.recipe("x")).nn.parameters
    assert reply["updates"] == 1000 and reply["tokens_per_update"] == 8 * 32
    assert (
        reply["state_bytes"] > 3 * 4 * reply["parameters"] and content(folder) == before
    )
    experts = [
        "--config.nn.experts={'count': 8, 'per_token': 2, 'width': 8, 'router': {'groups': 2}}",
        "--config.mesh.tensor=8",
    ]
    reply = answer(
        capsys, train, config, "--dry_run", *experts
    )  # on a mesh of more devices than there are
    assert reply["parameters"] - reply["active_parameters"] == 2 * 6 * 3 * 16 * 8


@pytest.mark.slow
def test_bad_numbers_stop_the_run_and_are_made_again(corpus, tmp_path, capsys):
    """Update 1 leads to parameters without a finite gradient.

    Three updates are skipped, the run stops, and the replay reproduces the first.
    """
    config = tiny.recipe(
        corpus,
        steps=9,
        optim__lr=1e38,
        optim__skip=dict(limit=3),
        intervals=dict(log=1, save=1, keep=9),
    )
    arguments = [
        f"--config={tiny.write_recipe(tmp_path / 'r.py', config)}",
        f"--workdir={tmp_path / 'w'}",
    ]
    said = mistake_after(capsys, train, *arguments)
    assert (
        "3 updates in a row had no usable loss or gradient, the first was update 2"
        in said
        and "bench replay" in said
    )
    rows = logs.rows(tmp_path / "w" / "metrics.jsonl")
    assert [("loss" in r, r.get("skipped", 0)) for r in rows] == [
        (True, 0),
        (False, 1),
        (False, 1),
    ]
    result = answer(capsys, replay_update, f"--workdir={tmp_path / 'w'}")
    assert (
        result["same"]
        and result["skipped"]
        and (result["step"], result["from_step"]) == (2, 1)
        and not np.isfinite(float(result["grad_norm"]))
    )
    (tmp_path / "w" / "incident.json").write_text("{}")
    assert "incident.json is damaged" in mistake(
        capsys, replay_update, f"--workdir={tmp_path / 'w'}"
    )


def mistake_after(capsys, command, *arguments):
    """The last line of a command that fails after it has begun."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        cli.main(command.main, [*map(str, arguments)])
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert exit.value.code == 2 and said.startswith("error: ")
    return said


def test_a_missing_workdir_is_asked_for(place, capsys):
    assert "--workdir is missing" in mistake(capsys, train, place[0])
    for command in (evaluate, sample):
        assert "--workdir" in mistake(capsys, command)


@pytest.mark.slow
def test_another_runs_directory_is_refused(runs, capsys):
    workdir, arguments = runs[1]["masked"]
    before = content(workdir)
    assert "belongs to a run with another config (optim.lr: 0.01 → 0.5)" in mistake(
        capsys, train, *arguments, "--config.optim.lr=0.5"
    )
    assert content(workdir) == before


@pytest.mark.slow
@pytest.mark.parametrize("command", [evaluate, sample])
def test_directories_that_are_no_run(command, place, runs, capsys):
    config, folder = place
    assert "is not a run directory" in mistake(
        capsys, command, f"--workdir={folder / 'foreign'}"
    )
    assert "is not a run directory" in mistake(
        capsys, command, f"--workdir={folder / 'none'}"
    )
    shutil.copytree(
        runs[1]["masked"][0],
        folder / "young",
        ignore=shutil.ignore_patterns("checkpoints"),
    )
    assert "has no finished checkpoint yet" in mistake(
        capsys, command, f"--workdir={folder / 'young'}"
    )
    assert "no checkpoint of step 3" in mistake(
        capsys, command, f"--workdir={runs[1]['masked'][0]}", "--step=3"
    )
    assert not (folder / "none").exists() and sorted(
        p.name for p in (folder / "foreign").iterdir()
    ) == ["thesis.tex"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command, kind, arguments, said",
    [
        (
            sample,
            "masked",
            ["--sampler.rule=confidnt"],
            "no samplers.rules 'samplers.rules.confidnt' (did you mean 'confident'?)",
        ),
        (sample, "masked", ["--sampler.rule=config"], "samplers.rules.config"),
        (
            sample,
            "masked",
            ["--sampler.rule=loop"],
            "samplers.remask.loop is one of samplers.remask",
        ),
        (sample, "masked", ["--sampler.remask=conf"], "sampler.remask=confidence now"),
        (sample, "masked", ["--sampler.stps=3"], "(did you mean 'steps'?)"),
        (sample, "masked", ["--prompt=a", "--infill=b___"], "exclude each other"),
        (sample, "masked", ["--infill=nothing"], "the template has no ___"),
        (
            sample,
            "masked",
            ["--num=0"],
            "--num, --length and --problems must be at least 1",
        ),
        (sample, "ar", ["--infill=a___b"], "cannot fill in"),
        (
            sample,
            "ar",
            ["--steps=8"],
            "a causal model decides one position in one step",
        ),
        (evaluate, "masked", ["--evals=bond"], "(did you mean 'bound'?)"),
        (evaluate, "masked", ["--evals.bound.samples=3"], "samples=3 must be even"),
        (evaluate, "masked", ["--evals.bond.samples=4"], "(did you mean 'bound'?)"),
        (evaluate, "masked", ["--data=nothing.txt"], "no file nothing.txt"),
    ],
    ids=str,
)
def test_mistakes_with_a_run(command, kind, arguments, said, runs, capsys):
    workdir, _ = runs[1][kind]
    before = content(workdir)
    assert said in mistake(capsys, command, f"--workdir={workdir}", *arguments)
    assert content(workdir) == before


@pytest.mark.slow
def test_numbers_are_finite(runs):
    for workdir, _ in runs[1].values():
        assert all(
            np.isfinite(x).all() for x in jax.tree.leaves(reopen(workdir)[1].params)
        )

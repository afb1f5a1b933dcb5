"""Fields of later versions: an old run keeps its behaviour and reports it in one line."""

import json

import pytest

from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.reports import record
from dlm.runs import config_paths, directory, earlier_fields, logs
from dlm.runs.earlier_tables import Earlier, Renamed
from tests import golden, tiny
from tests.reports.conftest import write

TABLE = (
    Earlier("optim.b2", 0.5, "moments of an earlier kind"),
    Earlier("data.source.unit", "line", "lines", members=("local",)),
    Earlier("data.source.parts", ("prose",), "prose alone", members=("embedded",)),
    Earlier("data.blank", "served", "never said", beside="prompt"),
    Earlier("optim.ema.warmup", "none", "slow", beside="decay", number="decay"),
    Earlier("nowhere.at.all", 1, "a section that this run has not"),
)


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(earlier_fields, "EARLIER", TABLE)


@pytest.mark.parametrize("source", ["local", "data.local"])
def test_missing_fields_have_the_value_of_their_time(table, source):
    config = dict(optim=dict(lr=1.0), data=dict(source=dict(name=source)))
    assert [line.partition(":")[0] for line in earlier_fields.completed(config)] == [
        "optim.b2=0.5",
        "data.source.unit='line'",
    ]
    assert config == dict(
        optim=dict(lr=1.0, b2=0.5), data=dict(source=dict(name=source, unit="line"))
    )
    assert not earlier_fields.completed(config), "a field that is there keeps its value"


def test_a_member_given_by_its_name_alone(table):
    config = dict(data=dict(source="embedded"))
    earlier_fields.completed(config)
    assert config == dict(data=dict(source=dict(name="embedded", parts=("prose",))))


def test_a_number_that_became_a_section(table):
    config = dict(optim=dict(b2=0.5, ema=0.9))
    assert earlier_fields.completed(config) == ["optim.ema.warmup='none': slow"]
    assert config == dict(optim=dict(b2=0.5, ema=dict(decay=0.9, warmup="none")))
    assert build_run(tiny.recipe("corpus.txt") | config).optim.ema.warmup == "none"
    assert not earlier_fields.completed(
        dict(optim=dict(b2=0.5, ema=0.0))
    ) and not earlier_fields.completed(dict(optim=dict(b2=0.5)))


def test_a_field_that_means_nothing_without_another_is_said_with_it_alone(table):
    for prompt, lines in (("", 0), ("=", 1)):
        assert len(earlier_fields.completed(dict(data=dict(prompt=prompt)))) == lines


def test_what_means_nothing_tells_no_run_from_an_older_one(table, tmp_path):
    on = dict(
        data=dict(prompt="=", blank="served"),
        optim=dict(ema=dict(decay=0.9, warmup="none")),
    )
    off = dict(
        data=dict(prompt="", blank="left_out"),
        optim=dict(ema=dict(decay=0.0, warmup="count")),
    )
    unchanged = json.loads(json.dumps(on))
    earlier_fields.idle(unchanged)
    earlier_fields.idle(off)
    assert unchanged == on and off == dict(
        data=dict(prompt=""), optim=dict(ema=dict(decay=0.0))
    )
    run = write(
        tmp_path / "run",
        "masked",
        3.0,
        0.01,
        "bound",
        **dict(data=dict(batch=8, length=32, prompt="", blank="left_out")),
    )
    assert "blank" not in record.read([run])[0].config["data"]


def test_an_old_run_says_once_what_it_keeps(table, tmp_path, capsys):
    run = build_run(tiny.recipe("corpus.txt"))
    with directory.locked(tmp_path):
        directory.create(tmp_path, run, run.text.fit(()))
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["optim"]["b2"]
    path.write_text(json.dumps(config))
    assert [directory.run_of(tmp_path).optim.b2 for _ in range(2)] == [0.5, 0.5]
    said = capsys.readouterr().err
    assert (
        said == f"{tmp_path} is of an earlier version of dlm and keeps optim.b2=0.5: "
        "moments of an earlier kind\n"
    )


def test_an_old_run_goes_on_by_the_command_that_began_it_again_and_again(
    table, tmp_path
):
    """A recipe that leaves the field at today's default continues; another value is another run."""
    run = build_run(tiny.recipe("corpus.txt"))
    with directory.locked(tmp_path):
        directory.create(tmp_path, run, run.text.fit(()))
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["optim"]["b2"]
    path.write_text(json.dumps(config))
    for _ in range(2):
        assert directory.belongs(tmp_path, run)
        directory.write_config(tmp_path, going := directory.as_begun(tmp_path, run))
        assert (going.optim.b2, run.optim.b2) == (0.5, 0.95)
    other = build_run(tiny.recipe("corpus.txt", optim__b2=0.9))
    with pytest.raises(UserError, match="optim.b2: 0.5 → 0.9"):
        directory.belongs(tmp_path, other)
    assert directory.as_begun(tmp_path / "nothing", run) is run


def test_modules_that_moved_are_read_under_their_names_of_today(tmp_path):
    """Else an old run and a new one of the same config would be two models in a report."""
    run = build_run(tiny.recipe("corpus.txt"))
    directory.write_config(tmp_path, run)
    now = json.loads((tmp_path / "config.json").read_text())
    then = {
        "training.config": "run.optim",
        "machine.config": "run.mesh",
        "training.intervals": "run.loop",
    }
    text = (tmp_path / "config.json").read_text()
    for new, old in then.items():
        assert new in text
        text = text.replace(f'"{new}"', f'"{old}"')
    stored = json.loads(text)
    earlier_fields.completed(stored)
    assert stored == now


RENAMED = (
    Renamed("every", "intervals"),
    Renamed("intervals.unsaved", "intervals.on_failure", values={"go_on": "continue"}),
    Renamed("sampler.edge", "sampler.window"),
    Renamed("sampler.then", "sampler.next"),
    Renamed("sampler.rule.trust", "sampler.rule.self_trust", members=("planned",)),
    Renamed("sampler.rule.below", "sampler.cache.threshold"),
)


def split_power(config):
    """Moves a field into another member, as no row of the table can."""
    process = config.get("objective", {}).get("process", {})
    if "power" not in process:
        return []
    process["schedule"] = dict(name=process["schedule"], power=process.pop("power"))
    return [("objective.process.power", "objective.process.schedule.power")]


@pytest.fixture
def renamed(monkeypatch):
    modules = {
        "old.rules.sharp": "samplers.sharp",
        "samplers.sharp": "samplers.rules.sharp",
        "samplers.rules.sharp": "samplers.rules.keen",
    }
    monkeypatch.setattr(earlier_fields, "MODULES", modules)
    monkeypatch.setattr(earlier_fields, "FIELDS", RENAMED)
    monkeypatch.setattr(earlier_fields, "COLUMNS", {"old_loss": "loss"})
    monkeypatch.setattr(earlier_fields, "MOVES", (split_power,))
    monkeypatch.setattr(config_paths, "PASSES", ("then", "next"))


def test_a_stored_config_is_translated_name_by_name(renamed):
    rule = dict(name="samplers.planned", trust=0.5, below=1)
    later = dict(rule=dict(name="samplers.confident", trust=2.0), edge="sliding")
    config = dict(
        every=dict(unsaved="go_on", log=1),
        sampler=dict(rule=rule, edge="hard", then=later | dict(then=dict(edge="last"))),
        objective=dict(process=dict(schedule="polynomial", power=3.0)),
    )
    names = earlier_fields.rename(config)
    unchanged = dict(rule=dict(name="samplers.confident", trust=2.0), window="sliding")
    assert config == dict(
        intervals=dict(on_failure="continue", log=1),
        sampler=dict(
            rule=dict(name="samplers.planned", self_trust=0.5),
            cache=dict(threshold=1),
            window="hard",
            next=unchanged | dict(next=dict(window="last")),
        ),
        objective=dict(process=dict(schedule=dict(name="polynomial", power=3.0))),
    )
    assert ("every", "intervals") in names and names.count(
        ("sampler.edge", "sampler.window")
    ) == 3
    assert not earlier_fields.rename(config), "today's names stay as they are"


@pytest.mark.parametrize(
    "rule, today",
    [
        ("old.rules.sharp", "samplers.rules.keen"),
        (dict(name="samplers.sharp"), dict(name="samplers.rules.keen")),
        ("sharp", "keen"),
        ("confident", "confident"),
        (dict(name="samplers.confident"), dict(name="samplers.confident")),
        (7, 7),
        (None, None),
    ],
)
def test_modules_are_renamed_where_a_config_names_one(renamed, rule, today):
    config = dict(text="sharp", sampler=dict(rule=rule, then=dict(rule=rule)))
    earlier_fields.rename(config)
    assert config["sampler"]["rule"] == config["sampler"]["next"]["rule"] == today
    assert config["text"] == "sharp", "a bare name belongs to the family of its field"


def test_both_names_at_once_are_an_unknown_field(renamed):
    config = dict(sampler=dict(edge="hard", window="sliding"))
    assert not earlier_fields.rename(config) and config["sampler"]["edge"] == "hard"


def test_rows_are_read_in_todays_names(renamed, tmp_path):
    path = tmp_path / "rows.jsonl"
    score = dict(
        name="exact",
        value=1.0,
        eval="bound",
        sampler=dict(rule=dict(name="samplers.planned", trust=0.5), edge="hard"),
        settings=dict(name="evals.bound", samples=2),
        differs={
            "sampler.edge": "hard",
            "evals.bound.samples": 2,
            "data": "x",
            "data.unit": "y",
        },
    )
    path.write_text(
        json.dumps(dict(step=1, old_loss=2.0)) + "\n" + json.dumps(score) + "\n"
    )
    metric, row = logs.rows(path)
    assert metric == dict(step=1, loss=2.0)
    assert row["sampler"] == dict(
        rule=dict(name="samplers.planned", self_trust=0.5), window="hard"
    )
    assert row["differs"] == {
        "sampler.window": "hard",
        "evals.bound.samples": 2,
        "data": "x",
        "data.unit": "y",
    }
    assert row["settings"] == score["settings"]


def test_an_old_name_in_a_recipe_is_one_line_with_the_new_one(renamed):
    for config, message in (
        (
            dict(sampler=dict(edge="hard")),
            "config.sampler.edge is called config.sampler.window now",
        ),
        (
            dict(sampler=dict(rule="sharp")),
            "sampler.rule=sharp is called .*sampler.rule=keen now",
        ),
    ):
        recipe = json.loads(json.dumps(config))
        with pytest.raises(UserError, match=message):
            earlier_fields.check(recipe)
        assert recipe == config, "the recipe is not changed"
    earlier_fields.check(dict(sampler=dict(window="hard")))


@pytest.mark.parametrize(
    "config", [dict(sampler=3), dict(every=[], objective="masked"), {}]
)
def test_a_damaged_config_is_left_to_the_border(renamed, config):
    config.pop("objective", None)
    earlier_fields.rename(config)


def test_the_power_of_a_noise_schedule_moved_into_the_schedule():
    process = dict(name="noise.mask", schedule="polynomial", power=3.0)
    later = dict(rule=dict(name="samplers.maskgit", schedule="cosine", power=2.0))
    config = dict(objective=dict(process=process), sampler=dict(then=later))
    assert len(earlier_fields.rename(config)) >= 2
    schedule = dict(name="noise.schedules.polynomial", power=3.0)
    assert process == dict(name="noise.mask", schedule=schedule)
    assert later["rule"]["schedule"] == dict(name="noise.schedules.cosine")
    with pytest.raises(
        UserError, match="process.power is called .*process.schedule.power now"
    ):
        earlier_fields.check(
            dict(objective=dict(process=dict(name="noise.uniform", power=2.0)))
        )
    run = build_run(tiny.recipe("corpus.txt") | dict(objective=dict(process=process)))
    assert run.objective.process.schedule.power == 3.0


def test_stored_configs_in_the_oldest_names_are_read(tmp_path):
    """The configs of tests/golden.py have the names of an early version, and stay so."""
    corpus = tmp_path / "corpus.txt"
    for changes in golden.OBJECTIVES.values():
        config = golden.config_of(corpus, changes)
        assert earlier_fields.rename(config), "every one of them has an old name"
        build_run(config)
    for objective, sampler in golden.SAMPLERS.values():
        changes = golden.merged_text(
            golden.OBJECTIVES[objective], f'{{"sampler": {sampler}}}'
        )
        config = golden.config_of(corpus, changes)
        earlier_fields.rename(config)
        build_run(config)


def test_a_run_of_an_earlier_version_is_the_same_run(tmp_path):
    """It is read, is equal to the same run of today, and is resumed by a recipe of today."""
    new = tiny.recipe(
        "corpus.txt",
        intervals=dict(log=1, save=2, on_save_failure="continue"),
        nn__experts=dict(
            count=4, per_token=2, width=8, router=dict(name="moge", groups=2)
        ),
        sampler=dict(
            rule=dict(name="planned", self_trust=0.5),
            window="hard",
            next_pass=dict(
                remask=dict(name="quality", fraction=0.2), remask_fraction=0.5
            ),
        ),
    )
    run = build_run(new)
    with directory.locked(tmp_path):
        directory.create(tmp_path, run, run.text.fit(()))
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    old = dict(stored, every=stored.pop("intervals"))
    old["every"]["unsaved"] = (
        old["every"].pop("on_save_failure").replace("continue", "go_on")
    )
    for then, now in dict(number="count", active="per_token").items():
        old["nn"]["experts"][then] = old["nn"]["experts"].pop(now)
    sampler = old["sampler"]
    sampler["rule"]["trust"] = sampler["rule"].pop("self_trust")
    sampler["then"] = sampler.pop("next_pass")
    sampler["then"]["reopen"] = sampler["then"].pop("remask_fraction")
    sampler["then"]["remask"]["share"] = sampler["then"]["remask"].pop("fraction")
    sampler["then"]["remask"]["name"] = "samplers.remask.prism"
    path.write_text(json.dumps(old))
    assert directory.run_of(tmp_path) == run and directory.belongs(tmp_path, run)
    assert not directory.differences(tmp_path, run)
    with pytest.raises(UserError, match="config.every is called config.intervals now"):
        earlier_fields.check(dict(every=old["every"]))

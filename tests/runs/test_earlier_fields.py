"""Fields that came later: an old run keeps what it did, and says so in one line."""

import json

import pytest

from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.reports import record
from dlm.runs import directory, earlier_fields
from dlm.runs.earlier_fields import Earlier
from tests import tiny
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
    on = dict(data=dict(prompt="=", blank="served"), optim=dict(ema=dict(decay=0.9, warmup="none")))
    off = dict(
        data=dict(prompt="", blank="left_out"), optim=dict(ema=dict(decay=0.0, warmup="count"))
    )
    kept = json.loads(json.dumps(on))
    earlier_fields.idle(kept)
    earlier_fields.idle(off)
    assert kept == on and off == dict(data=dict(prompt=""), optim=dict(ema=dict(decay=0.0)))
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
        said
        == f"{tmp_path} is of an earlier version of dlm and keeps optim.b2=0.5: moments of an earlier kind\n"
    )


def test_an_old_run_goes_on_by_the_command_that_began_it_again_and_again(table, tmp_path):
    """Its recipe leaves the field at today's default; one that asks for something else is another run."""
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
        "training.optimizer": "run.optim",
        "machine.mesh": "run.mesh",
        "training.loop": "run.loop",
    }
    text = (tmp_path / "config.json").read_text()
    for new, old in then.items():
        assert new in text
        text = text.replace(f'"{new}"', f'"{old}"')
    stored = json.loads(text)
    earlier_fields.completed(stored)
    assert stored == now

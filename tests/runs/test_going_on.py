"""A run continues with another value of a field only if no update depends on the field.

The fields are listed, so that a new one is tested as well.
"""

import dataclasses
import importlib
import json
import typing

import pytest

from dlm.core.config import dependence
from dlm.core.errors import UserError
from dlm.core.families import exposed
from dlm.core.run import Run, build_run
from dlm.runs import directory
from tests import tiny
from tests.nn.probes import routing
from tests.test_fields import (
    ROWS,
    evaluators,
    held_out,
    kept,
    members,
    reachable,
    stopping,
    told,
    unsaved,
)

OUTSIDE = {
    routing,
    evaluators,
    held_out,
    kept,
    stopping,
    told,
    unsaved,
}  # probes of tests/test_fields.py that look at no update
ELSEWHERE = (
    "tests.samplers.probes",
    "tests.evals.probes",
    "tests.evals",
)  # and the modules that have such probes alone


def standings(cls=Run, above="depends"):
    """Lists {'Skip.limit': {'free'}}: how an update depends on a field, for every path to it."""
    ways_of_field: dict[str, set[str]] = {}
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        if f.name == "vocab":
            continue
        own = f.metadata.get("update", above) if above == "depends" else above
        below = []
        if "module" in f.metadata:
            below = exposed(
                importlib.import_module(f"dlm.{f.metadata['module']}").__name__
            )
        elif f.metadata.get("family") or f.metadata.get("families"):
            below = members(f.metadata.get("family") or f.metadata["families"])
        elif dataclasses.is_dataclass(hints[f.name]):
            below = [hints[f.name]]
        if "module" not in f.metadata:
            ways_of_field.setdefault(f"{cls.__name__}.{f.name}", set()).add(own)
        for part in [b for b in below if b is not cls]:
            for name, ways in standings(part, own).items():
                ways_of_field.setdefault(name, set()).update(ways)
    return ways_of_field


def looks_at_an_update(name):
    probe = ROWS[name][0] if name in ROWS else None
    if probe is None:
        return (
            not name.startswith("MeshConfig.") and name != "Loader.threads"
        )  # the rest of EXECUTION changes the program of an update
    data = probe.__qualname__.startswith(
        ("task.", "generated")
    )  # what data.problems trains on
    return data or (probe not in OUTSIDE and not probe.__module__.startswith(ELSEWHERE))


def test_what_no_update_depends_on_is_free_and_nothing_else_is():
    ways_of_field = standings()
    assert set(ways_of_field) >= set(ROWS) and len(ways_of_field) > 150
    wrong = {}
    for name, ways in ways_of_field.items():
        if ways <= {"free"}:
            wrong |= {name: ways} if looks_at_an_update(name) else {}
        elif "place" not in ways and not looks_at_an_update(name):
            wrong[name] = ways
    assert not wrong


OTHER = {  # another value of every field that says it of itself
    "Run.mesh": ("mesh.fsdp", dict(mesh__fsdp=2)),
    "Run.sampler": ("sampler.steps", dict(sampler__steps=3)),
    "Run.evals": (
        "evals.compression",
        dict(evals=dict(bound=dict(samples=2), compression={})),
    ),
    "Run.intervals": ("intervals.log", dict(intervals__log=3)),
    "Loader.threads": ("data.threads", dict(data__threads=0)),
    "Skip.limit": ("optim.skip.limit", dict(optim__skip__limit=3)),
    "Local.paths": ("data.source.paths", dict(data__source__paths=("moved.txt",))),
    "Local.held_out_paths": (
        "data.source.held_out_paths",
        dict(data__source__held_out_paths=("moved.txt",)),
    ),
    "Tfds.data_dir": (
        "data.source.data_dir",
        dict(data__source=dict(name="tfds", dataset="x", data_dir="moved")),
    ),
}


def flagged():
    return {
        f"{cls.__name__}.{f.name}"
        for cls in reachable(Run)
        for f in dataclasses.fields(cls)
        if "update" in f.metadata
    }


def test_every_such_field_is_tried():
    assert flagged() == set(OTHER)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER)
def test_a_run_goes_on_with_another_value_and_keeps_from_when_on(
    name, tmp_path, corpus, capsys
):
    dotted, changes = OTHER[name]
    first = (
        dict(data__source=dict(name="tfds", dataset="x"))
        if name == "Tfds.data_dir"
        else {}
    )
    run, other = (
        build_run(tiny.recipe(corpus, **fields)) for fields in (first, first | changes)
    )
    with directory.locked(tmp_path / "w"):
        directory.create(tmp_path / "w", run, run.text.fit(()))
    assert directory.belongs(tmp_path / "w", other)
    if dependence(other, dotted) == "place":
        with pytest.raises(
            UserError,
            match=f"config.{dotted}: .* has no (data|held_out).sha256"
            " that tells whether the data are the same",
        ):
            directory.check_places(tmp_path / "w", other, accept=False)
        directory.check_places(tmp_path / "w", other, accept=True)
        directory.check_data(tmp_path / "w", "a" * 32, "b" * 32, accept=False)
    directory.check_places(tmp_path / "w", other, accept=False)
    for step in (7, 9):
        directory.go_on(tmp_path / "w", other, step)
    (change,) = json.loads((tmp_path / "w" / "config.json").read_text())["changes"]
    assert (
        change["after"] == 7
        and change["change"].startswith(f"{dotted}")
        and " → " in change["change"]
    )
    assert (
        capsys.readouterr().err
        == f"{tmp_path / 'w'} goes on after update 7 with {change['change']}\n"
    )
    assert directory.run_of(tmp_path / "w") == other and directory.belongs(
        tmp_path / "w", run
    )


def test_data_that_were_accepted_are_told_and_kept_with_the_update_after_which_they_are_read(
    tmp_path, corpus, capsys
):
    run, workdir = build_run(tiny.recipe(corpus)), tmp_path / "w"
    with directory.locked(workdir):
        directory.create(workdir, run, run.text.fit(()))
    line = "the training data changed: aaaaaaaa bbbbbbbb → cccccccc bbbbbbbb"
    for training, said in (("a" * 32, []), ("c" * 32, [line]), ("c" * 32, [])):
        accepted = directory.check_data(workdir, training, "b" * 32, accept=True)
        directory.go_on(workdir, run, 7, accepted)
        assert accepted == said
    assert json.loads((workdir / "config.json").read_text())["changes"] == [
        dict(after=7, change=line)
    ]
    assert (
        capsys.readouterr().err.count(
            " goes on after update 7 with the training data changed"
        )
        == 1
    )
    assert directory.run_of(workdir) == run and directory.belongs(workdir, run)


def test_data_that_are_not_what_they_were_leave_the_config_alone(tmp_path, corpus):
    """What is refused changes nothing; moved data of the same content are taken."""
    run = build_run(tiny.recipe(corpus))
    with directory.locked(tmp_path / "w"):
        directory.create(tmp_path / "w", run, run.text.fit(()))
    with pytest.raises(UserError, match="belongs to a run with another config"):
        directory.belongs(
            tmp_path / "w",
            build_run(tiny.recipe(corpus, data__source=dict(name="embedded"))),
        )
    with pytest.raises(UserError, match="belongs to a run with another config"):
        directory.belongs(
            tmp_path / "w",
            build_run(tiny.recipe(corpus, intervals__log=3, optim__skip__norm=3.0)),
        )

"""The run directory: whose it is, what it holds, and what an interrupted or foreign one says."""

import json

import pytest

from dlm.run import rundir, spec
from dlm.run.spec import UserError
from tests import tiny


@pytest.fixture
def run():
    return spec.run(tiny.recipe("corpus.txt"))


def test_a_directory_belongs_to_one_config(tmp_path, run):
    workdir = tmp_path / "a" / "b"
    assert not rundir.belongs(workdir, run)
    with rundir.locked(workdir):
        rundir.create(workdir, run, run.text.fit(()))
    assert rundir.belongs(workdir, run) and rundir.belongs(workdir, spec.run(rundir.read_config(workdir)))
    other = spec.run(tiny.recipe("corpus.txt", optim__lr=0.5))
    with pytest.raises(UserError, match=r"another config \(optim.lr: 0.01 → 0.5\): choose another"):
        rundir.belongs(workdir, other)
    assert sorted(p.name for p in workdir.iterdir()) == ["commit.txt", "config.json", "environment.json", "lock"]
    environment = json.loads((workdir / "environment.json").read_text())
    assert environment["parameters"] == run.nn.parameters and {"python", "jax", "cores", "devices"} <= environment.keys()
    assert (workdir / "commit.txt").read_text().strip()


def test_a_directory_of_other_code(tmp_path, run):
    """A field that came later has its default; one that went is told with the commit that knew it."""
    with rundir.locked(tmp_path):
        rundir.create(tmp_path, run, run.text.fit(()))
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["optim"]["skip"]
    path.write_text(json.dumps(config))
    assert rundir.belongs(tmp_path, run) and rundir.run_of(tmp_path) == run
    path.write_text(json.dumps(dict(config, objective=dict(config["objective"], gone=1))))
    for read in (lambda: rundir.run_of(tmp_path), lambda: rundir.belongs(tmp_path, run)):
        with pytest.raises(UserError, match=f"another version of dlm .commit {rundir.commit()[:12]}.*unknown field config.objective.gone"):
            read()


def test_other_directories(tmp_path, run):
    (tmp_path / "empty").mkdir()
    assert not rundir.belongs(tmp_path / "empty", run)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        rundir.belongs(tmp_path / "file", run)
    with pytest.raises(UserError, match="holds other things"):
        rundir.belongs(tmp_path, run)
    with pytest.raises(UserError, match="is not a run directory: it has no config.json"):
        rundir.read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        rundir.read_config(tmp_path)

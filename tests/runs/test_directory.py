"""The run directory: whose it is, what it holds, and what an interrupted or foreign one says."""

import json

import pytest

from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.runs import directory
from tests import tiny


@pytest.fixture
def run():
    return build_run(tiny.recipe("corpus.txt"))


def test_a_directory_belongs_to_one_config(tmp_path, run):
    workdir = tmp_path / "a" / "b"
    assert not directory.belongs(workdir, run)
    with directory.locked(workdir):
        directory.create(workdir, run, run.text.fit(()))
    assert directory.belongs(workdir, run) and directory.belongs(
        workdir, build_run(directory.read_config(workdir))
    )
    other = build_run(tiny.recipe("corpus.txt", optim__lr=0.5))
    message = r"another config \(optim.lr: 0.01 → 0.5\): choose another"
    with pytest.raises(UserError, match=message):
        directory.belongs(workdir, other)
    assert sorted(p.name for p in workdir.iterdir()) == [
        "commit.txt",
        "config.json",
        "environment.json",
        "lock",
    ]
    environment = json.loads((workdir / "environment.json").read_text())
    assert (
        environment["parameters"] == run.nn.parameters
        and {"python", "jax", "cores", "devices"} <= environment.keys()
    )
    assert (workdir / "commit.txt").read_text().strip()


def test_a_directory_of_other_code(tmp_path, run):
    """A later field has its default; a removed one is reported with the commit that knew it."""
    with directory.locked(tmp_path):
        directory.create(tmp_path, run, run.text.fit(()))
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["optim"]["skip"]
    path.write_text(json.dumps(config))
    assert directory.belongs(tmp_path, run) and directory.run_of(tmp_path) == run
    path.write_text(
        json.dumps(dict(config, objective=dict(config["objective"], gone=1)))
    )
    for read in (
        lambda: directory.run_of(tmp_path),
        lambda: directory.belongs(tmp_path, run),
    ):
        with pytest.raises(
            UserError,
            match=f"another version of dlm .commit {directory.commit()[:12]}"
            ".*unknown field config.objective.gone",
        ):
            read()


def test_other_directories(tmp_path, run):
    (tmp_path / "empty").mkdir()
    assert not directory.belongs(tmp_path / "empty", run)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        directory.belongs(tmp_path / "file", run)
    with pytest.raises(UserError, match="holds other things"):
        directory.belongs(tmp_path, run)
    with pytest.raises(
        UserError, match="is not a run directory: it has no config.json"
    ):
        directory.read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        directory.read_config(tmp_path)

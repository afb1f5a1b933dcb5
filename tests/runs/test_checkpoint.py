"""Damaged checkpoints are reported in one line, and the newest intact checkpoint is used.

Every kind of damage is done to every file.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import types

import jax.numpy as jnp
import pytest

from dlm.core.contracts import State
from dlm.core.errors import UserError
from dlm.runs import checkpoint, checksums


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run directory with checkpoints of steps 1 and 2."""
    workdir = tmp_path_factory.mktemp("saved")
    store = checkpoint.Store(workdir)
    for step in (1, 2):
        store.save(
            step,
            State(
                jnp.int32(step),
                {"x_D": jnp.arange(5.0) + step},
                {"x_D": jnp.ones(2)},
                None,
            ),
        )
    store.close()
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def link(path):
    twin = path.with_name("twin")
    path.rename(twin)
    path.symlink_to(twin)


DAMAGES = dict(
    flip=flip,
    cut=cut,
    missing=os.remove,
    empty=lambda p: p.write_bytes(b""),
    foreign=lambda p: p.with_name("x").touch(),
    link=link,
)


@pytest.mark.parametrize("kind", DAMAGES)
def test_any_damage_to_any_file_is_named_and_an_older_checkpoint_taken(kind, workdir):
    newest = workdir / "checkpoints" / "2"
    files = sorted(p.relative_to(newest) for p in newest.rglob("*") if p.is_file())
    assert len(files) > 8
    for file in files:
        shutil.copytree(newest, workdir / "kept")
        DAMAGES[kind](newest / file)
        said = []
        assert checkpoint.intact(workdir, said.append) == 1, file
        (line,) = said
        assert "checkpoint 2" in line and "\n" not in line and str(newest) in line
        assert kind in ("foreign", "link") or str(file) in line
        with pytest.raises(UserError, match="checkpoint 2 is damaged: "):
            checkpoint.intact(workdir, print, 2)
        shutil.rmtree(newest)
        (workdir / "kept").rename(newest)
    assert checkpoint.intact(workdir, print) == 2


def test_nothing_intact_is_refused_and_nothing_is_none(workdir, tmp_path):
    for step in (1, 2):
        flip(next((workdir / "checkpoints" / str(step) / "default" / "d").iterdir()))
    with pytest.raises(UserError, match="no checkpoint is intact"):
        checkpoint.intact(workdir, print)
    assert checkpoint.intact(tmp_path / "new", print) is None


def test_what_is_not_sealed_is_no_checkpoint_and_makes_room(workdir):
    (workdir / "checkpoints" / "2" / checksums.FILE).unlink()
    assert checkpoint.steps(workdir) == [1] and checkpoint.intact(workdir, print) == 1
    checkpoint.set_aside(workdir, after=1)
    assert sorted(
        p.name for p in (workdir / "checkpoints").iterdir() if p.is_dir()
    ) == [
        "1",
        "2.damaged",
    ]


@pytest.mark.parametrize("unsaved", ["stop", "continue"])
def test_a_full_disk_is_told_at_the_save_that_failed_and_the_last_good_checkpoint_stays(
    unsaved, workdir, monkeypatch
):
    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    said = []
    store = checkpoint.Store(workdir, keep=1, on_save_failure=unsaved, say=said.append)
    now = State(jnp.int32(3), {"x_D": jnp.arange(5.0)}, {"x_D": jnp.ones(2)}, None)
    with monkeypatch.context() as patch:
        patch.setattr(checksums, "write", full)
        store.save(3, now)
        store._sealing.join()
        if unsaved == "stop":
            with pytest.raises(
                UserError,
                match="checkpoint of step 3 could not be written: .*No space left"
                ".*last good one is 2; make room",
            ):
                store.check()
        else:
            store.check()
            assert len(said) == 1 and "No space left" in said[0]
    assert (
        checkpoint.intact(workdir, print) == 2
        and not (workdir / "checkpoints" / "3").exists()
    )
    (workdir / "checkpoints" / "1.going").mkdir(
        exist_ok=True
    )  # half deleted when the process was killed
    store.save(4, now)
    store.close()
    assert checkpoint.steps(workdir) == [4] and checkpoint.intact(workdir, print) == 4
    assert not list((workdir / "checkpoints").glob("*.going"))


def test_an_old_checkpoint_that_cannot_be_deleted_takes_no_new_one_with_it(
    workdir, monkeypatch
):
    def busy(folder):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(checkpoint, "_delete", busy)
    store = checkpoint.Store(workdir, keep=1, say=(said := []).append)
    store.save(
        3, State(jnp.int32(3), {"x_D": jnp.arange(5.0)}, {"x_D": jnp.ones(2)}, None)
    )
    store.close()
    assert (
        checkpoint.intact(workdir, print) == 3
        and len(said) == 1
        and "cannot be deleted now" in said[0]
    )


def test_of_several_processes_none_goes_on_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.hosts, "several", lambda: True)
    with pytest.raises(
        UserError, match="on_save_failure=continue is for a single process"
    ):
        checkpoint.Store(tmp_path, on_save_failure="continue")


def test_a_disk_without_room_for_one_more_is_noticed_before_half_of_it_is_written(
    workdir, monkeypatch
):
    folder = workdir / "checkpoints"
    taken = sum(p.stat().st_size for p in (folder / "2").rglob("*"))
    assert (
        taken
        < checksums.room(folder / "2")
        < taken + 2 * 4096 * len(list((folder / "2").rglob("*")))
    )
    usage, before = shutil.disk_usage(workdir), sorted(folder.rglob("*"))
    for free, reported in [(checksums.room(folder / "2") - 1, 1), (usage.free, 0)]:
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path, free=free: usage._replace(free=free)
        )
        store = checkpoint.Store(
            workdir, on_save_failure="continue", say=(said := []).append
        )
        store.save(
            3, State(jnp.int32(3), {"x_D": jnp.arange(5.0)}, {"x_D": jnp.ones(2)}, None)
        )
        assert len(said) == reported and (
            not reported or sorted(folder.rglob("*")) == before
        )
        store.close()
    assert checkpoint.intact(workdir, print) == 3


def test_writes_that_fail_after_the_first_print_no_traceback(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    checkpoint._silence_closed_loops()
    for text in ("Event loop is closed", "something else"):
        sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(text)))
    assert [str(t.exc_value) for t in reported] == ["something else"]


def test_a_large_file_is_summed_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "PIECE", 1000)
    monkeypatch.setattr(checksums, "_CHUNK", 300)
    content = bytes(i % 251 for i in range(2500))
    (tmp_path / "big").write_bytes(content)
    checksums.write(tmp_path)
    sums = [hashlib.sha256(content[i : i + 1000]).hexdigest() for i in (0, 1000, 2000)]
    assert json.loads((tmp_path / checksums.FILE).read_text().split("\n", 1)[1]) == {
        "big": [2500, *sums]
    }
    for at in (0, 1234, 2499):
        (tmp_path / "big").write_bytes(content[:at] + b"\xff" + content[at + 1 :])
        assert "big was changed" in checksums.damage(tmp_path)
    (tmp_path / "big").write_bytes(content)
    assert checksums.damage(tmp_path) is None


def test_nothing_outside_the_directory_is_read(workdir, tmp_path):
    """A folder linked from elsewhere, and a manifest that names a file above it, are refused."""
    newest = workdir / "checkpoints" / "2"
    newest.rename(tmp_path / "elsewhere")
    newest.symlink_to(tmp_path / "elsewhere")
    assert (
        checksums.damage(newest) == f"{newest} is a link"
        and checkpoint.intact(workdir, print) == 1
    )
    (tmp_path / "box").mkdir()
    (tmp_path / "secret").write_text("x")
    body = json.dumps({"../secret": [1, hashlib.sha256(b"x").hexdigest()]})
    (tmp_path / "box" / checksums.FILE).write_text(
        f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}"
    )
    assert "secret is missing" in checksums.damage(tmp_path / "box")

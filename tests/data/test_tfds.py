"""TFDS without TensorFlow: our builder's data sets are read exactly.

A data set that is not prepared is an error at once.
"""

import json
import os
import subprocess
import sys

import pytest

from dlm.core.errors import UserError
from dlm.data import tfds
from dlm.data.local import Local
from dlm.data.tfds import Tfds


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set that the command wrote; a false `tensorflow` leaves a file if it is imported."""
    folder = tmp_path_factory.mktemp("tfds")
    (folder / "fake/tensorflow").mkdir(parents=True)
    (folder / "fake/tensorflow/__init__.py").write_text(
        f"open({str(folder / 'imported')!r}, 'w').close()\nraise ImportError\n"
    )
    (folder / "a.txt").write_text(
        "".join(f"paragraph {i} — né\n\n" for i in range(100))
    )
    script = f"""
import sys
from dlm.data import tfds
flags = ['--name=notes', '--data_dir={folder}', '--unit=paragraph', '--held_out=0.2']
code = tfds.main(['--paths', {str(folder / "a.txt")!r}, *flags])
assert code == 0
print(len(tfds.Tfds('notes', data_dir={str(folder)!r}).documents('held_out')[0]))
"""
    environment = os.environ | dict(
        PYTHONPATH=os.pathsep.join([str(folder / "fake"), *sys.path])
    )
    subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        check=True,
        capture_output=True,
        timeout=60,
    )
    return folder


def test_round_trip_without_tensorflow(prepared):
    local = Local((str(prepared / "a.txt"),), unit="paragraph", held_out=0.2)
    source = Tfds("notes", data_dir=str(prepared))
    for split in ("train", "held_out"):
        assert sorted(source.documents(split)) == sorted(local.documents(split))
    assert not (prepared / "imported").exists() and "tensorflow" not in sys.modules
    half = Tfds("notes:1.0.0", train="train[:50%]", data_dir=str(prepared))
    assert len(half.documents("train")) == len(local.documents("train")) // 2
    prints = {
        source.fingerprint("train"),
        source.fingerprint("held_out"),
        half.fingerprint("train"),
    }
    assert len(prints) == 3


def test_mistakes(prepared):
    for fields, message in [
        (
            dict(dataset="note"),
            "'note' is not prepared .*did you mean 'notes'.*array_record",
        ),
        (dict(dataset="notes:2.0.0"), "not prepared"),
        (
            dict(dataset="notes", field="txt"),
            "no field 'txt': text .did you mean 'text'",
        ),
        (dict(dataset="notes", train="trian"), "no split 'trian': train, test"),
    ]:
        with pytest.raises(UserError, match=message):
            Tfds(**fields, data_dir=str(prepared)).documents("train")


def test_the_newest_version_is_read_and_configs_are_named(tmp_path):
    for path in ("a/1.9.0", "a/1.10.0", "b/en/1.0.0", "b/de/1.0.0"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "dataset_info.json").write_text("{}")
    assert (
        tfds._prepared("a", tmp_path).name == "1.10.0"
        and tfds._prepared("a:1.9.0", tmp_path).name == "1.9.0"
    )
    assert tfds._prepared("b/en", tmp_path) == tmp_path / "b/en/1.0.0"
    with pytest.raises(UserError, match="name one: b/de, b/en"):
        tfds._prepared("b", tmp_path)


def test_a_data_set_that_only_tensorflow_could_read(prepared):
    other = prepared / "records/1.0.0"
    other.mkdir(parents=True)
    for file in (prepared / "notes/1.0.0").glob("*.json"):
        (other / file.name).write_text(file.read_text())
    info = json.loads((other / "dataset_info.json").read_text()) | dict(
        name="records", fileFormat="tfrecord"
    )
    (other / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="stored as tfrecord"):
        Tfds("records", data_dir=str(prepared)).documents("train")


def test_a_prepared_data_set_is_not_overwritten(prepared, capsys):
    for file, name in (("a.txt", "notes"), ("a.txt", "Notes!"), ("b.txt", "other")):
        flags = [f"--name={name}", f"--data_dir={prepared}"]
        assert tfds.main(["--paths", str(prepared / file), *flags]) == 2
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "error"
    ] * 3


def test_without_a_home_no_folder_is_called_so(monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", "/of/mine")
    assert str(tfds._data_dir(None)) == "/of/mine/tensorflow_datasets"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises(
        UserError,
        match="there is no such home: .* name another by data_dir or .TFDS_DATA_DIR",
    ):
        tfds._data_dir(None)
    assert str(tfds._data_dir("here")) == "here"

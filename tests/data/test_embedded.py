"""The embedded corpus: what is in it, and that it is the same each time."""

import sysconfig

import pytest

from dlm.core.errors import UserError
from dlm.data.embedded import Embedded


def everything(source: Embedded) -> list[str]:
    return source.documents("train") + source.documents("held_out")


def test_prose_and_source_of_this_python():
    prose, source, both = (
        Embedded(parts=parts)
        for parts in (("prose",), ("source",), ("prose", "source"))
    )
    assert both.documents("train") == prose.documents("train") + source.documents(
        "train"
    )
    assert both.documents("held_out") == prose.documents("held_out") + source.documents(
        "held_out"
    )
    assert (
        2e5 < sum(map(len, everything(prose))) < 2e6
        and 5e6 < sum(map(len, everything(source))) < 5e7
    )
    assert any("The operators" in d and "**********" in d for d in everything(prose))
    assert any("def urlparse(" in d for d in everything(source))
    assert 0.002 < len(both.documents("held_out")) / len(everything(both)) < 0.05


def test_what_is_left_out(tmp_path, monkeypatch):
    files = [
        "b.py",
        "a/c.py",
        "a/d.py",
        "test/e.py",
        "a/tests/f.py",
        "site-packages/g.py",
        "pydoc_data/topics.py",
        "_sysconfigdata_x.py",
        "h.txt",
    ]
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / file).write_text(f"# {file}\r\n", newline="")
    (tmp_path / "latin.py").write_bytes(b"# \xe9")
    (tmp_path / "copy.py").write_bytes((tmp_path / "b.py").read_bytes())
    (tmp_path / "empty.py").write_bytes(b"")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    source = Embedded(held_out=0.5, parts=("source",))
    assert sorted(everything(source)) == ["# a/c.py\r\n", "# a/d.py\r\n", "# b.py\r\n"]
    assert source.dropped == {"empty documents": 1, "duplicates": 1}
    with pytest.raises(UserError, match="no documents in one of the splits"):
        Embedded(held_out=1e-9, parts=("source",)).documents("train")

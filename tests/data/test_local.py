"""Local files: every form is read, every mistake is one line that names file and line."""

import gzip
import json

import pytest

from dlm.data.local import Local
from dlm.run import files, spec


def everything(*paths, **fields) -> list[str]:
    source = Local(tuple(map(str, paths)), held_out=0.5, **fields)
    return sorted(source._read(source.paths))


def test_forms(tmp_path):
    rows = [{"body": f"row {i}\u2028 é", "n": i} for i in range(20)]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.replace("row", "line").encode()))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/c.txt").write_text("one\r\nparagraph\n\n\nand another\n", newline="")
    (tmp_path / "deep/d.md.gz").write_bytes(gzip.compress(b"packed", mtime=0))
    assert everything(tmp_path / "a.jsonl", field="body") == sorted(row["body"] for row in rows)
    assert everything(tmp_path / "b.jsonl.gz", field="body") == sorted(row["body"].replace("row", "line") for row in rows)
    assert everything(tmp_path / "**/*.md.gz", tmp_path / "deep/*") == ["one\r\nparagraph\n\n\nand another\n", "packed"]  # once each
    (tmp_path / "odd.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a\\ud800b"}\r\n')  # a byte order mark and half a character
    assert everything(tmp_path / "odd.jsonl") == ["a?b"]
    assert everything(tmp_path / "deep/c.txt", unit="paragraph") == ["and another", "one\r\nparagraph"]
    assert everything(tmp_path / "deep/c.txt", unit="line") == ["and another", "one", "paragraph"]


SIGNS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029\0\ufeff"  # which end no line, though str.splitlines ends one at the first eight


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_at_line_ends_alone(tmp_path, end):
    texts = [f"one{sign}two {end!r}" for sign in SIGNS]
    assert files.lines(end.join(texts)) == files.lines(end.join(texts) + end) == texts
    assert files.lines(f"a{end}{end}b") == ["a", "", "b"] and files.lines("") == []
    (tmp_path / "a.txt").write_bytes((end.join(texts) + end).encode())
    assert everything(tmp_path / "a.txt", unit="line") == sorted(texts)
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    (tmp_path / "a.jsonl").write_bytes((end.join(rows) + end).encode())
    assert everything(tmp_path / "a.jsonl") == sorted(texts)


def test_a_long_file_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path):
    content = "".join(f"scene {i}\n" + "words and words\n" * 30 + "\n" for i in range(300))
    (tmp_path / "book.txt").write_text(content)
    source = Local((str(tmp_path / "book.txt"),), held_out=0.3)
    parts = source._read(source.paths)
    assert "".join(parts) == content and all(p.startswith("scene") and 8000 < len(p) <= 16384 for p in parts[:-1])
    assert set(source.documents("train")).isdisjoint(source.documents("held_out"))
    (tmp_path / "line.txt").write_text("x" * 100_000)  # no border anywhere
    assert "".join(everything(tmp_path / "line.txt")) == "x" * 100_000
    assert everything(tmp_path / "book.txt", unit="file") == [content]


def test_odd_bytes_are_kept_as_they_are(tmp_path):
    """NUL, CRLF, a byte order mark, an empty document among others, a line of 10 MB: text like any other, byte for byte."""
    content = "a\0b\r\n\ufeffc\u2028d"
    (tmp_path / "odd.txt").write_bytes(content.encode())
    assert everything(tmp_path / "odd.txt") == [content]
    long = "x" * 10_000_000
    (tmp_path / "long.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in (long, "", "end")))
    assert everything(tmp_path / "long.jsonl") == ["", "end", long]


def test_held_out_files_are_never_trained_on(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "b.txt").write_text("two\nfour\n")
    source = Local((str(tmp_path / "a.txt"),), unit="line", held_out_paths=(str(tmp_path / "b.txt"),))
    assert (source.documents("train"), source.documents("held_out")) == (["one", "three"], ["two", "four"])


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("absent.txt", None, "no file .*absent.txt"),
        ("*.md", None, r"no file matches .*\*.md"),
        ("", None, "is a folder: name its files"),
        ("empty.txt", b" \n", "empty.txt is empty"),
        ("bad.txt", b"fine\nfine\n\xff\n", "bad.txt, line 3: not UTF-8"),
        ("bad.jsonl", b'{"text": "a"}\n\n{"text": \n', "bad.jsonl, line 3: broken JSON"),
        ("field.jsonl", b'{"text": "a"}\n{"txet": "b"}\n', "field.jsonl, line 2: no field 'text'; it has txet .did you mean 'txet'"),
        ("type.jsonl", b'{"text": 3}\n', "type.jsonl, line 1: field 'text' is not text but 3"),
        ("bad.txt.gz", b"not gzip", "bad.txt.gz, line 1: cannot be unpacked"),
        (
            "cut.txt.gz",
            gzip.compress(b"".join(b"%d\n" % i for i in range(9999)), mtime=0)[:-9],
            r"cut.txt.gz, line 9\d\d\d: cannot be unpacked",
        ),
        ("one.txt", b"one document", "none of 1 documents of .*one.txt is in the split"),
    ],
)
def test_mistakes(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(spec.UserError, match=message) as error:
        Local((str(tmp_path / name),)).documents("train")
        Local((str(tmp_path / name),)).documents("held_out")
    assert "\n" not in str(error.value)

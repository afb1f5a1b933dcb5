"""Local files: every form is read, every mistake is one line that names file and line."""

import bz2
import gzip
import json
import lzma
import os
from collections import Counter
from dataclasses import replace

import pytest

from dlm.core import files
from dlm.core.errors import UserError
from dlm.data import content
from dlm.data.local import Local


def everything(*paths, **fields) -> list[str]:
    source = Local(tuple(map(str, paths)), held_out=0.5, **fields)
    return sorted(source._read(source.paths, Counter()))


def test_forms(tmp_path):
    rows = [{"body": f"row {i}\u2028 é", "n": i} for i in range(20)]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(
        gzip.compress(lines.replace("row", "line").encode())
    )
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/c.txt").write_text(
        "one\r\nparagraph\n\n\nand another\n", newline=""
    )
    (tmp_path / "deep/d.md.gz").write_bytes(gzip.compress(b"packed", mtime=0))
    assert everything(tmp_path / "a.jsonl", field="body") == sorted(
        row["body"] for row in rows
    )
    assert everything(tmp_path / "b.jsonl.gz", field="body") == sorted(
        row["body"].replace("row", "line") for row in rows
    )
    assert everything(tmp_path / "**/*.md.gz", tmp_path / "deep/*") == [
        "one\r\nparagraph\n\n\nand another\n",
        "packed",
    ]  # once each
    (tmp_path / "odd.jsonl").write_bytes(
        b'\xef\xbb\xbf{"text": "a\\ud800b"}\r\n'
    )  # a byte order mark and half a character
    assert everything(tmp_path / "odd.jsonl") == ["a?b"]
    assert everything(tmp_path / "deep/c.txt", unit="paragraph") == [
        "and another",
        "one\r\nparagraph",
    ]
    assert everything(tmp_path / "deep/c.txt", unit="line") == [
        "and another",
        "one",
        "paragraph",
    ]


# They end no line, though str.splitlines ends one at the first eight.
SIGNS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029\0\ufeff"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_at_line_ends_alone(tmp_path, end):
    texts = [f"one{sign}two {end!r}" for sign in SIGNS]
    assert files.lines(end.join(texts)) == files.lines(end.join(texts) + end) == texts
    assert files.lines(f"a{end}{end}b") == ["a", "", "b"]
    assert files.lines("") == []
    (tmp_path / "a.txt").write_bytes((end.join(texts) + end).encode())
    assert everything(tmp_path / "a.txt", unit="line") == sorted(texts)
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    (tmp_path / "a.jsonl").write_bytes((end.join(rows) + end).encode())
    assert everything(tmp_path / "a.jsonl") == sorted(texts)


def test_a_long_file_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path):
    content = "".join(
        f"scene {i}\n" + "words and words\n" * 30 + "\n" for i in range(300)
    )
    (tmp_path / "book.txt").write_text(content)
    path = tmp_path / "book.txt"
    source = Local((str(path),), held_out=0.3)
    parts = source._read(source.paths, Counter())
    assert "".join(parts) == content
    for part in parts[:-1]:
        assert part.startswith("scene")
        assert 8000 < len(part) <= 16384
    assert set(source.documents("train")).isdisjoint(source.documents("held_out"))
    (tmp_path / "line.txt").write_text("x" * 100_000)  # no border anywhere
    assert "".join(everything(tmp_path / "line.txt")) == "x" * 100_000
    assert everything(tmp_path / "book.txt", unit="file") == [content]


def test_odd_bytes_are_kept_as_they_are(tmp_path):
    """NUL, CRLF, a byte order mark, an empty document, a line of 10 MB are kept byte for byte."""
    content = "a\0b\r\n\ufeffc\u2028d"
    (tmp_path / "odd.txt").write_bytes(content.encode())
    assert everything(tmp_path / "odd.txt") == [content]
    long = "x" * 10_000_000
    (tmp_path / "long.jsonl").write_text(
        "".join(json.dumps({"text": t}) + "\n" for t in (long, "", "end"))
    )
    assert everything(tmp_path / "long.jsonl") == ["", "end", long]


def test_frequent_documents_stay_frequent(tmp_path):
    """A sampled corpus keeps its distribution; dropped documents are counted."""
    lines = "".join(f"line {i}\n" for i in range(300))
    (tmp_path / "a.txt").write_text(lines + "again\n\n \n" * 200)
    source = Local((str(tmp_path / "a.txt"),), unit="line", held_out=0.3)
    splits = [source.documents(split) for split in ("train", "held_out")]
    sizes = list(map(len, splits))
    assert max(sizes) > 200
    assert sum(sizes) == 500
    assert sum(split.count("again") == 200 for split in splits) == 1
    assert not set(splits[0]) & set(splits[1])
    assert source.dropped == {"empty lines": 400}
    once = replace(source, unique=True)
    documents = once.documents("train") + once.documents("held_out")
    assert len(documents) == 301
    assert once.dropped == {"empty lines": 400, "duplicates": 199}
    rows = ["x", "x", "", "\\ud800y\\udfff"]
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "{row}"}}\n' for row in rows))
    source = Local((str(tmp_path / "a.jsonl"),), held_out=1.0)
    assert source.documents("held_out") == ["x", "x", "?y?"]
    assert source.dropped == {"halves of characters, now '?'": 2, "empty documents": 1}
    (tmp_path / "b.txt").write_text("a\n\n\f\n\nb\n")
    assert everything(tmp_path / "b.txt", unit="paragraph") == ["a", "b"]
    assert Local((str(tmp_path / "b.txt"),), unit="paragraph").dropped == {
        "empty paragraphs": 1
    }


def test_held_out_files_are_never_trained_on(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "b.txt").write_text("two\nfour\n")
    paths, held_out_paths = (str(tmp_path / "a.txt"),), (str(tmp_path / "b.txt"),)
    source = Local(paths, unit="line", held_out_paths=held_out_paths)
    assert source.documents("train") == ["one", "three"]
    assert source.documents("held_out") == ["two", "four"]
    assert source.dropped == {"training documents that are held out as well": 1}


ROWS = '{"text": "a"}\n\n{"text": "b", "n": NaN}\n'
TAR = b"a.txt".ljust(257, b"\0") + b"ustar" + b"0" * 250


HELD = [
    # Structured files by their names, in either case.
    ("rows.json", ROWS, ["a", "b"], {}),
    ("rows.JSONL", ROWS, ["a", "b"], {}),
    ("rows.json.gz", gzip.compress(ROWS.encode()), ["a", "b"], {}),
    ("ROWS.NDJSON.GZ", gzip.compress(ROWS.encode()), ["a", "b"], {}),
    ("rows.json", '[{"text": "a"}, {"text": "b"}]', ["a", "b"], {}),
    ("rows.jsonl", '\n[\n  {"text": "a"},\n  {"text": "b"}\n]', ["a", "b"], {}),
    ("row.json", '{\n  "text": "a"\n}\n', ["a"], {}),
    (
        "joined.jsonl",
        '\ufeff{"text": "a"}\r \ufeff\r\ufeff{"text": "b"}\r\n',
        ["a", "b"],
        {},
    ),
    ("one.json", ' [\n{"text": "a"}\n]', ["a"], {}),
    ("TEXT.TXT.GZ", gzip.compress(b"a text"), ["a text"], {}),
    ("packed.txt", gzip.compress(b"a text"), ["a text"], {}),
    (
        "rows.csv",
        "text\na\n",
        "rows.csv is a table: write it as JSON lines, or say form='text'",
        {},
    ),
    ("rows.TSV.gz", gzip.compress(b"text\na\n"), "is a table", {}),
    ("rows.parquet", "PAR1 a PAR1", "is a table", {}),
    ("rows.csv", "text\na\n", ["text\na\n"], dict(form="text")),
    # JSON under other names.
    (
        "rows.txt",
        ROWS,
        "rows.txt holds JSON objects: say form='json' to read their field 'text', or form='text'",
        {},
    ),
    ("rows.gz", gzip.compress(ROWS.encode()), "holds JSON objects", {}),
    ("rows", '[{"text": "a"}]', "holds JSON objects", {}),
    ("row.txt", '{\n  "text": "a"\n}\n', "holds JSON objects", {}),
    ("rows.txt", '{\n  "text": "a"\n}\n' * 2, "holds JSON objects", {}),
    ("rows.txt", '{"n": 1}\n' * 5 + "a last line", "holds JSON objects", {}),
    ("rows.txt", ROWS, ["a", "b"], dict(form="json")),
    ("rows.txt", ROWS, [ROWS], dict(form="text")),
    ("rows.json", ROWS, [ROWS], dict(form="text")),
    ("rows.txt", ROWS, sorted(filter(None, ROWS.split("\n"))), dict(unit="line")),
    ("almost.txt", ROWS + "a last line\n", [ROWS + "a last line\n"], {}),
    ("code.txt", "{ a block }\n[1]\n", ["{ a block }\n[1]\n"], {}),
    ("empty.txt", "[]", ["[]"], {}),
    ("list.txt", "[1]", ["[1]"], {}),
    # As runs of before had it.
    ("rows.JSONL", ROWS, [ROWS], dict(form="suffix")),
    ("rows.json", ROWS, [ROWS], dict(form="suffix")),
    ("rows.jsonl.gz", gzip.compress(ROWS.encode()), ["a", "b"], dict(form="suffix")),
    # JSON that is broken, or of another shape.
    (
        "deep.jsonl",
        ROWS + "[" * 100_000,
        "deep.jsonl, line 4: broken JSON .nested too deeply",
        {},
    ),
    (
        "deep.json",
        "[" * 100_000,
        "deep.json, line 1: broken JSON .nested too deeply",
        {},
    ),
    ("deep.txt", "[" * 100_000, ["[" * 100_000], dict(unit="file")),
    ("deep.txt", '[{"a":' * 5000, ['[{"a":' * 5000], {}),
    (
        "long.jsonl",
        '{"text": "a", "n": ' + "1" * 5000 + "}",
        "long.jsonl, line 1: broken JSON .Exceeds the limit",
        {},
    ),
    (
        "array.json",
        '\n[\r\n{"text": "a"},\r\n{"text"}]',
        "array.json, line 4: broken JSON .Expecting ':' delimiter, column 8",
        {},
    ),
    (
        "first.jsonl",
        '{"text": \n{"text": "b"}\n',
        "first.jsonl, line 1: broken JSON",
        {},
    ),
    (
        "mixed.jsonl",
        '{"text": "a"}\n["b"]\n',
        r'mixed.jsonl, line 2: not a JSON object but \["b"\]',
        {},
    ),
    (
        "arrays.jsonl",
        '["a"]\n["b"]\n',
        r'arrays.jsonl, line 1: not a JSON object but \["a"\]',
        {},
    ),
    (
        "entries.json",
        '[{"text": "a"}, 3]',
        "entries.json, entry 2: not a JSON object but 3",
        {},
    ),
    ("null.json", "null", "null.json, line 1: not a JSON object but null", {}),
    (
        "twice.jsonl",
        '{"text": "a", "text": "b"}',
        "twice.jsonl, line 1: a name occurs twice",
        {},
    ),
    (
        "wrapped.json",
        '{"rows": [{"text": "a"}]}',
        "wrapped.json, line 1: no field 'text'; it has rows",
        {},
    ),
    # Other formats and encodings by their first bytes.
    ("a.txt", b"\x28\xb5\x2f\xfdx", "a.txt is packed with zstd: unpack it", {}),
    ("a.txt.gz", gzip.compress(b"\x28\xb5\x2f\xfdx"), "is packed with zstd", {}),
    ("a.txt", lzma.compress(b"a"), "is packed with xz", {}),
    ("a.txt", bz2.compress(b"a"), "is packed with bzip2", {}),
    ("a.txt", b"\x04\x22\x4d\x18x", "is packed with lz4", {}),
    ("a.gz", gzip.compress(gzip.compress(b"a")), "is packed with gzip twice", {}),
    ("a.docx", b"PK\x03\x04x", "is a zip archive", {}),
    ("a.7z", b"7z\xbc\xaf\x27\x1cx", "is a 7z archive", {}),
    ("a.tgz", gzip.compress(TAR), "is a tar archive", {}),
    ("a", b"PAR1\n a PAR1", "is a parquet file: write it as JSON lines", {}),
    ("a", "PAR1 is how it begins", ["PAR1 is how it begins"], {}),
    ("a", b"ARROW1\0\0", "is an Arrow file", {}),
    ("a", b"Obj\x01", "is an Avro file", {}),
    ("a", b"SQLite format 3\0", "is an SQLite database", {}),
    ("a", b"\x89HDF\r\n\x1a\n", "is an HDF5 file", {}),
    ("a", b"\x93NUMPY", "is a NumPy array", {}),
    ("a", b"%PDF-1.7", "is a PDF document", {}),
    (
        "a.txt",
        "é".encode("utf-16"),
        "is text in UTF-16: convert it to UTF-8, such as with iconv -f UTF-16 -t UTF-8",
        {},
    ),
    ("a.txt", "é".encode("utf-32"), "is text in UTF-32", {}),
    (
        "a.jsonl",
        ROWS.encode("utf-16-le"),
        "is no text, or in UTF-16: .* convert it to UTF-8",
        {},
    ),
    ("a.txt", "ab".encode("utf-16-le"), ["a\0b\0"], dict(form="text")),
]


@pytest.mark.parametrize(
    "name, written, expected, fields", HELD, ids=[str(n) for n in range(len(HELD))]
)
def test_the_content_of_a_file(tmp_path, name, written, expected, fields):
    """The documents, or the error's line."""
    (tmp_path / name).write_bytes(
        written if isinstance(written, bytes) else written.encode()
    )
    source = Local((str(tmp_path / name),), held_out=1.0, **fields)
    if isinstance(expected, list):
        assert source.documents("held_out") == expected
        return
    with pytest.raises(UserError, match=expected) as error:
        source.documents("held_out")
    message = str(error.value)
    assert "\n" not in message and name in message


def test_names_of_files(tmp_path):
    """A bracket is a pattern, a file is read once under all its names, a link needs a target."""
    folder = tmp_path / "a [b]"
    folder.mkdir()
    (folder / "c.txt").write_text("c")
    (tmp_path / "link.txt").symlink_to(folder / "c.txt")
    (tmp_path / "folder.txt").mkdir()
    assert (
        everything(folder / "c.txt") == everything(tmp_path / "a [[]b]/*.txt") == ["c"]
    )
    assert everything(
        folder / "c.txt", tmp_path / "*.txt", tmp_path / "a ?b?" / ".." / "link.txt"
    ) == ["c"]
    pattern = r"a \[b\]/\*\*/\*.txt, in which \[ begins a pattern"
    literal = r"here .*a \[\[\]b\]/\*\*/\*.txt$"
    with pytest.raises(UserError, match=f"{pattern}: .* {literal}"):
        everything(folder / "**/*.txt")
    with pytest.raises(UserError, match=r"no file matches .*\[d\]/\*$"):
        everything(tmp_path / "[d]/*")
    with pytest.raises(
        UserError,
        match=r"is a folder: name its files, such as .*a \[\[\]b\]/\*\*/\*.txt",
    ):
        everything(folder)
    os.mkfifo(tmp_path / "pipe.md")
    with pytest.raises(UserError, match="pipe.md is no file, but a device"):
        everything(tmp_path / "*.md")
    with pytest.raises(UserError, match="cannot be read .Is a directory"):
        content.text(folder)
    for wrong in (dict(paths=()), dict(paths=("a",), held_out=0.0)):
        with pytest.raises(ValueError, match="must "):
            Local(**wrong)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(
        UserError, match="gone.txt is no file, but a link that leads nowhere"
    ):
        everything(tmp_path / "*.txt")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("absent.txt", None, "no file /.*absent.txt"),
        ("*.md", None, r"no file matches .*\*.md"),
        ("", None, "is a folder: name its files"),
        ("empty.txt", b" \n", "empty.txt is empty"),
        ("bad.txt", b"fine\nfine\n\xff\n", "bad.txt, line 3: not UTF-8"),
        (
            "bad.jsonl",
            b'{"text": "a"}\n\n{"text": \n',
            "bad.jsonl, line 3: broken JSON",
        ),
        (
            "field.jsonl",
            b'{"text": "a"}\n{"txet": "b"}\n',
            "field.jsonl, line 2: no field 'text'; it has txet .did you mean 'txet'",
        ),
        (
            "type.jsonl",
            b'{"text": 3}\n',
            "type.jsonl, line 1: field 'text' is not text but 3",
        ),
        ("bad.TXT.GZ", b"not gzip", "cannot be unpacked"),
        ("bad.txt.gz", b"not gzip", "bad.txt.gz, line 1: cannot be unpacked"),
        (
            "cut.txt.gz",
            gzip.compress(b"".join(b"%d\n" % i for i in range(9999)), mtime=0)[:-9],
            r"cut.txt.gz, line 9\d\d\d: cannot be unpacked",
        ),
        (
            "one.txt",
            b"one document",
            "none of 1 documents of .*one.txt is in the split",
        ),
    ],
)
def test_mistakes(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        Local((str(tmp_path / name),)).documents("train")
        Local((str(tmp_path / name),)).documents("held_out")
    assert "\n" not in str(error.value)

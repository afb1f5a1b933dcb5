"""The split by hash, and what the rooms without JAX import."""

import subprocess
import sys
from collections import Counter

from dlm.data import problems
from dlm.data.base import describe_dropped, filtered, split_by_hash
from dlm.tasks.sudoku import Sudoku


def test_split_is_disjoint_covers_everything_and_ignores_other_documents():
    documents = [f"document {i}" for i in range(400)]
    splits = split_by_hash(documents, 0.25)
    assert sorted(splits["train"] + splits["held_out"]) == sorted(documents)
    assert 60 < len(splits["held_out"]) < 140
    more = split_by_hash([*(f"new {i}" for i in range(400)), *reversed(documents)], 0.25)
    assert set(splits["held_out"]) <= set(more["held_out"]) and set(splits["train"]) <= set(
        more["train"]
    )
    assert set(splits["held_out"]) <= set(split_by_hash(documents, 0.5)["held_out"])


def test_equal_documents_share_a_split_and_are_kept_unless_they_are_to_be_unique():
    given = [*(f"document {i}" for i in range(300)), "", *["again"] * 200, ""]
    dropped = Counter()
    splits = split_by_hash(filtered(given, False, dropped), 0.25)
    assert sorted(splits["train"] + splits["held_out"]) == sorted(
        filter(None, given)
    ) and dropped == {
        "empty documents": 2,
        "duplicates": 0,
    }
    assert not set(splits["train"]) & set(splits["held_out"])
    dropped.clear()
    assert (
        filtered(given, True, dropped) == [*given[:300], "again"]
        and describe_dropped(dropped) == "2 empty documents, 199 duplicates"
    )
    assert describe_dropped({}) == describe_dropped(dict(duplicates=0)) == ""


def test_equal_problems_are_kept_unless_they_are_to_be_unique():
    for unique in (False, True):
        source = problems.Problems(task=Sudoku(), count=600, form="answer", unique=unique)
        splits = [source.documents(split) for split in ("train", "held_out")]
        found = splits[0] + splits[1]
        assert not set(splits[0]) & set(splits[1]) and len(set(found)) <= 288, (
            "there are no more grids of side 4"
        )
        assert (
            len(found) + source.dropped.get("duplicates", 0) == 600
            and (len(found) == len(set(found))) == unique
        )


def test_text_and_data_import_no_jax():
    script = """
import importlib, pkgutil, sys, dlm.text, dlm.data
names = [m.name for room in (dlm.text, dlm.data) for m in pkgutil.iter_modules(room.__path__, room.__name__ + '.')]
for name in names: importlib.import_module(name)
assert {'dlm.text.bpe', 'dlm.data.loader', 'dlm.data.tfds'} <= set(names)
print([m for m in ('jax', 'grain', 'tensorflow', 'tensorflow_datasets') if m in sys.modules])
"""
    assert (
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )

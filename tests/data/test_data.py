"""The split by hash, and what the rooms without JAX import."""

import subprocess
import sys
from collections import Counter

from dlm.data.base import describe_dropped, filtered, split_by_hash
from dlm.data.problems import Problems
from dlm.tasks.sudoku import Sudoku


def together(splits) -> list[str]:
    return sorted(splits["train"] + splits["held_out"])


def test_split_is_disjoint_covers_everything_and_ignores_other_documents():
    documents = [f"document {i}" for i in range(400)]
    splits = split_by_hash(documents, 0.25)
    assert together(splits) == sorted(documents)
    assert 60 < len(splits["held_out"]) < 140
    new = [f"new {i}" for i in range(400)]
    more = split_by_hash(new + documents[::-1], 0.25)
    for split in splits:
        assert set(splits[split]) <= set(more[split])
    larger = split_by_hash(documents, 0.5)
    assert set(splits["held_out"]) <= set(larger["held_out"])


def test_equal_documents_share_a_split_and_are_kept_unless_they_are_to_be_unique():
    distinct = [f"document {i}" for i in range(300)]
    full = distinct + ["again"] * 200
    documents = [*full, "", ""]
    dropped = Counter()
    splits = split_by_hash(filtered(documents, False, dropped), 0.25)
    assert together(splits) == sorted(full)
    assert dropped == {"empty documents": 2, "duplicates": 0}
    common = set(splits["train"]).intersection(splits["held_out"])
    assert not common
    dropped.clear()
    unique = filtered(documents, True, dropped)
    assert unique == [*distinct, "again"]
    assert describe_dropped(dropped) == "2 empty documents, 199 duplicates"
    assert describe_dropped({}) == ""
    assert describe_dropped(dict(duplicates=0)) == ""


def test_equal_problems_are_kept_unless_they_are_to_be_unique():
    for unique in (False, True):
        task = Sudoku()
        source = Problems(task, count=600, form="answer", unique=unique)
        train = source.documents("train")
        held_out = source.documents("held_out")
        grids = train + held_out
        distinct = set(grids)
        assert not set(train).intersection(held_out)
        assert len(distinct) <= 288, "there are no more grids of side 4"
        duplicates = source.dropped.get("duplicates", 0)
        assert len(grids) + duplicates == 600
        is_unique = len(grids) == len(distinct)
        assert is_unique == unique


def test_text_and_data_import_no_jax():
    script = """
import importlib, pkgutil, sys, dlm.text, dlm.data
rooms = (dlm.text, dlm.data)
found = [m for room in rooms for m in pkgutil.iter_modules(room.__path__, room.__name__ + '.')]
names = [m.name for m in found]
for name in names: importlib.import_module(name)
assert {'dlm.text.bpe', 'dlm.data.loader', 'dlm.data.tfds'} <= set(names)
print([m for m in ('jax', 'grain', 'tensorflow', 'tensorflow_datasets') if m in sys.modules])
"""
    command = [sys.executable, "-c", script]
    reply = subprocess.run(command, capture_output=True, text=True, check=True)
    assert reply.stdout.strip() == "[]"

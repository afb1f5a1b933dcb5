"""`dlm.bench resume`, a short version: a run that is killed ends as an undisturbed one does."""

import random

import pytest

from dlm.benches import resume


@pytest.mark.slow
def test_a_killed_run_ends_as_an_undisturbed_one():
    found = resume.disturbed("masked", 1, 100, random.Random(0))
    assert found["kills"] == sum(found["survived"].values()) == 1 and found["differences"] == []

"""`dlm.bench resume`, a short version: a run that is killed ends as an undisturbed one does."""

import random

import pytest

from dlm.drills import resume


@pytest.mark.slow
def test_an_interrupted_run_ends_as_an_undisturbed_one():
    result = resume.disturbed("masked", 1, 0, 60, random.Random(0))
    assert sum(result["kills"].values()) == 1 and result["differences"] == []

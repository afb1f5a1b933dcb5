"""Mutated configs build or are refused in one line that names a field: never a traceback, never a hang."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlm.benches import fuzz

SHIPPED = fuzz.recipes()


@pytest.mark.slow
@settings(max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(target=st.sampled_from(sorted(SHIPPED)), rng=st.randoms(use_true_random=False))
def test_a_mutated_config_builds_or_is_refused_in_one_line(target, rng):
    config, done = fuzz.mutated(SHIPPED[target], rng)
    outcome = fuzz.judged(config)
    assert outcome in fuzz.GOOD, f"{target}, {done}: {outcome}"


def test_every_shipped_config_builds_and_a_mistake_is_told_from_a_fault(monkeypatch):
    assert all(fuzz.judged(config) == "builds" for config in SHIPPED.values())
    assert fuzz.judged({"steps": "many"}) == "refused"
    monkeypatch.setattr(fuzz.spec, "run", lambda config: 1 / 0)
    assert fuzz.judged({}).startswith("traceback: ZeroDivisionError")

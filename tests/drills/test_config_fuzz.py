"""What users give is accepted or refused in one line: never a traceback, never a hang. `bench fuzz`
tries more cases of each kind.
"""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlm.drills import config_fuzz
from dlm.drills.fuzzed import ACCEPTED, GOOD, REFUSED, configs, data

SHIPPED = configs.recipes()


@pytest.mark.slow
@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(target=st.sampled_from(sorted(SHIPPED)), rng=st.randoms(use_true_random=False))
def test_a_mutated_config_builds_or_is_refused_in_one_line(target, rng):
    config, done = configs.mutated(SHIPPED[target], rng)
    outcome = configs.judged(config)
    assert outcome in GOOD, f"{target}, {done}: {outcome}"


def test_every_shipped_config_builds_and_a_mistake_is_told_from_a_fault(monkeypatch):
    assert all(configs.judged(config) == ACCEPTED for config in SHIPPED.values())
    assert configs.judged({"steps": "many"}) == REFUSED
    monkeypatch.setattr(configs, "build_run", lambda config: 1 / 0)
    assert configs.judged({}).startswith("traceback: ZeroDivisionError")


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [kind for kind in config_fuzz.chosen(None) if kind != "configs"]
)  # those are above, without the updates
def test_a_few_mutations_of_each_kind(kind):
    assert config_fuzz.tried(kind, seed=1, cases=20)["faults"] == []


@pytest.mark.parametrize(
    "name, fault",
    [
        ("dlm.core.files.lines", str.splitlines),
        ("dlm.data.content.looks_like_rows", lambda text: False),
        (
            "dlm.data.local._whole",
            lambda text, dropped: text.encode("utf-8", "replace").decode(),
        ),
        ("dlm.data.content._object", dict),
    ],
)
def test_what_is_lost_of_a_data_file_is_found(tmp_path, monkeypatch, name, fault):
    """The readers as they were when they lost something in silence."""
    monkeypatch.setattr(name, fault)
    assert {outcome for _, outcome in data.cases(0, 200, tmp_path)} - {*GOOD}


def test_the_command_counts_and_fails_where_there_is_a_fault(monkeypatch, capsys):
    cases = {
        "configs": [("a", ACCEPTED), ("b", REFUSED)],
        "runs": [("c", "traceback: KeyError")],
    }
    modules = {
        f"dlm.drills.fuzzed.{kind}": outcomes for kind, outcomes in cases.items()
    }

    class Module:
        def __init__(self, name):
            self.outcomes = modules[name]

        def cases(self, seed, count, folder):
            return self.outcomes

    monkeypatch.setattr(config_fuzz.importlib, "import_module", Module)
    monkeypatch.setattr(config_fuzz, "chosen", lambda named: named.split(","))
    assert config_fuzz.main(["--of=configs", "--cases=2"]) == 0
    assert config_fuzz.main(["--of=configs,runs", "--cases=2", "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["kinds"]["runs"] == dict(
        outcomes=dict(faults=1), faults=["c: traceback: KeyError"]
    )
    assert shown["kinds"]["configs"]["outcomes"] == {ACCEPTED: 1, REFUSED: 1}

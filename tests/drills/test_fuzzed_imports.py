"""`bench fuzz` tells an import that passes over something from one that reads it."""

import json

import pytest

from dlm.app import hf_import
from dlm.core import files
from dlm.core.errors import UserError
from dlm.drills.fuzzed import ACCEPTED, REFUSED, imports
from dlm.hf import keys
from dlm.hf.layouts import LAYOUTS

LAYOUT = LAYOUTS["LlamaForCausalLM"]


@pytest.mark.slow
def test_a_fault_of_an_import_is_told_from_a_right_answer(tmp_path, monkeypatch):
    folder, target = tmp_path / "it", tmp_path / "run"
    before = imports.publish(folder, LAYOUT)

    def outcome(**changes):
        files.write(folder / "config.json", json.dumps(before | changes))
        return imports.judged(folder, target, LAYOUT, before, before | changes)

    assert (
        outcome(rope_theta=5.0)
        == outcome(hidden_act="swish", temperature=3.0)
        == ACCEPTED
    )
    assert (
        outcome(softcap=3.0)
        == outcome(clip_qkv=False)
        == outcome(num_hidden_layers="2")
        == REFUSED
    )
    monkeypatch.setattr(keys.Keys, "unknown", lambda *_: {})
    assert (
        outcome(softcap=3.0) == "passed over softcap=3.0"
        and outcome(clip_qkv=False) == "passed over clip_qkv=False"
    )
    assert not target.exists()

    def fails(folder, target, error):
        target.mkdir()
        raise error

    monkeypatch.setattr(
        hf_import,
        "from_hf",
        lambda folder, target: fails(folder, target, KeyError("x")),
    )
    assert outcome().startswith("traceback: KeyError")
    monkeypatch.setattr(
        hf_import,
        "from_hf",
        lambda folder, target: fails(folder, target, UserError("no")),
    )
    assert outcome() == "refused, and left ['run'] behind: 'no'"
    monkeypatch.setattr(
        hf_import,
        "from_hf",
        lambda folder, target: imports.recipe.config(folder / "a\nb"),
    )
    assert outcome().startswith("refused in several lines")
    monkeypatch.setattr(
        hf_import, "from_hf", lambda folder, target: (folder / "config.json").unlink()
    )
    assert outcome().startswith("harmed the published folder")

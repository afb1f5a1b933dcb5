"""`dlm.bench samplers` on a small share of its rules: every line is told, the floor is calculated, mistakes are named."""

import csv
import json

import pytest

from dlm import bench
from dlm.benches import samplers
from dlm.run.spec import UserError


@pytest.mark.slow
def test_rules_are_told_beside_the_floor_and_p_itself(tmp_path, capsys):
    bench.main(
        [
            "samplers",
            f"--out={tmp_path}",
            "--worlds=table",
            "--rules=ancestral,ordered,ancestral+cap:eta=0.3",
            "--steps=1,4",
            "--num=64",
            "--json",
        ]
    )
    found = json.loads(capsys.readouterr().out)
    rows = {(r["rule"], r["steps"]): r for r in found["rows"]}
    floor, drawn = rows["floor", 1], rows["ancestral", 1]
    assert floor["tv"] > 0.05 and abs(drawn["tv"] - floor["tv"]) < 0.06 and rows["floor", 4]["tv"] < floor["tv"]
    assert rows["ordered", 4]["tv"] < rows["ordered", 1]["tv"]
    with (tmp_path / "samplers.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(found["rows"])
    assert "<svg" in (tmp_path / "samplers.html").read_text(encoding="utf-8")


def test_every_rule_joins_by_its_file_and_mistakes_are_named(tmp_path):
    names = samplers.everything()
    assert names[0] == "ancestral" and {"threshold", "speculative", "ancestral+cap", "ancestral+prism"} <= set(names)
    for flags, words in (
        (["--worlds=tables"], "no world 'tables'"),
        (["--steps=0"], "must be positive"),
        (["--rules=ancestral:x"], "should be field=value"),
        (["--rules=ancestral+cap+conf"], "more than one"),
        (["--workdir=x"], "go together"),
    ):
        with pytest.raises(UserError, match=words):
            bench.main(["samplers", f"--out={tmp_path}", *flags])

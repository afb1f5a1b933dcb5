"""`dlm.bench samplers` on a small share of its rules: every line is told, the floor is calculated,
mistakes are named.
"""

import csv
import json

import numpy as np
import pytest

from dlm import bench
from dlm.app.context import RunContext
from dlm.benches import samplers
from dlm.benches.sampling import output
from dlm.core.errors import UserError
from dlm.oracle import sampler_worlds
from tests.laws import worlds as w


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
    results = json.loads(capsys.readouterr().out)
    rows = {(r["rule"], r["steps"]): r for r in results["rows"]}
    floor, drawn = rows["floor", 1], rows["ancestral", 1]
    assert (
        floor["tv"] > 0.05
        and abs(drawn["tv"] - floor["tv"]) < 0.06
        and rows["floor", 4]["tv"] < floor["tv"]
    )
    assert rows["ordered", 4]["tv"] < rows["ordered", 1]["tv"]
    with (tmp_path / "samplers.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(results["rows"])
    assert "<svg" in (tmp_path / "samplers.html").read_text(encoding="utf-8")


def test_every_rule_joins_by_its_file_and_mistakes_are_named(tmp_path):
    names = samplers.everything()
    assert names[0] == "ancestral" and {
        "threshold",
        "speculative",
        "ancestral+cap",
        "ancestral+quality",
    } <= set(names)
    for flags, words in (
        (["--worlds=tables"], "no world 'tables'"),
        (["--steps=0"], "must be positive"),
        (["--rules=ancestral:x"], "should be field=value"),
        (["--rules=ancestral+cap+loop"], "more than one"),
        (["--workdir=x"], "go together"),
    ):
        with pytest.raises(UserError, match=words):
            bench.main(["samplers", f"--out={tmp_path}", *flags])


@pytest.mark.slow
def test_the_error_of_a_network_is_a_function_of_what_it_sees_and_tokens_are_seen_at_any_time():
    z_BL = np.array([[0, 3, 3, 1], [0, 3, 3, 1], [0, 3, 3, 2]])  # at time 1
    outputs = {n: sampler_worlds.Table(n).net(w.canvas(z_BL)) for n in (0.0, 2.0)}
    logits = {
        n: np.asarray(output.prediction.logits_BLV)[..., :3]
        for n, output in outputs.items()
    }
    error_BLV = logits[2.0] - logits[0.0]
    np.testing.assert_allclose(error_BLV[0], error_BLV[1])
    assert (
        np.abs(error_BLV[0, 1] - error_BLV[2, 1]).max() > 0.1
        and 0.5 < error_BLV.std() < 4
    )
    judged_BL = np.asarray(outputs[0.0].heads["quality"])
    p_BLV = np.exp(logits[0.0]) / np.exp(logits[0.0]).sum(-1, keepdims=True)
    np.testing.assert_allclose(
        1 / (1 + np.exp(-judged_BL[:, 0])), p_BLV[:, 0, 0], rtol=1e-3
    )


def test_what_has_nothing_beside_it_is_not_drawn(tmp_path):
    known, plain, mended = (
        dict.fromkeys(output.KNOWN, []),
        dict(ancestral=[]),
        {"ancestral+cap": []},
    )
    assert output._kinds(known | plain) == dict(rules=known | plain)
    assert output._kinds(known | plain | mended) == dict(
        remasking=known | plain | mended
    )
    both = output._kinds(known | plain | mended | dict(ordered=[]))
    assert (
        both
        == dict(
            rules=known | plain | dict(ordered=[]), remasking=known | plain | mended
        )
        and output._kinds(known) == {}
    )


def test_a_measure_that_no_rule_has_is_not_told():
    rows = [
        dict(part="run", rule=rule, steps=4, nfe=4, gen_ppl=9.0) for rule in ("a", "b")
    ]
    lines = list(
        output.tables([*rows, dict(part="run", rule="b", steps=8, nfe=8)], [4, 8])
    )
    assert [line for line in lines if line.startswith("run")] == [
        "run: perplexity of samples under the judge",
        "run: passes",
    ]
    assert [line.split() for line in lines[2:4]] == [
        ["a", "9.0"],
        ["b", "9.0"],
    ] and lines[4] == ""


@pytest.mark.slow
def test_a_run_is_judged_with_variety_likelihood_and_costs(
    trained, tmp_path, capsys, monkeypatch
):
    drawn, draw, _ = [], RunContext.draw, (trained("masked"), trained("ar"))
    monkeypatch.setattr(
        RunContext, "draw", lambda self, num: drawn.append(num) or draw(self, num)
    )
    capsys.readouterr()
    words = [
        "samplers",
        "--worlds=",
        f"--workdir={trained('masked')}",
        "--steps=3",
        f"--out={tmp_path / 'out'}",
        "--json",
    ]
    bench.main(
        [
            *words,
            "--samples=4",
            f"--judge={trained('ar')}",
            "--rules=ancestral,confident:confidence=top,ancestral+quality",
        ]
    )
    results = json.loads(capsys.readouterr().out)
    chance, sure = results["rows"]
    assert [o["rule"] for o in results["left_out"]] == [
        "ancestral+quality"
    ] and "nn.heads" in results["left_out"][0]["reason"]
    assert "exact_bits_per_byte" not in chance and 0 < sure["exact_bits_per_byte"] < 12
    for row in (chance, sure):
        assert (
            row["nfe"] <= 3
            and row["tokens_per_s"] > 0
            and row["flops_per_sample"] > 0
            and row["gen_ppl"] > 1
        )
        assert {"entropy", "distinct_1", "distinct_2", "gen_bits_per_byte_se"} <= set(
            row
        )
    assert drawn == [4, 4, 4, 4, 4], (
        "once more where the first call compiled, but for the rule that is refused at once"
    )
    drawn.clear()
    bench.main(
        [*words, "--samples=17", f"--judge={trained('ar')}", "--rules=ancestral"]
    )
    assert (
        drawn == [17]
        and json.loads(capsys.readouterr().out)["rows"][0]["tokens_per_s"] > 0
    )
    with pytest.raises(UserError, match="is no autoregressive run"):
        bench.main([*words, f"--judge={trained('masked')}"])

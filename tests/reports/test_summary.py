"""The report page: one file, escaped text, underlined anchors, replays inside.

On a phone only tables scroll sideways.
"""

import json
import math
import re
import shutil
import subprocess

import pytest

from dlm.reports import figures, record, summary
from dlm.reports.groups import grouped
from dlm.reports.replay import GENERATOR
from tests.reports.conftest import lines, score, write

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)


def page(runs):
    return summary.page(grouped(record.read(runs)))


def test_the_page(runs, tmp_path):
    (tmp_path / "replay.html").write_text(f'{GENERATOR}<p id="replayed">"steps"</p>')
    samples = (
        (runs[0] / "samples.jsonl")
        .read_text()
        .replace(
            '"kind": "infill"',
            f'"trace": "{tmp_path / "replay.html"}", "kind": "infill"',
        )
    )
    (runs[0] / "samples.jsonl").write_text(samples)
    text = page(runs)
    assert "<u>def </u>f&lt;b&gt;<u>(x):</u>" in text
    assert "sample 3 of ar\n  ␛[2J&lt;i&gt;" in text
    assert "sample 0" not in text
    assert text.count(summary.CANNOT_INFILL) == 1
    assert "3.014 ± 0.012" in text
    assert "abc123" in text
    assert "1049600" in text
    assert text.count('sandbox="allow-scripts"') == text.count("srcdoc=") == 1
    assert "&lt;p id=&quot;replayed&quot;&gt;&quot;steps&quot;" in text
    assert not re.findall(r'(?:href|src)="[^#"]', text)
    assert "{{" not in text
    assert "<th scope=col>objective.name</th>" in text
    assert set(re.findall(r"https?://[^ \"']+", text)) <= {
        "http://www.w3.org/2000/svg"
    }, "nothing is fetched"
    for title in ("Held-out bits per byte", "Training"):
        assert f"<h2>{title}</h2>" in text


def test_every_metric_of_the_objectives_own_is_drawn(runs):
    """Neither the loop's columns nor evaluators' scores are the objective's own."""
    rows = []
    for step in (20, 40):
        row = dict(step=step, loss=2.0, lr=0.1, tokens_per_s=9.0, router_busiest=1.0)
        row |= {"my_metric": step / 100, "note": "text", "infill.token_accuracy": 0.5}
        rows.append(row)
    (runs[0] / "metrics.jsonl").write_text(lines(rows))
    models = grouped(record.read(runs[:1]))
    assert figures.own_metrics(models) == ["my_metric"]
    text = summary.page(models)
    assert "<h2>My metric while training</h2>" in text
    assert "Note while training" not in text


def test_every_number_of_passes_is_a_point(tmp_path):
    runs = [
        write(tmp_path / f"r{i}", "masked", 2.0, 0.1, "bound", seed=i) for i in range(2)
    ]
    for i, run in enumerate(runs):
        measured = ((4, 9.0), (4, 1.0), (16, 2.0))
        entropy = dict(eval="samples", over="samples", seed=i, se=0.5)
        scores = [
            score(
                "entropy",
                v + i,
                nfe=n - i / 4,
                sampler=dict(steps=n),
                differs={"sampler.steps": n},
                **entropy,
            )
            for n, v in measured
        ]
        scores.append(
            score(
                "entropy",
                98.0,
                step=20,
                nfe=8,
                sampler=dict(steps=8),
                differs={"sampler.steps": 8},
                **entropy,
            )
        )
        scores.append(
            score(
                "entropy",
                99.0,
                nfe=4,
                sampler=dict(steps=4),
                differs={"sampler.steps": 4, "data": "x"},
                **entropy,
            )
        )
        (run / "evals.jsonl").write_text(lines(scores))
    (group,) = grouped(record.read(runs))
    (label, four, mean, half), (_, sixteen, *_) = figures.passes(
        [group], "entropy"
    )  # what is of an older step is of another model
    assert (label, four, mean, sixteen) == ("masked", 3.875, 1.5, 15.875)
    assert half == pytest.approx(12.706 * 0.5, rel=1e-3), "the latest counts"
    page = summary.page([group])
    assert "against passes" in page
    assert "<th scope=row>masked</th><td>sampler.steps=16</td><td>entropy</td>" in page


@pytest.mark.parametrize(
    "content", [b"<script>parent.document.title = 1</script>", b"\xff", None]
)
def test_only_replays_are_embedded(runs, tmp_path, content):
    if content is not None:
        (tmp_path / "other").write_bytes(content)
    with (runs[0] / "samples.jsonl").open("a") as file:
        file.write(
            json.dumps(dict(kind="sample", text="t", trace=str(tmp_path / "other")))
            + "\n"
        )
    assert "iframe" not in page(runs).partition("<main>")[2]


def test_a_run_that_diverged_does_not_take_the_report_with_it(runs):
    with (runs[0] / "evals.jsonl").open("a") as file:
        file.write(json.dumps(score("bits_per_byte", math.nan, se=math.nan)) + "\n")
    text = page(runs)
    assert "masked has scores that are not finite" in text
    assert "ar: 2.151" in text
    assert "<td>not finite</td>" in text


def test_parts_that_are_missing_are_left_out(runs):
    for name in ("samples.jsonl", "evals.jsonl", "environment.json", "commit.txt"):
        (runs[0] / name).unlink()
    text = page(runs[:1])
    assert "masked has no held-out score" in text
    assert "<figcaption>" not in text
    assert "None" not in text
    assert "Samples" not in text


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_phone_shows_the_page_without_scrolling_sideways(runs, tmp_path):
    sizes = (
        "innerWidth, document.documentElement.scrollWidth, "
        "document.querySelectorAll('svg').length"
    )
    measure = f"<script>document.title = JSON.stringify([{sizes}])</script>"
    config = json.loads((runs[1] / "config.json").read_text())
    (runs[1] / "config.json").write_text(
        json.dumps(
            dict(config, nn={f"field_of_a_long_name_{i}": "x" * 30 for i in range(9)})
        )
    )
    (tmp_path / "page.html").write_text(
        page(runs).replace("</body>", measure + "</body>")
    )
    words = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=390,844",
        "--dump-dom",
        f"file://{tmp_path / 'page.html'}",
    ]
    shown = subprocess.run(
        words, capture_output=True, text=True, timeout=120, check=True
    ).stdout
    inner, wide, drawings = json.loads(re.search(r"<title>(.*?)</title>", shown)[1])
    assert wide <= inner
    assert drawings >= 2

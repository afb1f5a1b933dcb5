"""The report page: one file, all text escaped, anchors underlined, and the replay linked where it lies."""

import re

from dlm.reports import summary, table


def test_the_page(runs, tmp_path):
    (tmp_path / "replay.html").touch()
    samples = (
        (runs[0] / "samples.jsonl").read_text().replace('"kind": "infill"', f'"trace": "{tmp_path / "replay.html"}", "kind": "infill"')
    )
    (runs[0] / "samples.jsonl").write_text(samples)
    records = table.read(runs)
    page = summary.page(records, table.rows(records), tmp_path / "out")
    assert "<u>def </u>f&lt;b&gt;<u>(x):</u>" in page and "sample 3 of ar\n  ␛[2J&lt;i&gt;" in page and "sample 0" not in page
    assert page.count(summary.CANNOT_INFILL) == 1 and "3.014 ± 0.006" in page and "abc123" in page and "1049600" in page
    assert re.findall(r'(?:href|src)="([^"]*)"', page) == ["../replay.html"] and "http" not in page and "{{" not in page


def test_parts_that_are_missing_are_left_out(runs, tmp_path):
    for name in ("samples.jsonl", "evals.jsonl", "environment.json", "commit.txt"):
        (runs[0] / name).unlink()
    records = table.read(runs[:1])
    page = summary.page(records, table.rows(records), tmp_path)
    assert "masked has no held-out score" in page and "<figure>" not in page and "None" not in page

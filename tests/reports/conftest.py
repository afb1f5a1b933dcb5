"""Two small run directories, as the commands leave them."""

import json

import pytest


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


TEXT = dict(sha256="a1b2c3d4" * 8, bytes=4934, documents=9)


def score(name, value, **changes):
    """A row of evals.jsonl as `evaluate` writes it of a run's own."""
    settings = dict(name="evals.bound", samples=4, windows=0)
    row = dict(
        step=40,
        seed=0,
        data="held_out",
        eval="bound",
        claims="bound",
        settings=settings,
        over="noise",
        text=TEXT,
        differs={},
    )
    return row | dict(commit="abc123", se=0.0, name=name, value=value) | changes


@pytest.fixture
def runs(tmp_path):
    """[masked, ar]: directories with everything a report reads."""
    return [
        write(tmp_path / "masked", "masked", 3.014, 0.006, "bound"),
        write(tmp_path / "ar", "ar", 2.1512, 0.0, "exact"),
    ]


def write(folder, objective, bits, se, claims, **changes):
    folder.mkdir()
    seed = changes.get("seed", 3)
    scores = [
        score("bits_per_byte", value, se=se, claims=claims, seed=seed)
        for value in (9.0, bits)
    ]
    scores.append(
        score(
            "gzip_bits_per_byte",
            2.7,
            claims="exact",
            eval="compression",
            settings={},
            over=None,
            seed=seed,
        )
    )
    infill = dict(
        kind="infill",
        text="def f(x):",
        pieces=[["def ", True], ["f<b>", False], ["(x):", True]],
        sampler={"steps": 64},
        seed=0,
        nfe=64,
    )
    samples = [
        dict(
            kind="sample",
            text=f"sample {i} of {objective}\n  \x1b[2J<i>",
            sampler={"steps": 64},
            seed=i,
            nfe=64,
        )
        for i in range(4)
    ]
    config = {
        "objective": {"name": f"objectives.{objective}"},
        "steps": 40,
        "seed": 3,
        "data": {"batch": 8, "length": 16},
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    metrics = [
        dict(step=s, loss=3.0, bits_per_byte=6.0 - s / 20, tokens_per_s=v)
        for s, v in ((20, 10.0), (30, 7012.0), (40, 8000.0))
    ]
    (folder / "metrics.jsonl").write_text(lines([*metrics, {"step": 40, "bound": 1.0}]))
    (folder / "evals.jsonl").write_text(lines(scores))
    (folder / "samples.jsonl").write_text(
        lines([*samples, infill] if objective == "masked" else samples)
    )
    (folder / "environment.json").write_text(
        json.dumps({"jax": "0.10.2", "parameters": 1049600, "flops_per_token": 2.0})
    )
    (folder / "commit.txt").write_text("abc123\n")
    return folder

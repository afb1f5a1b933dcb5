"""Sudoku: in which order to fill in (arXiv:2502.06768), with a judge that takes cells back (PRISM, arXiv:2510.01384), against autoregression."""

from ml_collections import ConfigDict

from dlm.run.spec import choices
from dlm.sweeps.grid import chain, point

SIZES = {
    "4x4": dict(box=2, holes=0.5, count=20_000, steps=800, batch=64, width=96, layers=4),
    "9x9-small": dict(box=3, holes=0.6, count=100_000, steps=10_000, batch=64, width=96, layers=4),
    "9x9": dict(box=3, holes=0.6, count=100_000, steps=60_000, batch=256, width=256, layers=8),
}


def chosen(arg):
    return SIZES[choices(arg, size=tuple(SIZES)).size]


def get_config(arg=None):
    c = chosen(arg)
    task = dict(name="tasks.sudoku", box=c["box"], holes=c["holes"])
    cells, heads = c["box"] ** 4, c["width"] // 32
    return ConfigDict(
        dict(
            seed=0,
            steps=c["steps"],
            text=dict(name="text.bytes"),
            data=dict(source=dict(name="data.problems", task=task, count=c["count"], form="answer"), batch=c["batch"], length=cells + 1),
            nn=dict(
                layers=c["layers"],
                width=c["width"],
                attention=dict(heads=heads, kv_heads=heads, head_size=32),
                ffn=dict(width=2 * c["width"]),
            ),
            objective=dict(name="objectives.masked"),
            optim=dict(kind="muon", muon_lr=0.02, lr=3e-3, schedule="linear", warmup=100),
            sampler=dict(rule=dict(name="samplers.confident", confidence="margin"), steps=cells, temperature=0.0),
            evals=dict(tasks=dict(task=task, num=200, ask="fill")),
            every=dict(log=50, save=500),
        )
    )


def sweep(arg=None):
    c = chosen(arg)
    cells = c["box"] ** 4
    prism = {"objective": dict(name="objectives.prism", tokens=c["box"] ** 2), "nn.heads": ("quality",), "sampler.remask": "prism"}
    ar = {
        "objective": "objectives.ar",
        "sampler": dict(rule="ancestral", steps=1, block=1),
        "data.source.form": "whole",
        "data.length": 2 * (cells + 1),
        "data.prompt": "=",
        "evals.tasks.ask": "prompt",
    }
    return chain(point("masked", {}), point("prism", prism), point("ar", ar))

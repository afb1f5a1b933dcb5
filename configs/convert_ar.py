"""From an autoregressive model to a diffusion model: the weights of a trained run, another objective (DiffuLLaMA, Dream, SDAR).

adapted   masked diffusion that predicts a token where the one before it is read, its attention opened over the first half of the updates
open      the same with the attention open from the first update on
aligned   masked diffusion as usual: predictions stand where their token does
block     block diffusion, blocks growing from 1 to 16 tokens over the first half
scratch   masked diffusion with fresh weights: the same network, tokenizer, data and number of updates

`start` is the run to begin with: one trained here (`configs/quickstart.py:objective=ar`), or published weights (`dlm.convert from_hf`). Its
network, tokenizer, data and batch are taken from its own config.

    python -m dlm.train --config=configs/quickstart.py:objective=ar --workdir=runs/quickstart/ar
    python -m dlm.sweep --config=configs/convert_ar.py:start=runs/quickstart/ar --workdir=runs/convert_ar --parallel=2
    python -m dlm.report runs/convert_ar --out=runs/convert_ar/report

    python -m dlm.convert from_hf PUBLISHED --workdir=runs/published
    python -m dlm.train --config=configs/convert_ar.py:start=runs/published --workdir=runs/adapted --config.optim.kind=adamw

What was seen (held-out bits per byte, a bound on 256 windows, error 0.006 to 0.024; one seed; start: configs/quickstart.py:objective=ar, 360
updates of 8 × 128 tokens; commit dc22d30, one of 2 cores of an AVX-512 Xeon each, Python 3.11.7):

    updates     30      60      90     120     150     180
    adapted  2.502   2.472   2.462   2.442   2.424   2.417
    open     2.498   2.470   2.460   2.442   2.425   2.417
    aligned  2.708   2.632   2.606   2.570   2.540   2.528
    block    2.682   2.625   2.587   2.539   2.509   2.493
    scratch  2.863   2.800   2.775   2.750   2.730   2.723

After 30 updates every start is ahead of where fresh weights are after 180; the shift is worth 0.11 bits. Opening the attention slowly does
nothing here. (scratch has twice the learning rates of the others, those of configs/quickstart.py; its 360 updates there end at 2.665.)
"""

from pathlib import Path

from ml_collections import ConfigDict

from dlm.core.config import choices
from dlm.nn.presets import SIZES
from dlm.runs import directory
from dlm.sweeps.grid import chain, point

STEPS = 180
QUICKSTART = dict(  # what a run at `start` that is not trained yet will be
    text=dict(name="text.bpe", size=4096),
    data=dict(source=dict(name="data.embedded", held_out=0.05), batch=8, length=128),
    nn=SIZES["tiny"],
)
ADAPTED = dict(name="objectives.adapted", pattern="count")


def get_config(arg=None):
    chosen = choices(arg, start=("runs/quickstart/ar", "*"))
    begun = (
        directory.read_config(Path(chosen.start))
        if Path(chosen.start, directory.CONFIG).is_file()
        else QUICKSTART
    )
    return ConfigDict(
        dict(
            seed=0,
            steps=STEPS,
            start=chosen.start,
            text=begun["text"],
            data=begun["data"],
            nn=begun["nn"],
            objective=ADAPTED | dict(reach_warmup=0.5),
            optim=dict(
                kind="muon", muon_lr=0.01, lr=1.5e-3, schedule="linear", warmup=20
            ),
            sampler=dict(rule="ancestral", steps=64),
            evals=dict(bound=dict(samples=2, windows=256)),
            intervals=dict(log=20, eval=30, save=0),
        )
    )


def sweep():
    masked = dict(name="objectives.masked", pattern="count")
    return chain(
        point("adapted", {}),
        point("open", {"objective.reach_warmup": 0.0}),
        point("aligned", {"objective": masked}),
        point(
            "block",
            {
                "objective": dict(name="objectives.block", size=16, block_warmup=0.5),
                "sampler.block": 16,
                "sampler.steps": 16,
            },
        ),
        point(
            "scratch",
            {
                "objective": masked,
                "start": None,
                "optim.muon_lr": 0.02,
                "optim.lr": 3e-3,
            },
        ),
    )

"""Active remasking: quality against forward passes, for each way to mask tokens again, on a trained byte model and on oracle worlds.

ReMDM (arXiv:2503.00307) and its kin spend passes on changing their mind. With an exact network there is nothing to mend, and remasking cannot
help; with a trained one each token is drawn from a law that is a little wrong, and errors pile up unless they can be taken back.

    python -m dlm.sweep --config=configs/challenges/remasking.py --workdir=runs/remasking
    python -m dlm.bench samplers --workdir=runs/remasking/masked-seed=0 --judge=runs/remasking/ar-seed=0 --out=runs/remasking/bench

size=tiny   1,500 updates of 16 × 128 bytes for each of the two, half an hour of a laptop
size=small  20,000 updates of 64 × 256 bytes
"""

from ml_collections import ConfigDict

from dlm.run.spec import choices
from dlm.sweeps.grid import chain, point, repeat

TRAINING = {
    "tiny": dict(steps=1500, batch=16, length=128, width=128, layers=4),
    "small": dict(steps=20_000, batch=64, length=256, width=512, layers=8),
}


def get_config(arg=None):
    t = TRAINING[choices(arg, size=tuple(TRAINING)).size]
    heads = t["width"] // 32
    return ConfigDict(
        dict(
            seed=0,
            steps=t["steps"],
            text=dict(name="text.bytes"),
            data=dict(source=dict(name="data.embedded", held_out=0.05), batch=t["batch"], length=t["length"]),
            nn=dict(
                layers=t["layers"],
                width=t["width"],
                attention=dict(heads=heads, kv_heads=heads, head_size=32),
                ffn=dict(kind="relu2", width=4 * t["width"]),
            ),
            objective=dict(name="objectives.masked", pattern="count"),
            optim=dict(kind="muon", muon_lr=0.02, lr=3e-3, schedule="linear", warmup=t["steps"] // 10),
            sampler=dict(rule="ancestral", steps=64),
            evals=dict(bound=dict(samples=4, windows=128)),
            every=dict(log=20, save=0),
        )
    )


def sweep():
    ar = point("ar", {"objective": "objectives.ar", "sampler.steps": 1, "sampler.block": 1})
    return repeat(chain(ar, point("masked", {})), seeds=1)

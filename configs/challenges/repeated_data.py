"""Repeated data: the same number of updates over 1, 4, 16 or 64 epochs of ever less text.

Masked diffusion is reported to overtake autoregression once data are repeated (arXiv:2511.03276), and its corrupted input to be the
main cause (2510.04071). So there are three models: autoregressive; autoregressive with a quarter of its input masked and ten times the
weight decay; masked. The held-out text is the same for all; how many windows of 128 tokens there are to train on says `data.windows`.

    python -m dlm.sweep --config=configs/challenges/repeated_data.py --workdir=runs/repeated --parallel=2
    python -m dlm.report runs/repeated --into=configs/challenges/repeated_data.py

    === results of configs/challenges/repeated_data.py, none yet ===
    === end of results ===
"""

from ml_collections import ConfigDict

from dlm.run.spec import choices
from dlm.sweeps.grid import chain, point, product, repeat

STEPS, BATCH = 400, 8
EPOCHS = (1, 4, 16, 64)  # that the run's updates make of its windows


def get_config(arg=None):
    choices(arg)
    return ConfigDict(
        dict(
            seed=0,
            steps=STEPS,
            text=dict(name="text.bpe", size=1024),
            data=dict(source=dict(name="data.embedded", held_out=0.05), batch=BATCH, length=128),
            nn=dict(layers=3, width=64, attention=dict(heads=2, kv_heads=2, head_size=32), ffn=dict(width=256)),
            objective=dict(name="objectives.masked"),
            optim=dict(kind="muon", muon_lr=0.02, lr=3e-3, schedule="linear", warmup=40),
            sampler=dict(rule="ancestral", steps=64),
            evals=dict(bound=dict(samples=8, windows=256)),
            every=dict(log=20, save=200),
        )
    )


def sweep():
    left_to_right = {"sampler.steps": 1, "sampler.block": 1}
    models = chain(
        point("ar", {"objective": "objectives.ar", **left_to_right}),
        point("dropout", {"objective": dict(name="objectives.ar", dropout=0.25), "optim.weight_decay": 1.0, **left_to_right}),
        point("masked", {}),
    )
    epochs = chain(*(point(f"epochs={n}", {"data.windows": STEPS * BATCH // n}) for n in EPOCHS))
    return repeat(product(models, epochs), seeds=2)

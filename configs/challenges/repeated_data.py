"""Repeated data: the same number of updates over 1, 4, 16 or 64 epochs of ever less text.

Masked diffusion is reported to overtake autoregression once data are repeated (arXiv:2511.03276), and its corrupted input to be the
main cause (2510.04071). So there are three models: autoregressive; autoregressive with a quarter of its input masked and ten times the
weight decay; masked. The held-out text is the same for all; how many windows of 128 tokens there are to train on says `data.windows`.

What was seen (below): at one epoch (3,200 windows) autoregression is 0.6 bits/byte ahead, at 16 the two are level within the noise of two
seeds, at 64 (50 windows) masked is 0.9 ahead. Dropout with weight decay mends a third of what autoregression loses at 16 epochs, and
nothing at 64. A masked bound lies above the model's own likelihood.

    python -m dlm.sweep --config=configs/challenges/repeated_data.py --workdir=runs/repeated --parallel=2
    python -m dlm.report runs/repeated --into=configs/challenges/repeated_data.py

    === results of configs/challenges/repeated_data.py, config 1da300eef86f, commit a407942, 1 × Intel(R) Xeon(R) Processor, Python 3.11.7, seeds 0 1 ===
    model                            claim   held-out bits/byte   seeds   tokens/s   parameters
    ───────────────────────────────────────────────────────────────────────────────────────────
    ar, dropout=0.0, windows=3200    exact   2.532 ± 0.113            2      6,161      262,784
    ar, dropout=0.0, windows=800     exact   2.674 ± 0.645            2      6,909      262,784
    ar, dropout=0.0, windows=200     exact   3.494 ± 0.694            2      6,619      262,784
    ar, dropout=0.0, windows=50      exact   4.709 ± 0.528            2      6,478      262,784
    ar, dropout=0.25, windows=3200   exact   2.548 ± 0.296            2      8,315      262,784
    ar, dropout=0.25, windows=800    exact   2.647 ± 0.449            2      6,743      262,784
    ar, dropout=0.25, windows=200    exact   3.195 ± 0.400            2      5,819      262,784
    ar, dropout=0.25, windows=50     exact   4.842 ± 2.008            2      6,219      262,784
    masked, windows=3200             bound   3.157 ± 0.003            2      6,024      262,784
    masked, windows=800              bound   3.209 ± 0.297            2      8,548      262,784
    masked, windows=200              bound   3.379 ± 0.282            2      8,195      262,784
    masked, windows=50               bound   3.821 ± 0.132            2      7,772      262,784
    ± is half of the 95 % interval over the seeds (Student's t); the noise of evaluation and the problems, which they share, are not in it.
    === end of results ===
"""

from ml_collections import ConfigDict

from dlm.core.config import choices
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
            data=dict(
                source=dict(name="data.embedded", held_out=0.05),
                batch=BATCH,
                length=128,
            ),
            nn=dict(
                layers=3,
                width=64,
                attention=dict(heads=2, kv_heads=2, head_size=32),
                ffn=dict(width=256),
            ),
            objective=dict(name="objectives.masked"),
            optim=dict(
                kind="muon", muon_lr=0.02, lr=3e-3, schedule="linear", warmup=40
            ),
            sampler=dict(rule="ancestral", steps=64),
            evals=dict(bound=dict(samples=8, windows=256)),
            intervals=dict(log=20, save=200),
        )
    )


def sweep():
    left_to_right = {"sampler.steps": 1, "sampler.block": 1}
    models = chain(
        point("ar", {"objective": "objectives.ar", **left_to_right}),
        point(
            "dropout",
            {
                "objective": dict(name="objectives.ar", dropout=0.25),
                "optim.weight_decay": 1.0,
                **left_to_right,
            },
        ),
        point("masked", {}),
    )
    epochs = chain(
        *(point(f"epochs={n}", {"data.windows": STEPS * BATCH // n}) for n in EPOCHS)
    )
    return repeat(product(models, epochs), seeds=2)

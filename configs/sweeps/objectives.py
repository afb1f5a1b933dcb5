"""Objective × width × seed on the text that every Python installation carries: 4 objectives, 2 widths, 3 seeds, within an hour of 2 cores.

objective   ar; masked with the linear, cosine and geometric schedule
width       64, 128 (depth, tokenizer, data order and updates stay the same)
seed        0, 1, 2

python -m dlm.sweep --config=configs/sweeps/objectives.py --workdir=runs/objectives --parallel=2
python -m dlm.report runs/objectives

    === results of configs/sweeps/objectives.py, config b40498076cfd, commit 7d6312a, 1 × cpu, Python 3.11.7, seeds 0 1 2 ===
    model                                   claim   held-out bits/byte   token accuracy   seeds   tokens/s   parameters
    ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────
    ar, width=64                            exact   2.525 ± 0.059                             3      4,983      328,320
    ar, width=128                           exact   2.329 ± 0.029        0.009 ± 0.023        3      3,356      656,448
    masked, schedule=cosine, width=64       bound   2.997 ± 0.035        0.004 ± 0.007        3      7,302      328,320
    masked, schedule=cosine, width=128      bound   2.981 ± 0.014                             3      4,301      656,448
    masked, schedule=geometric, width=64    bound   3.056 ± 0.019                             3      5,675      328,320
    masked, schedule=geometric, width=128   bound   3.047 ± 0.017                             3      5,452      656,448
    masked, schedule=linear, width=64       bound   2.969 ± 0.051                             3      4,834      328,320
    masked, schedule=linear, width=128      bound   2.942 ± 0.019        0.002 ± 0.023        3      4,691      656,448
    gzip -9                                 exact   2.074
    xz -9                                   exact   1.806
    order-0 entropy                         exact   4.638
    note: bits per byte are of 256 windows of the held-out text, gzip, xz and order-0 of all of it
    ± is half of the 95 % interval over the seeds (Student's t); the noise of evaluation and the problems, which they share, are not in it.
    === end of results ===
"""

from ml_collections import ConfigDict

from dlm.core.config import choices
from dlm.sweeps.grid import chain, over, point, product, repeat


def get_config(arg=None):
    choices(arg)
    return ConfigDict(
        dict(
            seed=0,
            steps=300,
            text=dict(name="text.bpe", size=2048),
            data=dict(
                source=dict(name="data.embedded", held_out=0.05), batch=8, length=128
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
            evals=dict(bound=dict(samples=4, windows=256)),
            intervals=dict(log=20, save=100),
        )
    )


def sweep():
    ar = point(
        "ar", {"objective": "objectives.ar", "sampler.steps": 1, "sampler.block": 1}
    )
    masked = product(
        point("masked", {}),
        over("objective.process.schedule", "linear", "cosine", "geometric"),
    )
    return repeat(product(chain(ar, masked), over("nn.width", 64, 128)), seeds=3)

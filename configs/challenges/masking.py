"""Which tokens to mask: expressions with labelled functional tokens (operators, brackets, =), learned from five ways to mask.

plain          each token at random
complementary  the mask and its complement
priority       functional tokens more, arXiv:2603.15803
inverse        functional tokens more, then what was left
permuted       the same rates on as many other positions of the row: the control of `inverse`

A pair of views costs two passes, so those arms have half the sequences per update: all make as many passes. Scored on held-out problems with
half of the tokens masked, alike for all; `marked` tokens are the functional ones.

What was seen (below): the opposite of the paper. At equal passes plain masks are at least as good as any on functional tokens (0.65) and in
the bound; putting functional tokens first costs 0.09 of that accuracy and 0.14 bits/byte, its inverse mends most of it, and the permuted
control does not differ from the inverse beyond the noise of three seeds. A functional token that is nearly always masked is seldom read as
context and mostly asked for when little else is known; complementary pairs change nothing that three seeds show.

size=tiny   1,000 updates of 16 (8) × 64 bytes, 3 seeds, under half an hour of a laptop for all
size=small  20,000 updates of 64 (32) × 128 bytes

    python -m dlm.sweep --config=configs/challenges/masking.py --workdir=runs/masking --parallel=2
    python -m dlm.report runs/masking --into=configs/challenges/masking.py

    === results of configs/challenges/masking.py, config 4277b77a9198, commit ff54022 and 7fb9fc8, 1 × Intel(R) Xeon(R) Processor, Python 3.11.7, seeds 0 1 2 ===
    model                                              claim   held-out bits/byte   marked token accuracy   token accuracy   unmarked token accuracy   seeds   tokens/s   parameters
    ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
    masked, coupling=complementary                     bound   1.571 ± 0.043        0.629 ± 0.018           0.666 ± 0.015    0.672 ± 0.015                 3      5,092      213,888
    priority, coupling=complementary, marks=own        bound   1.624 ± 0.039        0.607 ± 0.015           0.660 ± 0.005    0.669 ± 0.008                 3      5,929      213,888
    priority, coupling=complementary, marks=permuted   bound   1.615 ± 0.022        0.632 ± 0.048           0.658 ± 0.011    0.662 ± 0.009                 3      5,125      213,888
    masked, coupling=single                            bound   1.576 ± 0.042        0.649 ± 0.036           0.667 ± 0.004    0.670 ± 0.001                 3     11,241      213,888
    priority, coupling=single, marks=own               bound   1.716 ± 0.046        0.554 ± 0.053           0.663 ± 0.007    0.682 ± 0.007                 3     11,014      213,888
    note: the runs are of 2 versions of the code (7fb9fc8a54dd, ff540228ecbc)
    ± is half of the 95 % interval over the seeds (Student's t); the noise of evaluation and the problems, which they share, are not in it.
    === end of results ===
"""

from ml_collections import ConfigDict

from dlm.core.config import choices
from dlm.sweeps.grid import chain, point, repeat

TRAINING = {
    "tiny": dict(steps=1000, batch=16, length=64, width=64, layers=3, count=20_000),
    "small": dict(
        steps=20_000, batch=64, length=128, width=256, layers=6, count=1_000_000
    ),
}


def training(arg):
    return TRAINING[choices(arg, size=tuple(TRAINING)).size]


def get_config(arg=None):
    t = training(arg)
    heads = t["width"] // 32
    return ConfigDict(
        dict(
            seed=0,
            steps=t["steps"],
            text=dict(name="text.bytes"),
            data=dict(
                source=dict(
                    name="data.problems",
                    task=dict(name="tasks.countdown"),
                    count=t["count"],
                    unique=True,
                ),
                batch=t["batch"],
                length=t["length"],
                marked_characters="+-*()=",
            ),
            nn=dict(
                layers=t["layers"],
                width=t["width"],
                attention=dict(heads=heads, kv_heads=heads, head_size=32),
                ffn=dict(width=4 * t["width"]),
            ),
            objective=dict(name="objectives.masked"),
            optim=dict(
                kind="muon",
                muon_lr=0.02,
                lr=3e-3,
                schedule="linear",
                warmup=t["steps"] // 10,
            ),
            sampler=dict(rule="confident", steps=8),
            evals=dict(bound=dict(samples=4, windows=256), tokens=dict(windows=512)),
            intervals=dict(log=50, save=0),
        )
    )


def sweep(arg=None):
    half = {"data.batch": training(arg)["batch"] // 2}
    priority = dict(name="objectives.priority")
    arms = chain(
        point("plain", {}),
        point("complementary", {"objective.coupling": "complementary", **half}),
        point("priority", {"objective": priority}),
        point(
            "inverse", {"objective": dict(priority, coupling="complementary"), **half}
        ),
        point(
            "permuted",
            {
                "objective": dict(priority, coupling="complementary", marks="permuted"),
                **half,
            },
        ),
    )
    return repeat(arms, seeds=3)

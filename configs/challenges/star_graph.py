"""Paths in a star, where next-token training fails (Bachmann & Nagarajan, arXiv:2403.06963): `a>b,d>e,e>f,b>c,c>g,… g-a=bc`

From left to right the first step decides everything and is the hardest to know: it needs the whole way back from the end, while every later
one needs a single look at the edges, so that training with the right beginning given teaches only that. The prediction is 1/arms for an
autoregressive model and near 1 for a masked one, which may begin at the end. Both read the question and learn the answer alone
(`data.prompt`), so their bits per byte are of the same thing; a right answer is exactly the way.

What was seen (below): just that, after 3,000 updates, nine minutes of one core each. The masked model, surest node first by margin, solves
all of 1,000 held-out problems in three passes: it begins next to the end. Its autoregressive twin solves 52.7 ± 3.1 % (95 % intervals): it looks edges
up and guesses the first step (0.24 nats a token; the guess alone is ln(2)/3 = 0.231). It is the order, not only the training: the same masked
model solves 63 ± 3 % from left to right or in one pass, and 83 ± 2 % in a random order. One seed, the runs below.

    python -m dlm.evaluate --workdir=runs/star/masked --evals=tasks --evals.tasks.num=1000 --evals.tasks.steps='(1, 3)' \\
        --evals.tasks.orders='("random", "margin", "left_to_right")'

How the question is put decides whether a masked model gets there in such a time, and this way of putting it was chosen for that, after
others had failed. Up to commit 4b4e719 it read `… a-g=` and the answer `a>b>c>g` repeated both ends, and all eight tokens were masked
alike: 2.6 to 2.7 nats an answer (to pick two of the four inner nodes costs ln(4 · 3) = 2.5) after 700 to 1,400 updates, with biases,
any_order, complementary masks or absolute positions, and after 2,700 in earlier tries (d7ff83a); with `g-a=b>c` still 2.5 after 3,000. The
autoregressive twin looked edges up and guessed there too (0.8 nats, d7ff83a), and begun from its weights the masked one learned to look
forward in 1,700 updates, and not back. With masks at the two inner nodes alone and all else in sight, the same network looked edges up
after 200 to 400 updates; with masks at the ends too it did not in 650. The likely reason: a place to look is soon found where what stands
there can always be read, and hardly where it often is a mask; now the ends are read in the question alone, at distances of their own from
the nodes next to them. (Training losses, one seed each, AMD EPYC; absolute positions and masks at chosen places were code that was not
kept.)

    python -m dlm.sweep --config=configs/challenges/star_graph.py --workdir=runs/star --parallel=2
    python -m dlm.report runs/star --into=configs/challenges/star_graph.py

    === results of configs/challenges/star_graph.py, config 855dacb49858, commit 5c5498d, 1 × AMD EPYC, Python 3.11.7, seeds 0 ===
    model    claim   held-out bits/byte   stargraph accuracy   seeds   tokens/s   parameters
    ────────────────────────────────────────────────────────────────────────────────────────
    ar       exact   0.509                0.510 ± 0.069            1      2,228      165,216
    masked   bound   0.210 ± 0.018        1.000 ± 0.019            1      2,141      165,216
    ± is half of the 95 % interval of the one run's score: 1.96 standard errors, of 200 problems Wilson's farther end where all were right.
    === end of results ===
"""

from ml_collections import ConfigDict

from dlm.core.config import choices
from dlm.sweeps.grid import chain, point

ARMS, LENGTH, NAMES = 2, 3, 8


def get_config(arg=None):
    choices(arg)
    task = dict(name="tasks.star_graph", arms=ARMS, length=LENGTH, names=NAMES)
    prompt, answer = (
        4 * ARMS * LENGTH - 1 + len(" e-a="),
        LENGTH,
    )  # tokens, with the eos
    return ConfigDict(
        dict(
            seed=0,
            steps=3000,
            text=dict(name="text.bytes"),
            data=dict(
                source=dict(name="data.problems", task=task, count=100_000),
                batch=128,
                length=prompt + answer,
                prompt="=",
            ),
            nn=dict(
                layers=3,
                width=64,
                attention=dict(
                    heads=4, kv_heads=4, head_size=16, bias="qkv", rope=dict(base=100.0)
                ),
                ffn=dict(kind="relu2", width=256),
                compute=dict(unroll=3),
            ),
            objective=dict(name="objectives.masked", pattern="count"),
            optim=dict(
                kind="muon", muon_lr=0.02, lr=3e-3, schedule="linear", warmup=100
            ),
            sampler=dict(
                rule=dict(name="samplers.rules.confident", confidence="margin"),
                steps=answer,
                temperature=0.0,
            ),
            evals=dict(
                bound=dict(samples=4, windows=128), tasks=dict(task=task, num=200)
            ),
            intervals=dict(log=50, save=1000),
        )
    )


def sweep():
    ar = {
        "objective": "objectives.ar",
        "sampler": dict(rule="ancestral", steps=1, block=1),
    }
    return chain(point("masked", {}), point("ar", ar))

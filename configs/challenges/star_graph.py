"""Paths in a star, where next-token training fails (Bachmann & Nagarajan, arXiv:2403.06963): `a>b,d>e,e>f,b>c,c>g,… g-a=bc`

From left to right the first step decides everything and is the hardest to know: it needs the whole way back from the end, while every later
one needs a single look at the edges, so that training with the right beginning given teaches only that. The prediction is 1/arms for an
autoregressive model and near 1 for a masked one, which may begin at the end. Both read the question and learn the answer alone
(`data.prompt`), so their bits per byte are of the same thing; a right answer is exactly the way.

A model that looks edges up and guesses the first step stands at ln(2)/3 = 0.231 nats a token from left to right, and solves 50 %.

    python -m dlm.sweep --config=configs/challenges/star_graph.py --workdir=runs/star --parallel=2
    python -m dlm.report runs/star --into=configs/challenges/star_graph.py

    === results of configs/challenges/star_graph.py ===
    === end of results ===
"""

from ml_collections import ConfigDict

from dlm.run.spec import choices
from dlm.sweeps.grid import chain, point

ARMS, LENGTH, NAMES = 2, 3, 8


def get_config(arg=None):
    choices(arg)
    task = dict(name="tasks.star_graph", arms=ARMS, length=LENGTH, names=NAMES)
    prompt, answer = 4 * ARMS * LENGTH - 1 + len(" e-a="), LENGTH  # tokens, with the eos
    return ConfigDict(
        dict(
            seed=0,
            steps=3000,
            text=dict(name="text.bytes"),
            data=dict(source=dict(name="data.problems", task=task, count=100_000), batch=128, length=prompt + answer, prompt="="),
            nn=dict(
                layers=3,
                width=64,
                attention=dict(heads=4, kv_heads=4, head_size=16, bias="qkv", rope=dict(base=100.0)),
                ffn=dict(kind="relu2", width=256),
                compute=dict(unroll=3),
            ),
            objective=dict(name="objectives.masked", pattern="count"),
            optim=dict(kind="muon", muon_lr=0.02, lr=3e-3, schedule="linear", warmup=100),
            sampler=dict(rule=dict(name="samplers.confident", confidence="margin"), steps=answer, temperature=0.0),
            evals=dict(bound=dict(samples=4, windows=128), tasks=dict(task=task, num=200)),
            every=dict(log=50, save=1000),
        )
    )


def sweep():
    ar = {"objective": "objectives.ar", "sampler": dict(rule="ancestral", steps=1, block=1)}
    return chain(point("masked", {}), point("ar", ar))

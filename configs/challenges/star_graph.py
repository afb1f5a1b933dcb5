"""Paths in a star, where next-token training fails (Bachmann & Nagarajan, arXiv:2403.06963): `a>b,c>d,a>c,b>e,… a-e=a>b>e`

From left to right the first step decides everything and is the hardest to know: it needs the whole way back from the end, while every later
one needs a single look at the edges, so that training with the right beginning given teaches only that. The prediction is 1/arms for an
autoregressive model and near 1 for a masked one, which may begin at the end. Both read the question and learn the answer alone
(`data.prompt`), so their bits per byte are of the same thing; a right answer is exactly the way.

What was seen (below): not that. After 6,000 updates of 32 both solve 13 %, less than the 1/2 of a guess at the first step, and both are
still learning: neither looks up the later edges yet. This says nothing of either claim; it takes longer training, or an easier alphabet.

A model that knows which names occur and looks nothing up needs ln(5 · 4)/8 = 0.374 nats a token and solves 5 %, one that looks edges up and
guesses the first step ln(2)/8 = 0.087 and 50 %. At the end of the runs below ar is at 0.316 and masked at 0.422 (a bound).

With 8 names instead of 52 and batches of 128 (training losses, one seed each, not run to their ends) the autoregressive half of the claim
shows: ar stands at 0.33 until update 500, is at 0.11 by 700 and at 0.100 by 900, so it looks edges up and is left with its guess. The
masked one, whose bound can go to 0, does not get that far: with `objective.pattern=count` it is at 0.34 after 1,000 updates and at 0.327
after 2,500; with `nn.attention.rope.base=100` and 2 heads of 32 at 0.33 after 1,000, and there still after 1,900. Four or five layers, four
heads of 32, 1.5 times the learning rate, weights="flat" or no norm of queries and keys did no better in 500 to 1,700 updates. Begun
from ar's weights (`start`, objectives.adapted) it is at 0.145 after 150 updates, 0.106 after 1,000 and 0.100 after 1,700: it goes on to
look forward along the edges and has not learned to look back from the end. Why the backward look is so much harder to find than the
forward one is open. Commit d7ff83a, 2 cores of an AMD EPYC, Python 3.11.7, seed 0; ar likewise with `--config.objective=objectives.ar`:

    python -m dlm.train --config=configs/challenges/star_graph.py --workdir=runs/star8 --config.data.source.task.names=8 \\
        --config.evals.tasks.task.names=8 --config.data.batch=128 --config.steps=4000 --config.objective.pattern=count

The runs below:

    python -m dlm.sweep --config=configs/challenges/star_graph.py --workdir=runs/star --parallel=2
    python -m dlm.report runs/star --into=configs/challenges/star_graph.py

    === results of configs/challenges/star_graph.py, config 6f915c9436fa, commit 987c42c, 1 × Intel(R) Xeon(R) Processor, Python 3.11.7, seeds 0 ===
    model    claim   held-out bits/byte   stargraph accuracy   seeds   tokens/s   parameters
    ────────────────────────────────────────────────────────────────────────────────────────
    ar       exact   0.521                0.130 ± 0.047            1        917      213,792
    masked   bound   0.696 ± 0.083        0.125 ± 0.046            1        905      213,792
    === end of results ===
"""

from ml_collections import ConfigDict

from dlm.run.spec import choices
from dlm.sweeps.grid import chain, point

ARMS, LENGTH = 2, 3


def get_config(arg=None):
    choices(arg)
    task = dict(name="tasks.star_graph", arms=ARMS, length=LENGTH)
    prompt, answer = 4 * ARMS * LENGTH - 1 + len(" a-b="), 2 * LENGTH + 2  # tokens, with the eos
    return ConfigDict(
        dict(
            seed=0,
            steps=6000,
            text=dict(name="text.bytes"),
            data=dict(source=dict(name="data.problems", task=task, count=100_000), batch=32, length=prompt + answer, prompt="="),
            nn=dict(layers=3, width=64, attention=dict(heads=4, kv_heads=4, head_size=16), ffn=dict(width=256)),
            objective=dict(name="objectives.masked"),
            optim=dict(kind="muon", muon_lr=0.02, lr=3e-3, schedule="linear", warmup=100),
            sampler=dict(rule=dict(name="samplers.confident", confidence="margin"), steps=answer, temperature=0.0),
            evals=dict(bound=dict(samples=4, windows=128), tasks=dict(task=task, num=200)),
            every=dict(log=50, save=1000),
        )
    )


def sweep():
    ar = {"objective": "objectives.ar", "sampler": dict(rule="ancestral", steps=1, block=1)}
    return chain(point("masked", {}), point("ar", ar))

"""Gradient sparsity: how times and masks are drawn, and how losses are weighed, at equal forward passes.

A masked model learns from its masked positions alone, and weights of 1/t make a rare mask count for much. What scatters is measured by

    python -m dlm.bench variance --workdir=runs/gradient_sparsity/plain-seed=0

(one batch and one set of parameters, only the noise drawn anew), and what it is worth by training: the plain way (independent times,
Bernoulli masks), then one choice after the other. A complementary pair takes two passes and has half the batch. The held-out bound has the
same 8 draws per window for all.

    python -m dlm.sweep --config=configs/challenges/gradient_sparsity.py --workdir=runs/gradient_sparsity --parallel=2
    python -m dlm.report runs/gradient_sparsity --into=configs/challenges/gradient_sparsity.py

What was seen: a fixed count takes away 95 % of the loss's variance, and hardly any of the gradient's; at this size and budget no way to draw
differs from the plain one beyond the noise of three seeds, as long as the weights are the bound's (below). Weights by context have the
quietest gradient and are 0.04 bits/byte ahead, about the width of the intervals, though they train no bound; flat weights and pairs are
level or slightly behind. The exact factors of an L = 64 Markov chain (9 times less variance) are not found again.

`bench variance` on the run plain-seed=0 of this recipe, --draws=48, commit dad9510, 2 cores of an AVX-512 Xeon, multiples of the plain way's
variance at equal passes, and gradient noise over signal (48 draws of heavy tails: good to a quarter or so):

    times       pattern    coupling       weights     loss  gradient   noise
    iid         bernoulli  single         bound       1.00      1.00    1.88
    stratified  bernoulli  single         bound       1.40      1.46    2.48
    antithetic  bernoulli  single         bound       1.06      1.51    2.44
    importance  bernoulli  single         bound       1.77      1.42    2.40
    iid         count      single         bound       0.04      1.16    2.06
    stratified  count      single         bound       0.07      1.05    2.10
    iid         bernoulli  complementary  bound       0.84      0.80    1.78
    stratified  bernoulli  complementary  bound       1.57      1.87    2.71
    iid         count      complementary  bound       0.04      0.99    1.95
    stratified  count      complementary  bound       0.04      1.36    2.27
    antithetic  count      complementary  bound       0.04      1.21    2.16
    importance  count      complementary  bound       0.05      1.09    2.07
    iid         bernoulli  single         flat        1.68      0.40    2.09
    iid         bernoulli  single         context     0.10      0.01    1.42
    stratified  count      complementary  flat        0.25      0.68    2.72
    stratified  count      complementary  context     0.02      0.01    1.25

size=tiny   400 updates of 8 × 128 tokens, 3 seeds, about 20 minutes of a laptop for all
size=small  10,000 updates of 32 × 256 tokens

    === results of configs/challenges/gradient_sparsity.py, config 21224118ba16, commit 7fb9fc8, 1 × Intel(R) Xeon(R) Processor, Python 3.11.7, seeds 0 1 2 ===
    model                                                                         claim   held-out bits/byte   seeds   tokens/s   parameters
    ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
    masked, coupling=single, pattern=count, times=iid, weights=context            bound   3.126 ± 0.029            3      7,281      262,784
    masked, coupling=single, pattern=count, times=iid, weights=bound              bound   3.160 ± 0.017            3      8,124      262,784
    masked, coupling=single, pattern=count, times=iid, weights=flat               bound   3.170 ± 0.030            3      6,574      262,784
    masked, coupling=single, pattern=count, times=importance, weights=bound       bound   3.155 ± 0.018            3      8,324      262,784
    masked, coupling=complementary, pattern=count, times=iid, weights=bound       bound   3.185 ± 0.035            3      3,598      262,784
    masked, coupling=single, pattern=bernoulli, times=iid, weights=bound          bound   3.163 ± 0.022            3      7,397      262,784
    masked, coupling=single, pattern=bernoulli, times=stratified, weights=bound   bound   3.152 ± 0.026            3      6,674      262,784
    ± is half of the 95 % interval over the seeds (Student's t); the noise of evaluation and the problems, which they share, are not in it.
    === end of results ===
"""

from ml_collections import ConfigDict

from dlm.core.config import choices
from dlm.sweeps.grid import chain, point, repeat

TRAINING = {
    "tiny": dict(steps=400, batch=8, length=128, vocabulary=1024, width=64, layers=3),
    "small": dict(
        steps=10_000, batch=32, length=256, vocabulary=8192, width=512, layers=8
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
            text=dict(name="text.bpe", size=t["vocabulary"]),
            data=dict(
                source=dict(name="data.embedded", held_out=0.05),
                batch=t["batch"],
                length=t["length"],
            ),
            nn=dict(
                layers=t["layers"],
                width=t["width"],
                attention=dict(heads=heads, kv_heads=heads, head_size=32),
                ffn=dict(width=4 * t["width"]),
            ),
            objective=dict(name="objectives.masked", times="iid"),
            optim=dict(
                kind="muon",
                muon_lr=0.02,
                lr=3e-3,
                schedule="linear",
                warmup=t["steps"] // 10,
            ),
            sampler=dict(rule="ancestral", steps=64),
            evals=dict(bound=dict(samples=8, windows=256)),
            intervals=dict(log=20, save=0),
        )
    )


def sweep(arg=None):
    half = {"data.batch": training(arg)["batch"] // 2}
    arms = chain(
        point("plain", {}),
        point("stratified", {"objective.times": "stratified"}),
        point("count", {"objective.pattern": "count"}),
        point(
            "importance",
            {"objective.times": "importance", "objective.pattern": "count"},
        ),
        point(
            "pair",
            {
                "objective.coupling": "complementary",
                "objective.pattern": "count",
                **half,
            },
        ),
        point("flat", {"objective.weights": "flat", "objective.pattern": "count"}),
        point(
            "context", {"objective.weights": "context", "objective.pattern": "count"}
        ),
    )
    return repeat(arms, seeds=3)

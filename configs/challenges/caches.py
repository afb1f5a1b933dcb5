"""Caches of a network that sees the whole canvas: how far an approximate one strays from none, and what it saves.

Its keys and values depend on every token, so those that are kept grow old. Fast-dLLM (arXiv:2505.22618) keeps all but the block, or what
precedes it, from one block to the next; dKV-Cache (arXiv:2505.15781) keeps each token from the pass after it was revealed on. What is compared
below differs in nothing but the cache: surest first, after the first quarter of a held-out text.

    python -m dlm.train --config=configs/challenges/caches.py --workdir=runs/caches
    python -m dlm.bench caches --workdir=runs/caches --blocks=16,32,64 --refresh=0,4 --repeats=1

What was seen (below), on this recipe's run (2.888 ± 0.012 bits/byte, a bound): at temperature 0 at least 92 % of the tokens are those without
a cache, and the first that differs comes after 80 % of a sample or more. A dual or delayed cache that reads the whole canvas once for each
block takes a fifth to a third of the time; reading it again in every fourth pass costs a tenth to a fifth of it more, and hardly changes what
is written. The prefix cache, which reads everything behind the prefix in each pass, agrees little better and saves less.
This is a weak model: its likeliest text is monotonous, and what it writes hangs less on the context than a good one's would.

    8 samples of 256 tokens, 96 passes      the same tokens, %                 seconds, none = 1
    (refresh 0: once for each block)    of all   up to the first other
    ──────────────────────────────────────────────────────────────────────────────────────────
    block 16   prefix    refresh 0       92.2            82.7                        0.65
                         refresh 4       93.0            82.2                        0.75
               dual      refresh 0       93.8            79.8                        0.28
                         refresh 4       93.0            79.5                        0.37
               delayed   refresh 0       93.8            79.8                        0.26
                         refresh 4       93.0            79.5                        0.41
    block 32   prefix    refresh 0       96.0            88.0                        0.57
                         refresh 4      100.0           100.0                        0.73
               dual      refresh 0       95.7            88.0                        0.25
                         refresh 4       98.0            90.9                        0.46
               delayed   refresh 0       96.2            87.7                        0.22
                         refresh 4       98.0            90.9                        0.44
    block 64   prefix    refresh 0       96.2            89.3                        0.73
                         refresh 4       97.1            89.6                        0.56
               dual      refresh 0       96.1            89.5                        0.33
                         refresh 4       96.5            87.7                        0.48
               delayed   refresh 0       95.8            87.8                        0.20
                         refresh 4       96.7            87.7                        0.42

    (commit d1fb342, 2 cores of an AVX-512 Xeon shared with others, Python 3.11.7, seed 0; one round beside another job: the seconds are uneven
    by a quarter)

At temperature 1 the random numbers are the same with every cache, but one token that differs changes all that is drawn later: on the masked
run of configs/quickstart.py (2.67 bits/byte, commit 774b71c) 10 to 20 % of the tokens were the same, and a whole reading in every fourth pass
helped in blocks of 32 (20 instead of 10 %) and hardly in those of 16.

size=tiny   600 updates of 8 × 256 tokens, about 10 minutes of an idle laptop
size=small  10,000 updates of 32 × 512 tokens
"""

from ml_collections import ConfigDict

from dlm.core.config import choices

TRAINING = {
    "tiny": dict(steps=600, batch=8, length=256, vocabulary=1024, width=128, layers=4),
    "small": dict(
        steps=10_000, batch=32, length=512, vocabulary=8192, width=512, layers=8
    ),
}


def get_config(arg=None):
    t = TRAINING[choices(arg, size=tuple(TRAINING)).size]
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
                ffn=dict(kind="relu2", width=4 * t["width"]),
            ),
            objective=dict(name="objectives.masked", pattern="count"),
            optim=dict(
                kind="muon",
                muon_lr=0.02,
                lr=3e-3,
                schedule="linear",
                warmup=t["steps"] // 10,
            ),
            sampler=dict(rule="confident", steps=16, block=32),
            evals=dict(bound=dict(samples=4, windows=64)),
            intervals=dict(log=20, save=0),
        )
    )

"""Caches of a network that sees the whole canvas: how far an approximate one strays from none, and what it saves.

Its keys and values depend on every token, so those that are kept grow old. Fast-dLLM (arXiv:2505.22618) keeps all but the block, or what
precedes it, from one block to the next; dKV-Cache (arXiv:2505.15781) keeps each token from the pass after it was revealed on. What is compared
below differs in nothing but the cache: surest first, after the first quarter of a held-out text.

    python -m dlm.train --config=configs/challenges/caches.py --workdir=runs/caches
    python -m dlm.bench caches --workdir=runs/caches --blocks=16,32,64 --refresh=0,8,4,2

What was seen (below), not on this recipe's run but on the masked one of configs/quickstart.py, after 360 updates (2.67 bits/byte): every
cache saves time, the more the longer the block is, as the canvas is read less often. What caches change cannot be judged by so weak a
model. At temperature 0 it writes one comma after another, with a cache as without, and all tokens agree. At temperature 1, with the same
random numbers, one token that differs changes all that is drawn later, and 10 to 20 % of the tokens are the same; a whole reading in every
fourth pass helps in blocks of 32 and hardly in those of 16. This recipe's own run was stopped after 174 of its 600 updates, for want of
time, and has not been measured.

    python -m dlm.bench caches --workdir=runs/quickstart/masked --blocks=16,32 --refresh=0,4 --repeats=1 [--temperature=1]

    8 samples of 128 tokens, 48 passes     temperature 1: the same tokens, %    seconds, none = 1, of one round
    (refresh 0: once for each block)           of all   up to the first other   temperature 1        0
    ───────────────────────────────────────────────────────────────────────────────────────────────────
    block 16   prefix    refresh 0              16.1              3.5                   0.76      0.62
                         refresh 4              16.1              4.2                   0.92      0.68
               dual      refresh 0              13.5              3.5                   0.59      0.39
                         refresh 4              15.5              3.4                   0.58      0.52
               delayed   refresh 0              13.9              3.5                   0.48      0.41
                         refresh 4              15.2              3.4                   0.50      0.46
    block 32   prefix    refresh 0              10.3              1.2                   0.70      0.61
                         refresh 4              20.4             13.5                   0.78      0.50
               dual      refresh 0              10.4              1.2                   0.44      0.28
                         refresh 4              20.4             13.4                   0.56      0.37
               delayed   refresh 0              10.4              1.3                   0.40      0.25
                         refresh 4              16.5              5.6                   0.49      0.41

    (commit 774b71c, 2 cores of an AVX-512 Xeon shared with others, Python 3.11.7; the two columns of seconds tell how uneven one round is)

size=tiny   600 updates of 8 × 256 tokens, about 10 minutes of an idle laptop; not run to its end
size=small  10,000 updates of 32 × 512 tokens
"""

from ml_collections import ConfigDict

from dlm.run.spec import choices

TRAINING = {
    "tiny": dict(steps=600, batch=8, length=256, vocabulary=1024, width=128, layers=4),
    "small": dict(steps=10_000, batch=32, length=512, vocabulary=8192, width=512, layers=8),
}


def get_config(arg=None):
    t = TRAINING[choices(arg, size=tuple(TRAINING)).size]
    heads = t["width"] // 32
    return ConfigDict(
        dict(
            seed=0,
            steps=t["steps"],
            text=dict(name="text.bpe", size=t["vocabulary"]),
            data=dict(source=dict(name="data.embedded", held_out=0.05), batch=t["batch"], length=t["length"]),
            nn=dict(
                layers=t["layers"],
                width=t["width"],
                attention=dict(heads=heads, kv_heads=heads, head_size=32),
                ffn=dict(kind="relu2", width=4 * t["width"]),
            ),
            objective=dict(name="objectives.masked", pattern="count"),
            optim=dict(kind="muon", muon_lr=0.02, lr=3e-3, schedule="linear", warmup=t["steps"] // 10),
            sampler=dict(rule="confident", steps=16, block=32),
            evals=dict(bound=dict(samples=4, windows=64)),
            every=dict(log=20, save=0),
        )
    )

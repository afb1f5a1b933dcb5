"""Caches of a network that sees the whole canvas: how far an approximate one strays from none, and what it saves.

Its keys and values depend on every token, so those that are kept grow old. Fast-dLLM (arXiv:2505.22618) keeps all but the block, or what
precedes it, from one block to the next; dKV-Cache (arXiv:2505.15781) keeps each token from the pass after it was revealed on. What is compared
below differs in nothing but the cache: temperature 0, surest first, after the first quarter of a held-out text.

    python -m dlm.train --config=configs/challenges/caches.py --workdir=runs/caches
    python -m dlm.bench caches --workdir=runs/caches --blocks=16,32,64 --refresh=0,8,4,2

size=tiny   600 updates of 8 × 256 tokens, about 10 minutes of a laptop
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

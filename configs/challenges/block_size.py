"""Block size: from autoregression (1) over blocks of 4, 16 and 64 to masked diffusion (128, the whole window), at equal updates.

BD3-LM (arXiv:2503.09573) finds that perplexity falls with the size of a block. Here every model has the same backbone, tokenizer, data order
and number of updates; `count` draws a fixed number of masks per block, so that blocks of 1 have autoregression's likelihood exactly, and
`masked` and `ar` are the two ends trained by their own objectives.

What was seen (below): bits/byte rise with every step in block size, as in the paper, most of it from 1 to 4; blocks of 128 and `masked` agree.
Blocks of one have AR's likelihood, yet lie 0.11 behind AR after as many updates, within the noise of three seeds: each asks from a mask
what AR reads off the token before. Two streams cost about half of the speed.

size=tiny   400 updates of 8 × 128 tokens, 3 seeds, half an hour of a laptop for all
size=small  10,000 updates of 32 × 256 tokens

    python -m dlm.sweep --config=configs/challenges/block_size.py --workdir=runs/block_size --parallel=2
    python -m dlm.report runs/block_size --into=configs/challenges/block_size.py

    === results of configs/challenges/block_size.py, config 8c29a59ded48, commit 9151099, 1 × Intel(R) Xeon(R) Processor, Python 3.11.7, seeds 0 1 2 ===
    model             claim   held-out bits/byte   seeds   tokens/s   parameters
    ────────────────────────────────────────────────────────────────────────────
    ar                exact   2.511 ± 0.124            3      9,068      262,784
    block, size=1     exact   2.622 ± 0.093            3      3,767      262,784
    block, size=4     bound   3.001 ± 0.004            3      3,062      262,784
    block, size=16    bound   3.089 ± 0.007            3      2,630      262,784
    block, size=64    bound   3.144 ± 0.023            3      2,388      262,784
    block, size=128   bound   3.161 ± 0.037            3      2,540      262,784
    masked            bound   3.162 ± 0.018            3      6,113      262,784
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
                ffn=dict(width=4 * t["width"]),
            ),
            objective=dict(name="objectives.masked", pattern="count"),
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


def sweep():
    ar = point(
        "ar", {"objective": "objectives.ar", "sampler.steps": 1, "sampler.block": 1}
    )
    blocks = [
        point(
            f"block={n}",
            {
                "objective": dict(name="objectives.block", pattern="count", size=n),
                "sampler.steps": min(n, 64),
            },
        )
        for n in (1, 4, 16, 64, 128)
    ]
    return repeat(chain(ar, *blocks, point("masked", {})), seeds=3)

"""MoGE against top-K, expert choice and dense layers: at equal active and at equal total parameters, for masked diffusion and for AR.

moge      16 experts in 4 groups, one of each group for each token (arXiv:2505.21411)
topk      the 4 best of 16, nothing dropped (arXiv:1701.06538)
capacity  the same with room for 1.25 × an even load, what is over is dropped (arXiv:2006.16668)
choice    each expert takes its tokens of each row (arXiv:2202.09368); masked diffusion only, it looks ahead
active    a dense layer as wide as 4 experts;   total  one as wide as all 16

All experts' routers have a learned scale and the balance loss with α = 0.01. `router_imbalance` is (busiest − idlest device) in multiples of an
even load when each of 4 devices holds 4 experts, in the batches of the evaluation; its course over training is in the report's page.

What was seen (tiny): in bits/byte nothing tells them apart. The same seeds side by side, minus moge's: masked topk 0.000 ± 0.043 (half of
the 95 % interval, paired), capacity +0.006 ± 0.043, choice −0.008 ± 0.060, active −0.009 ± 0.060, total −0.005 ± 0.017; ar topk
+0.006 ± 0.039, capacity −0.010 ± 0.039, active +0.027 ± 0.116, total −0.002 ± 0.108. After 400 updates even a dense layer four times as wide has nothing to show for
it, so this says what MoGE costs (nothing that could be seen), not what experts are worth.

Where loads go they differ, and masked diffusion is the harder case: masks are one and the same token, and go where it goes. Means of 3 seeds
in training, of the 20 updates before:

    update                              20     100    200    300    400      busiest expert at 400
    ────────────────────────────────────────────────────────────────────────────────────────────────
    moge      imbalance, masked         0      0      0      0      0        1.98 × an even load
                         ar             0      0      0      0      0        1.42
    topk      imbalance, masked         1.10   0.85   0.67   0.57   0.51     1.92
                         ar             0.53   0.43   0.27   0.26   0.23     1.41
    capacity  imbalance, masked         1.06   0.81   0.70   0.54   0.43     1.90
                         ar             0.52   0.49   0.29   0.22   0.24     1.37
              dropped, masked           32 %   23 %   20 %   13 %   9 %
                       ar               11 %   8 %    3 %    1 %    1 %
    choice    never picked, masked      1.3 %  2.5 %  1.6 %  2.1 %  1.7 %    1.00

In the table `count`, `width` and `capacity` are those of the experts: count=16 with bias and without a capacity is moge, with capacity=0 topk,
without bias choice; count=0 is dense, width=256 active and 1,024 total.

size=tiny   400 updates of 8 × 128 tokens, 3 seeds; 40 minutes of two cores
size=small  10,000 updates of 32 × 256 tokens, 64 experts in 8 groups

    python -m dlm.sweep --config=configs/challenges/moge.py --workdir=runs/moge --parallel=2
    python -m dlm.report runs/moge --into=configs/challenges/moge.py

    === results of configs/challenges/moge.py, config 0e9f69e2f2eb, commit d7ff83a, 1 × AMD EPYC, Python 3.11.7, seeds 0 1 2 ===
    model                                                   claim   held-out bits/byte   seeds   tokens/s   parameters
    ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────
    ar, count=0, width=256, bias=0.0                        exact   2.511 ± 0.124            3     10,660      262,784
    ar, count=16, width=256, bias=0.0, capacity=1.25        exact   2.474 ± 0.041            3      8,499      708,272
    ar, count=16, width=256, bias=0.0                       exact   2.484 ± 0.078            3      8,354      708,272
    ar, count=16, width=256, bias=0.0, capacity=0.0         exact   2.490 ± 0.050            3      8,584      708,272
    ar, count=0, width=1024, bias=0.0                       exact   2.482 ± 0.033            3      3,860      705,152
    masked, count=0, width=256, bias=0.0                    bound   3.162 ± 0.018            3      9,756      262,784
    masked, count=16, width=256, bias=0.0, capacity=1.25    bound   3.177 ± 0.020            3      7,102      708,272
    masked, count=16, width=256                             bound   3.162 ± 0.024            3      8,975      708,272
    masked, count=16, width=256, bias=0.0                   bound   3.170 ± 0.050            3      7,626      708,272
    masked, count=16, width=256, bias=0.0, capacity=0.0     bound   3.170 ± 0.024            3      5,812      708,272
    masked, count=0, width=1024, bias=0.0                   bound   3.165 ± 0.037            3      3,790      705,152
    ± is half of the 95 % interval over the seeds (Student's t); the noise of evaluation and the problems, which they share, are not in it.
    === end of results ===
"""

from ml_collections import ConfigDict

from dlm.core.config import choices
from dlm.sweeps.grid import chain, point, product, repeat

TRAINING = {
    "tiny": dict(
        steps=400,
        batch=8,
        length=128,
        vocabulary=1024,
        width=64,
        layers=3,
        experts=16,
        active=4,
    ),
    "small": dict(
        steps=10_000,
        batch=32,
        length=256,
        vocabulary=8192,
        width=512,
        layers=8,
        experts=64,
        active=8,
    ),
}


def training(arg):
    return TRAINING[choices(arg, size=tuple(TRAINING)).size]


def get_config(arg=None):
    t = training(arg)
    heads, each = t["width"] // 32, 4 * t["width"] // t["active"]
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
                ffn=dict(kind="swiglu", width=4 * t["width"]),
                experts=dict(
                    count=t["experts"],
                    per_token=t["active"],
                    width=each,
                    router=router("moge", groups=t["active"]),
                ),
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


def router(name, **fields):
    return dict(name=f"nn.routers.{name}", balance=dict(weight=0.01), **fields)


def sweep(arg=None):
    t = training(arg)
    told = {"evals.routing.devices": t["active"]}
    experts = [
        point("moge", told),
        point("topk", told | {"nn.experts.router": router("topk")}),
        point("capacity", told | {"nn.experts.router": router("topk", capacity=1.25)}),
    ]
    choice = point(
        "choice", told | {"nn.experts.router": dict(name="nn.routers.choice")}
    )
    dense = (
        point("active", {"nn.experts.count": 0}),
        point(
            "total",
            {
                "nn.experts.count": 0,
                "nn.ffn.width": 4 * t["width"] * t["experts"] // t["active"],
            },
        ),
    )
    ar = point(
        "ar", {"objective": "objectives.ar", "sampler.steps": 1, "sampler.block": 1}
    )
    both = chain(*experts, *dense)
    return repeat(
        chain(product(point("masked", {}), chain(both, choice)), product(ar, both)),
        seeds=3,
    )

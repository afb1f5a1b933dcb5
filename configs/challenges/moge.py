"""MoGE against top-K, expert choice and dense layers: at equal active and at equal total parameters, for masked diffusion and for AR.

moge      16 experts in 4 groups, one of each group for each token (arXiv:2505.21411)
topk      the 4 best of 16, nothing dropped (arXiv:1701.06538)
capacity  the same with room for 1.25 × an even load, what is over is dropped (arXiv:2006.16668)
choice    each expert takes its tokens of each row (arXiv:2202.09368); masked diffusion only, it looks ahead
active    a dense layer as wide as 4 experts;   total  one as wide as all 16

All experts' routers have a learned scale and the balance loss with α = 0.01. `router_imbalance` is (busiest − idlest device) in multiples of an
even load when each of 4 devices holds 4 experts, in the batches of the evaluation; its course over training is in the report's page.

size=tiny   400 updates of 8 × 128 tokens, 3 seeds
size=small  10,000 updates of 32 × 256 tokens, 64 experts in 8 groups

    python -m dlm.sweep --config=configs/challenges/moge.py --workdir=runs/moge --parallel=2
    python -m dlm.report runs/moge --into=configs/challenges/moge.py

    === results of configs/challenges/moge.py, none yet ===
    === end of results ===
"""

from ml_collections import ConfigDict

from dlm.run.spec import choices
from dlm.sweeps.grid import chain, point, product, repeat

TRAINING = {
    "tiny": dict(steps=400, batch=8, length=128, vocabulary=1024, width=64, layers=3, experts=16, active=4),
    "small": dict(steps=10_000, batch=32, length=256, vocabulary=8192, width=512, layers=8, experts=64, active=8),
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
            data=dict(source=dict(name="data.embedded", held_out=0.05), batch=t["batch"], length=t["length"]),
            nn=dict(
                layers=t["layers"],
                width=t["width"],
                attention=dict(heads=heads, kv_heads=heads, head_size=32),
                ffn=dict(kind="swiglu", width=4 * t["width"]),
                experts=dict(number=t["experts"], active=t["active"], width=each, router=router("moge", groups=t["active"])),
            ),
            objective=dict(name="objectives.masked", pattern="count"),
            optim=dict(kind="muon", muon_lr=0.02, lr=3e-3, schedule="linear", warmup=t["steps"] // 10),
            sampler=dict(rule="ancestral", steps=64),
            evals=dict(bound=dict(samples=8, windows=256)),
            every=dict(log=20, save=0),
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
    choice = point("choice", told | {"nn.experts.router": dict(name="nn.routers.choice")})
    dense = (
        point("active", {"nn.experts.number": 0}),
        point("total", {"nn.experts.number": 0, "nn.ffn.width": 4 * t["width"] * t["experts"] // t["active"]}),
    )
    ar = point("ar", {"objective": "objectives.ar", "sampler.steps": 1, "sampler.block": 1})
    both = chain(*experts, *dense)
    return repeat(chain(product(point("masked", {}), chain(both, choice)), product(ar, both)), seeds=3)

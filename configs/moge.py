"""Mixture of Grouped Experts (Pangu Pro MoE, arXiv:2505.21411) in the sizes of configs/masked.py, at equal active FLOPs.

    size    experts   active   groups   shared   expert width   parameters   active   beside masked.py's
    tiny         16        4        4        1            100         2.5M     1.3M   1.3M
    small        32        8        8        1            224        73.3M    29.2M   29.4M
    base         64        8        8        1            224       481.8M   135.0M   135.3M

Every layer has experts. What a token passes, the router included, takes 99 to 100 % of the FLOPs of the dense FFN in its place. The routed
output starts at the scale of one FFN by a learned factor for each expert. A group is what a device holds: mesh.expert divides the groups.

    objective=masked   masked diffusion (MDLM), the default         size=tiny   2,000 updates of 16 × 128, a laptop, minutes
    objective=ar       autoregression                               size=small  20,000 updates of 32 × 256, a workstation
    objective=block    block diffusion, blocks of 16 (BD3-LM)       size=base   1,000,000 updates of 512 × 1,024, accelerators

    python -m dlm.train --config=configs/moge.py:size=tiny,objective=block --workdir=runs/moge
    python -m dlm.train --config=configs/moge.py --workdir=runs/topk --config.nn.experts.router='{"name": "nn.routers.topk"}'
"""

from ml_collections import ConfigDict

from dlm.core.config import choices
from dlm.nn.presets import SIZES, VOCABULARY

TRAINING = {
    "tiny": dict(steps=2_000, batch=16, length=128, lr=3e-3, ema=0.0, microbatches=1),
    "small": dict(
        steps=20_000, batch=32, length=256, lr=1e-3, ema=0.999, microbatches=4
    ),
    "base": dict(
        steps=1_000_000, batch=512, length=1024, lr=3e-4, ema=0.9999, microbatches=1
    ),
}
EXPERTS = {
    "tiny": dict(count=16, per_token=4, width=100, shared=1, groups=4),
    "small": dict(count=32, per_token=8, width=224, shared=1, groups=8),
    "base": dict(count=64, per_token=8, width=224, shared=1, groups=8),
}
OBJECTIVES = {
    "masked": (
        dict(
            name="objectives.masked",
            process=dict(name="noise.mask", schedule="linear"),
            times="stratified",
        ),
        dict(rule="ancestral", steps=64),
    ),
    "ar": (dict(name="objectives.ar"), dict(rule="ancestral", steps=1, block=1)),
    "block": (dict(name="objectives.block", size=16), dict(rule="ancestral", steps=16)),
}


def get_config(arg=None):
    chosen = choices(
        arg,
        size=("tiny", "small", "base"),
        objective=tuple(OBJECTIVES),
        data=("embedded", "tfds:*"),
    )
    t, e = TRAINING[chosen.size], dict(EXPERTS[chosen.size])
    router = dict(
        name="nn.routers.moge", groups=e.pop("groups"), balance=dict(weight=1e-2)
    )
    objective, sampler = OBJECTIVES[chosen.objective]
    source = dict(name="data.embedded")
    if chosen.data != "embedded":
        source = dict(name="data.tfds", dataset=chosen.data.removeprefix("tfds:"))
    return ConfigDict(
        dict(
            seed=0,
            steps=t["steps"],
            text=dict(name="text.bpe", size=VOCABULARY[chosen.size]),
            data=dict(source=source, batch=t["batch"], length=t["length"]),
            nn=SIZES[chosen.size] | dict(experts=e | dict(router=router)),
            objective=objective,
            optim=dict(
                kind="adamw",
                lr=t["lr"],
                schedule="cosine",
                ema=t["ema"],
                microbatches=t["microbatches"],
            ),
            mesh=dict(data=0, fsdp=1, tensor=1, expert=1),
            sampler=sampler,
            evals=dict(bound=dict(samples=4, windows=256), routing=dict(windows=64)),
            intervals=dict(log=20, eval=1000, save=1000, keep=2),
        )
    )

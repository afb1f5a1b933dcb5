"""Pangu Pro MoE (arXiv:2505.21411): 72 billion parameters, 16.5 of them active, experts in 8 groups of 8.

    vocabulary   layers   width   heads × size   kv   experts   active   groups   expert width   shared   parameters   active
       153,376       48   5,120       40 × 128    8        64        8        8          1,344   4 as one     71.99B   16.50B

    python -m dlm.train --config=configs/pangu_pro.py --dry_run        # these counts, on any machine: nothing is allocated

From the paper: the sizes and the router. From the released code: the learned factor of each expert, the rotary base, the weight of the
balance loss. Ours: no biases, the batch, the learning rate, and an embedded corpus, which a tokenizer of 153,376 ids is far too large for;
`text.path` takes a published one, `data=tfds:NAME` real text. A tokenizer that is learned has its size before it has read anything, so
--dry_run learns none.

The paper trains at TP8 EP2 CP1 PP5 VPP5 (8 groups on 2 devices: each holds 4). Tensor and expert parallelism are as there. There is no
pipeline here: fsdp=8 shards what the 5 stages would, and 128 devices hold one replica, about 8 GB of parameters and moments each.
`objective=masked|block` makes a diffusion model of the same network.
"""

from ml_collections import ConfigDict

from dlm.core.config import choices

OBJECTIVES = {
    "ar": (dict(name="objectives.ar"), dict(rule="ancestral", steps=1, block=1)),
    "masked": (dict(name="objectives.masked"), dict(rule="ancestral", steps=64)),
    "block": (dict(name="objectives.block", size=32), dict(rule="ancestral", steps=32)),
}


def get_config(arg=None):
    chosen = choices(arg, objective=tuple(OBJECTIVES), data=("embedded", "tfds:*"))
    objective, sampler = OBJECTIVES[chosen.objective]
    source = dict(name="data.embedded")
    if chosen.data != "embedded":
        source = dict(name="data.tfds", dataset=chosen.data.removeprefix("tfds:"))
    router = dict(
        name="nn.routers.moge",
        groups=8,
        score="softmax",
        weights="plain",
        scale="learned",
        balance=dict(weight=1e-3),
    )
    return ConfigDict(
        dict(
            seed=0,
            steps=100_000,
            text=dict(name="text.bpe", size=153_376),
            data=dict(source=source, batch=1024, length=4096),
            nn=dict(
                layers=48,
                width=5120,
                attention=dict(
                    heads=40,
                    kv_heads=8,
                    head_size=128,
                    qk_norm="none",
                    rope=dict(base=16e6),
                ),
                ffn=dict(kind="swiglu"),
                experts=dict(
                    count=64, per_token=8, width=1344, shared=4, router=router
                ),
                embeddings="untied",
                compute=dict(dtype="bfloat16", remat="block"),
            ),
            objective=objective,
            optim=dict(
                kind="adamw", lr=3e-4, schedule="cosine", warmup=2000, microbatches=8
            ),
            mesh=dict(data=0, fsdp=8, tensor=8, expert=2),
            sampler=sampler,
            evals=dict(bound=dict(samples=4, windows=256), routing=dict(windows=64)),
            intervals=dict(log=20, eval=1000, save=1000, keep=2),
        )
    )

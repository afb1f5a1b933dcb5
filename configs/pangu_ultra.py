"""Pangu Ultra MoE (arXiv:2505.04519): 718 billion parameters, 39 of them active, latent attention, sandwich norm, one layer ahead.

    vocabulary   layers          width   heads   latent (nn.config.Latent)                        experts   active   expert width   shared
       153,600   61, 3 dense     7,680     128   q 1,536, kv 512, nope 128, rope 64, value 128        256        8          2,048        1

                                                                parameters   active
    without the layer ahead and with one embedding (published)      717.9B    39.2B
    whole                                                           731.5B    41.1B

    python -m dlm.train --config=configs/pangu_ultra.py --dry_run                     # the second line, on any machine
    python -m dlm.train --config=configs/pangu_ultra.py:count=published --dry_run     # the first

The dense layers' FFN has a width of 18,432. From the paper and the released configuration: the sizes, the balance loss over the tokens of an
expert-parallel group and its weight. Ours: the router's form (sigmoid scores, those picked made to sum to a learned factor of each expert,
which starts at 1), the rotary base, the weight 0.3 of the layer ahead (DeepSeek-V3's), the batch, the learning rate, the corpus.

The paper trains at TP8 PP16 VPP2 EP4. Tensor and expert parallelism are as there; there is no pipeline here, and fsdp=16 shards what its
stages would: 512 devices hold one replica, about 18 GB of parameters and moments each.
"""

from ml_collections import ConfigDict

from dlm.core.config import choices


def get_config(arg=None):
    chosen = choices(arg, count=("whole", "published"), data=("embedded", "tfds:*"))
    whole = chosen.count == "whole"
    source = dict(name="data.embedded")
    if chosen.data != "embedded":
        source = dict(name="data.tfds", dataset=chosen.data.removeprefix("tfds:"))
    balance = dict(weight=1e-2, pool="expert")
    router = dict(
        name="nn.routers.topk",
        score="sigmoid",
        weights="renormalised",
        scale="learned",
        balance=balance,
    )
    return ConfigDict(
        dict(
            seed=0,
            steps=100_000,
            text=dict(name="text.bpe", size=153_600),
            data=dict(source=source, batch=2048, length=4096),
            nn=dict(
                layers=61,
                width=7680,
                attention=dict(
                    heads=128,
                    latent=dict(q_rank=1536, kv_rank=512, nope=128, rope=64, value=128),
                ),
                ffn=dict(kind="swiglu", width=18_432),
                experts=dict(
                    count=256,
                    per_token=8,
                    width=2048,
                    shared=1,
                    first_dense=3,
                    router=router,
                ),
                norm=dict(kind="sandwich"),
                embeddings="untied" if whole else "tied",
                mtp_layers=1 if whole else 0,
                compute=dict(dtype="bfloat16", remat="block"),
            ),
            objective=dict(name="objectives.ar", mtp_weight=0.3 if whole else 0.0),
            optim=dict(
                kind="adamw", lr=2e-4, schedule="cosine", warmup=2000, microbatches=16
            ),
            mesh=dict(data=0, fsdp=16, tensor=8, expert=4),
            sampler=dict(rule="ancestral", steps=1, block=1),
            evals=dict(bound=dict(samples=4, windows=256), routing=dict(windows=64)),
            intervals=dict(log=20, eval=1000, save=1000, keep=2),
        )
    )

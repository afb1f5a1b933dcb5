"""Masked diffusion (MDLM, arXiv:2406.07524; MD4, 2406.04329): every token is either kept or a mask.

    size    updates    batch × length   learning rate   meant for
    tiny      2,000        16 ×   128   3e-3            a laptop, minutes
    small    20,000        32 ×   256   1e-3            a workstation, hours
    base  1,000,000       512 × 1,024   3e-4            accelerators, as in MDLM (arXiv:2406.07524, appendix)
    1b      100,000     1,024 × 2,048   3e-4            many accelerators

Backbones and their parameter counts: dlm/nn/sizes.py. Data: what every Python installation carries, or `data=tfds:NAME`, a data
set prepared for tensorflow-datasets; local files by override:

    python -m dlm.train --config=configs/masked.py:size=small --workdir=runs/mine \\
        --config.data.source.name=data.local --config.data.source.paths='("corpus/**/*.txt",)'
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
    "1b": dict(
        steps=100_000, batch=1024, length=2048, lr=3e-4, ema=0.9999, microbatches=8
    ),
}


def get_config(arg=None):
    chosen = choices(
        arg, size=("tiny", "small", "base", "1b"), data=("embedded", "tfds:*")
    )
    t = TRAINING[chosen.size]
    source = dict(name="data.embedded")
    if chosen.data != "embedded":
        source = dict(name="data.tfds", dataset=chosen.data.removeprefix("tfds:"))
    return ConfigDict(
        dict(
            seed=0,
            steps=t["steps"],
            text=dict(name="text.bpe", size=VOCABULARY[chosen.size]),
            data=dict(source=source, batch=t["batch"], length=t["length"]),
            nn=SIZES[chosen.size],
            objective=dict(
                name="objectives.masked",
                process=dict(name="noise.mask", schedule="linear"),
                times="stratified",
            ),
            optim=dict(
                kind="adamw",
                lr=t["lr"],
                schedule="cosine",
                ema=t["ema"],
                microbatches=t["microbatches"],
            ),
            mesh=dict(data=0, fsdp=1, tensor=1),
            sampler=dict(rule="ancestral", steps=64, temperature=1.0, top_p=1.0),
            evals=dict(bound=dict(samples=4, windows=256)),
            intervals=dict(log=20, eval=1000, save=1000, keep=2),
        )
    )

"""The quickstart: a masked-diffusion model and its autoregressive twin on the text every Python installation carries.

Both share the backbone (1.3M parameters), the tokenizer, the data order and the number of updates; only the objective differs.

A vocabulary of 4,096 ids suits small budgets of both kinds: a token then already carries 3.4 bytes, and most of what is left is easier
to learn. Muon on the matrices beats AdamW (AR, --config.steps=300 --config.data.batch=16 --config.optim.warmup=100 with and without
--config.optim.kind=adamw: 2.03 against 2.15 bits/byte on 256 held-out windows), and small batches beat large ones at equal tokens
(--config.steps=600 --config.data.batch=8: 2.11 against 2.15, with AdamW). Commit 721cef1, 2 cores of an AVX-512 Xeon.

Result of `bash launch/quickstart.sh` (commit d6800ec, 2 cores of an AVX-512 Xeon, Python 3.11.7, seed 0): masked 2.665 ± 0.026
bits/byte (bound, half of the 95 % interval), ar 2.139 (exact), gzip -9 2.074, xz -9 1.806.

    python -m dlm.train --config=configs/quickstart.py:objective=masked --workdir=runs/quickstart/masked
    python -m dlm.train --config=configs/quickstart.py:objective=ar --workdir=runs/quickstart/ar
"""

from ml_collections import ConfigDict

from dlm.core.config import choices
from dlm.nn.sizes import SIZES


def get_config(arg=None):
    chosen = choices(arg, objective=("masked", "ar"))
    ar = chosen.objective == "ar"
    return ConfigDict(
        dict(
            seed=0,
            steps=360,
            text=dict(name="text.bpe", size=4096),
            data=dict(source=dict(name="data.embedded", held_out=0.05), batch=8, length=128),
            nn=SIZES["tiny"],
            objective=dict(name="objectives.ar") if ar else dict(name="objectives.masked"),
            optim=dict(kind="muon", muon_lr=0.02, lr=3e-3, schedule="linear", warmup=40),
            sampler=dict(rule="ancestral", steps=1, block=1)
            if ar
            else dict(rule="ancestral", steps=64),
            evals=dict(bound=dict(samples=2)),
            every=dict(log=20, save=0),
        )
    )

"""The quickstart: a masked-diffusion model and its autoregressive twin on the text every Python installation carries.

Both share the backbone, the tokenizer, the data order and the number of updates; only the objective differs.

    python -m dlm.train --config=configs/quickstart.py:objective=masked --workdir=runs/quickstart/masked
    python -m dlm.train --config=configs/quickstart.py:objective=ar --workdir=runs/quickstart/ar
"""

from ml_collections import ConfigDict

from dlm.run.spec import choices


def get_config(arg=None):
    chosen = choices(arg, objective=("masked", "ar"))
    ar = chosen.objective == "ar"
    return ConfigDict(
        dict(
            seed=0,
            steps=600,
            text=dict(name="text.bpe", size=1024),
            data=dict(source=dict(name="data.embedded"), batch=16, length=128),
            nn=dict(
                layers=4,
                width=128,
                attention=dict(heads=4, kv_heads=4, head_size=32),
                ffn=dict(kind="relu2", width=512),
                compute=dict(unroll=4),
            ),
            objective=dict(name="objectives.ar") if ar else dict(name="objectives.masked"),
            optim=dict(lr=3e-3, schedule="linear"),
            sampler=dict(rule="ancestral", steps=1, block=1) if ar else dict(rule="ancestral", steps=64),
            evals=dict(bound=dict(samples=4)),
            every=dict(log=20),
        )
    )

"""Train, resume, evaluate and sample a small model of grouped experts on four devices, by commands.

python -m tests.machine.life CORPUS WORKDIR [--config.FIELD=VALUE …]

It prints the results as one JSON object
"""

import json
import shutil
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from tests import tiny

MOGE = dict(
    nn__experts=dict(
        count=8, per_token=4, width=16, router=dict(name="moge", groups=4)
    ),
    mesh=dict(data=1, expert=4),
    nn__layers=1,
    data__length=16,
    steps=2,
    intervals=dict(log=1, save=1),
    evals=dict(bound=dict(samples=2, windows=8)),
)


def live(corpus: str, workdir: str, *overrides: str) -> dict:
    """Losses of all updates, those made again after a checkpoint among them; scores; one sample."""
    from dlm import evaluate, sample, train
    from dlm.runs import logs

    recipe = Path(workdir).with_suffix(".py")
    recipe.write_text(
        '"""A recipe."""\n\n\ndef get_config(arg=None):\n    return '
        f"{tiny.recipe(corpus, **MOGE)!r}\n",
        encoding="utf-8",
    )
    command = [f"--config={recipe}", f"--workdir={workdir}", *overrides]
    train.main(command)
    losses = [
        row["loss"] for row in logs.rows(Path(workdir) / logs.METRICS) if "loss" in row
    ]
    shutil.rmtree(Path(workdir) / "checkpoints" / "2")
    train.main(command)
    losses += [
        row["loss"] for row in logs.rows(Path(workdir) / logs.METRICS) if "loss" in row
    ]
    replies = []
    for main, flags in (
        (evaluate.main, []),
        (sample.main, ["--num=1", "--steps=2", "--length=8"]),
    ):
        with redirect_stdout(StringIO()) as out:
            main([f"--workdir={workdir}", "--json", *flags])
        replies.append(json.loads(out.getvalue()))
    import jax
    from jax._src import xla_bridge

    ran = [
        name
        for name, backend in xla_bridge.backends().items()
        if backend is jax.devices()[0].client
    ]
    return dict(
        platform=ran[0],
        client=jax.devices()[0].client.platform_version,
        devices=len(jax.devices()),
        losses=losses,
        scores=[s["value"] for s in replies[0]["scores"]],
        text=replies[1]["samples"][0]["text"],
    )


if __name__ == "__main__":
    print(json.dumps(live(*sys.argv[1:])))

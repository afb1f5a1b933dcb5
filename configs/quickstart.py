"""The quickstart: two tasks, each learned by masked diffusion and by its autoregressive twin.

task        text | sudoku
objective   masked | ar

The two models of a task have the same network, documents, order of documents and number of
updates. Only the objective differs.

`text` is the text that every Python installation contains, read by 1.3M parameters. A vocabulary of
4,096 ids suits small budgets of both kinds: each token already carries 3.4 bytes, and most of the
rest is easier to learn. Muon on the matrices beats AdamW (AR, --config.steps=300
--config.data.batch=16 --config.optim.warmup=100 with and without --config.optim.kind=adamw: 2.03
against 2.15 bits/byte on 256 held-out windows), and small batches beat large ones at equal tokens
(--config.steps=600 --config.data.batch=8: 2.11 against 2.15, with AdamW). Commit 721cef1, 2 cores
of an AVX-512 Xeon.

`sudoku` is 4 × 4 grids with three quarters of the cells empty, read by 0.12M parameters as bytes:
`1..2......4.....=1432…`. Both models read the whole puzzle as a prompt, and only the 16 cells of
the solution and the end of the text count in the loss. Asked for a solution, the autoregressive
model must write the cells in reading order. The masked model writes one cell a pass as well, but
first the cell of which it is most certain. The grids of the test puzzles are in no training puzzle,
and any correct solution counts.

    bash launch/quickstart.sh
    python -m dlm.train --config=configs/quickstart.py:task=text,objective=masked --workdir=runs/x
    python -m dlm.sweep --config=configs/quickstart.py:task=sudoku --workdir=runs/quickstart-sudoku --evals=tasks
    python -m dlm.report runs/quickstart-sudoku --into=configs/quickstart.py:task=sudoku

    === results of configs/quickstart.py:task=sudoku, config 9bcb071aad29, commit 79568b8, 2 × AMD EPYC, Python 3.11.7, seeds 0 1 2 ===
    model    claim   held-out bits/byte   sudoku accuracy   seeds   tokens/s   parameters
    ─────────────────────────────────────────────────────────────────────────────────────
    ar                                    0.758 ± 0.085         3     28,247      115,584
    masked                                0.995 ± 0.026         3     29,125      115,584
    ± is half of the 95 % interval: over the seeds (Student's t), with what all of them were asked (documents, problems, windows) or the
    noise that they share added under the root; of one run, 1.96 standard errors of the score, which say nothing of other seeds; of a
    share of answers, the farther end of Wilson's interval. Scores of equal seeds were drawn with equal noise, so that what two models
    differ by, seed by seed, is known better than either.
    === end of results ===

The README shows the four models of one run of the script, and docs/results.md says what to believe.
"""

from ml_collections import ConfigDict

from dlm.core.config import choices
from dlm.nn.presets import SIZES
from dlm.sweeps.grid import chain, point, repeat

TASKS = ("text", "sudoku")
OBJECTIVES = ("masked", "ar")
OPTIMIZER = dict(
    kind="muon",
    muon_lr=0.02,
    lr=3e-3,
    schedule="linear",
)
# A causal model decides one position in one step.
LEFT_TO_RIGHT = dict(
    rule="ancestral",
    steps=1,
    block=1,
)
SUDOKU = dict(
    name="tasks.sudoku",
    box=2,
    holes=0.75,
)
# Few heads, squared ReLU and unrolled layers are fast on a CPU.
SMALL = dict(
    layers=3,
    width=64,
    attention=dict(heads=2, kv_heads=2, head_size=32),
    ffn=dict(kind="relu2", width=128),
    compute=dict(unroll=3),
)


def get_config(arg=None):
    chosen = choices(arg, task=TASKS, objective=OBJECTIVES)
    return ConfigDict(_build(chosen.task, chosen.objective))


def sweep(arg=None):
    """Both objectives of a task, three seeds each."""
    chosen = choices(arg, task=TASKS)
    points = []
    for objective in OBJECTIVES:
        config = _build(chosen.task, objective)
        changes = {
            "objective": config["objective"],
            "sampler": config["sampler"],
        }
        points.append(point(objective, changes))
    return repeat(chain(*points), seeds=3)


def _build(task, objective):
    """The config of one model, as a plain dictionary."""
    config = _text() if task == "text" else _sudoku()
    config["objective"] = dict(name=f"objectives.{objective}")
    if objective == "ar":
        config["sampler"] |= LEFT_TO_RIGHT
    return config


def _text():
    return dict(
        seed=0,
        steps=360,
        text=dict(name="text.bpe", size=4096),
        data=dict(
            source=dict(name="data.embedded", held_out=0.05),
            batch=8,
            length=128,
        ),
        nn=SIZES["tiny"],
        optim=OPTIMIZER | dict(warmup=40),
        sampler=dict(rule="ancestral", steps=64),
        evals=dict(bound=dict(samples=2)),
        intervals=dict(log=20, save=0),
    )


def _sudoku():
    # The cell whose best digit leads the second by most is decided first.
    margin = dict(name="samplers.rules.confident", confidence="margin")
    source = dict(
        name="data.problems",
        task=SUDOKU,
        count=20_000,
    )
    return dict(
        seed=0,
        steps=2000,
        text=dict(name="text.bytes"),
        data=dict(
            source=source,
            batch=32,
            length=34,  # the puzzle, "=", the solution and the end of the text
            prompt="=",
        ),
        nn=SMALL,
        optim=OPTIMIZER | dict(warmup=100),
        sampler=dict(rule=margin, steps=16, temperature=0.0),
        evals=dict(tasks=dict(task=SUDOKU, num=200)),
        intervals=dict(log=20, save=0),
    )

"""Generated problems with an exact grader: what a model of either kind can solve, not only how likely it finds a text.

task        brackets | countdown | star_graph | sudoku
objective   masked | ar

python -m dlm.sweep --config=configs/problems.py:task=brackets --workdir=runs/brackets --parallel=2 --evals=bound,tasks
python -m dlm.evaluate --workdir=runs/brackets/masked-seed=0 --evals=tasks --evals.tasks.num=200 --sampler.rule=confident

=== results of configs/problems.py:task=brackets, config dd88bcd7fdef, commit d1de49b, 1 × Intel(R) Xeon(R) Processor, Python 3.11.7, seeds 0 1 ===
model    claim   held-out bits/byte   brackets accuracy   seeds   tokens/s   parameters
───────────────────────────────────────────────────────────────────────────────────────
ar       exact   1.636 ± 0.007        1.000 ± 0.019           2      8,247      213,792
masked   bound   1.793 ± 0.107        0.708 ± 0.159           2      9,207      213,792
± is half of the 95 % interval over the seeds (Student's t); the noise of evaluation and the problems, which they share, are not in it, but where all
were right, of 200 problems Wilson's farther end.
=== end of results ===
"""

from ml_collections import ConfigDict

from dlm.core.config import choices
from dlm.sweeps.grid import chain, point, repeat


def get_config(arg=None):
    chosen = choices(arg, task=("brackets", "countdown", "star_graph", "sudoku"))
    task = dict(name=f"tasks.{chosen.task}")
    return ConfigDict(
        dict(
            seed=0,
            steps=1500,
            text=dict(name="text.bytes"),
            data=dict(
                source=dict(name="data.problems", task=task, count=20_000),
                batch=32,
                length=64,
            ),
            nn=dict(
                layers=3,
                width=64,
                attention=dict(heads=4, kv_heads=4, head_size=16),
                ffn=dict(width=256),
            ),
            objective=dict(name="objectives.masked"),
            optim=dict(
                kind="muon", muon_lr=0.02, lr=3e-3, schedule="linear", warmup=100
            ),
            sampler=dict(rule="confident", steps=8),
            evals=dict(
                bound=dict(samples=2, windows=128), tasks=dict(task=task, num=200)
            ),
            intervals=dict(log=50, save=500),
        )
    )


def sweep():
    ar = point(
        "ar",
        {
            "objective": "objectives.ar",
            "sampler": {"rule": "ancestral", "steps": 1, "block": 1},
        },
    )
    return repeat(chain(point("masked", {}), ar), seeds=2)

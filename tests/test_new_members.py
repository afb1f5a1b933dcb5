"""A new member is one new file: planted in a copy of the code, it is found, named and held to laws.

Each family gets a right member and a wrong one; no other file of the copy is edited.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAD = '''"""A planted member: ours."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

'''
RIGHT = {
    "tasks": """
from dlm.core.named import Seed
from dlm.tasks.base import Problem, Task


@dataclass(frozen=True)
class Planted(Task):
    digits: int = 6
    seed: Seed = Seed(0)

    PROBE: ClassVar = dict(digits=4, seed=1)

    @property
    def longest(self):
        return self.digits

    def __getitem__(self, i):
        number = str(self._random(i).randrange(10 ** (self.digits - 1), 10**self.digits))
        return Problem(number + "=", number[::-1])

    def grade(self, problem, answer):
        return answer == problem.answer
""",
    "data": """
from dlm.data.base import Source


@dataclass(frozen=True)
class Planted(Source):
    count: int = 60

    PROBE: ClassVar = dict(count=7)

    def documents(self, split):
        words = ["some words to learn from, number %d. " % i for i in range(self.count)]
        return words[2:] if split == "train" else words[:2]
""",
    "text": """
from dlm.text.bytes import Bytes as _Bytes


@dataclass(frozen=True)
class Planted(_Bytes):
    pass
""",
    "noise": """
from dlm.noise.mask import MaskNoise as _MaskNoise


@dataclass(frozen=True)
class Planted(_MaskNoise):
    pass
""",
    "noise.schedules": """
@dataclass(frozen=True)
class Planted:
    bend: float = 1.0

    PROBE: ClassVar = dict(bend=0.5)

    def noised(self, t):
        return t * (1 + self.bend * t) / (1 + self.bend)

    def time_of(self, noised):
        inner = 1 + 4 * self.bend * (1 + self.bend) * noised
        return (jnp.sqrt(inner) - 1) / (2 * self.bend)

    def rate(self, t):
        return (1 + 2 * self.bend * t) / (t * (1 + self.bend * t))
""",
    "nn.visibility": """
from dlm.nn.visibility.full import Full as _Full


@dataclass(frozen=True)
class Planted(_Full):
    pass


jax.tree_util.register_dataclass(Planted)
""",
    "nn.attend": """
from dlm.nn.attend.dense import DenseAttention as _Dense


@dataclass(frozen=True)
class Planted(_Dense):
    rank: ClassVar = 1
""",
    "nn.heads": """
@dataclass(frozen=True)
class Planted:
    def parameters(self, width, vocab_size):
        return width

    def __call__(self, param, hidden_BLD):
        zeros = jax.nn.initializers.zeros
        return hidden_BLD @ param("planted_D", zeros, (hidden_BLD.shape[-1],))
""",
    "nn.routers": """
from dlm.nn.routers.topk import TopK as _TopK


@dataclass(frozen=True)
class Planted(_TopK):
    pass
""",
    "objectives": """
from dlm.objectives.masked import Masked as _Masked


@dataclass(frozen=True)
class Planted(_Masked):
    pass
""",
    "samplers.rules": '''
from dlm.samplers.rules.base import Rule


@dataclass(frozen=True)
class Planted(Rule):
    """The positions in the middle first."""

    claims: ClassVar = "law → p with one position a step"
    fixed_order: ClassVar = "middle"

    def choose(self, prediction, view):
        index_BR = view.canvas.layout.index_BL
        distance_BR = jnp.abs(index_BR - index_BR.mean())
        undecided_BR = view.undecided()
        return view.first(undecided_BR, -jnp.broadcast_to(distance_BR, undecided_BR.shape))
''',
    "samplers.remask": """
from dlm.samplers.remask.base import Remask, largest


@dataclass(frozen=True)
class Planted(Remask):
    share: float = 0.5

    marginals: ClassVar = "kept"
    PROBE: ClassVar = dict(share=0.9)

    def sigma(self, output, view):
        return self.share * largest(view)
""",
    "samplers.drivers": """
from dlm.samplers.drivers.blockwise import Blockwise as _Blockwise


@dataclass(frozen=True)
class Planted(_Blockwise):
    pass
""",
    "evals": """
from dlm.evals.base import Base


@dataclass(frozen=True)
class Planted(Base):
    num: int = 3

    claims: ClassVar = "samples"
    over: ClassVar = "samples"
    reads: ClassVar = False
    PROBE: ClassVar = dict(num=5)

    def run(self, context, step):
        replies = context.draw(self.num)
        yield "planted", float(sum(len(reply.ids) for reply in replies)), 0.0
""",
}
BROKEN = {  # methods of a wrong member, in the place of `pass`
    "text": """    def fit(self, documents):
        tokenizer = super().fit(documents)
        tokenizer.bytes_V = tokenizer.bytes_V * 2
        return tokenizer
""",
    "noise": """    def corrupt(self, key_B, x_BL, t_BL, noisable_BL):
        return super().corrupt(key_B, x_BL, t_BL / 2, noisable_BL)
""",
    "nn.visibility": """    infills: ClassVar = False
""",
    "nn.routers": """    def check(self, experts, active):
        pass
""",
    "objectives": """    def bound_nats(self, models, batch, z_BL, t_BL):
        return 0.5 * super().bound_nats(models, batch, z_BL, t_BL)
""",
    "samplers.drivers": """\
    def run(self, net, plan, process, start, key_B, recorder, *, stop=False, prefill=0):
        blank = jnp.zeros_like(start.canvas.z_BL)
        canvas = dataclasses.replace(start.canvas, z_BL=blank)
        start = dataclasses.replace(start, canvas=canvas)
        return super().run(net, plan, process, start, key_B, recorder, stop=stop, prefill=prefill)
""",
}
LOUDER = """    rank: ClassVar = 200

    def attend(self, q_BLHK, k_BMJK, v_BMJK, prepared, scale):
        return super().attend(q_BLHK, k_BMJK, v_BMJK, prepared, 2 * scale)
"""
WRONG = {  # family → text of the right member, and what replaces it in the wrong one
    "tasks": ("return answer == problem.answer", "return True"),
    "data": ("words[:2]", "words[:5]"),
    "noise.schedules": ("return (1 + 2 * self", "return 2 * (1 + 2 * self"),
    "nn.heads": ("return width", "return width + 1"),
    "nn.attend": ("    rank: ClassVar = 1\n", LOUDER),
    "evals": ('claims: ClassVar = "samples"', 'claims: ClassVar = ""'),
    "samplers.rules": (
        "undecided_BR = view.undecided()",
        "undecided_BR = view.active_BR",
    ),
    "samplers.remask": (
        "return self.share * largest(view)",
        "return 1.5 + largest(view)",
    ),
    **{family: ("    pass\n", body) for family, body in BROKEN.items()},
}
# The files that list a family's members, beside the laws of tests/test_families.py.
LAWS = (
    "tests/test_families.py",
    "tests/laws/test_adversary.py",
    "tests/laws/test_noise.py",
    "tests/nn/test_visibility.py",
    "tests/tasks/test_tasks.py",
)
CONFIG = {
    "objective": "objectives.planted",
    "objective.process.schedule": "planted",
    "text": "planted",
    "data.source": {"name": "problems", "task": "planted"},
    "nn.heads": ("planted",),
    "nn.experts": dict(count=4, per_token=2, width=8, router="planted"),
    "sampler.rule": "planted",
    "sampler.remask": "planted",
    "sampler.driver": "planted",
    "evals": dict(planted={}),
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the code with a right and a wrong member in each family."""
    folder = tmp_path_factory.mktemp("house")
    for name in ("dlm", "tests", "configs"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", folder)
    for family, text in RIGHT.items():
        room = folder / "dlm" / family.replace(".", "/")
        old, new = WRONG[family]
        assert old in text, family
        (room / "planted.py").write_text(HEAD + text, encoding="utf-8")
        wrong = text.replace(old, new).replace("Planted", "Wrong")
        (room / "wrong.py").write_text(HEAD + wrong, encoding="utf-8")
    return folder


def run(house, *command):
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=house,
        env=os.environ | dict(PYTHONPATH=str(house)),
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_planted_members_pass_every_law_and_wrong_ones_fail(house):
    left_out = "loss_does_not_depend mistakes cosine polynomial geometric rates_are"
    chosen = f"(planted or wrong) and not ({' or '.join(left_out.split())})"
    options = ["-rpf", "--tb=line", "-p", "no:cacheprovider", "-k", chosen]
    output = run(house, "pytest", *options, *LAWS).stdout
    verdicts = re.findall(r"^(PASSED|FAILED) (\S+?)\[(.*?)\]", output, re.M)
    failed = [f"{test} {ids}" for verdict, test, ids in verdicts if verdict == "FAILED"]
    assert verdicts, output[-3000:]
    # A schedule and a process meet: the right one under the wrong one fails, as it should.
    right = [line for line in failed if "planted" in line and "wrong" not in line]
    assert not right, output[-5000:]
    missed = {
        family for family in RIGHT if not any(caught(family, line) for line in failed)
    }
    assert not missed, output[-5000:]


def caught(family, line):
    """Whether a failure is that of this family's wrong member."""
    own_laws = {  # tests that name the family by their file or function
        "objectives": "test_adversary",
        "noise": "test_noise",
        "noise.schedules": "schedule",
        "nn.visibility": "test_visibility",
        "nn.attend": "backend",
        "nn.heads": "head",
        "nn.routers": "router",
        "samplers.rules": "rule",
        "samplers.remask": "remask",
        "samplers.drivers": "driver",
        "evals": "evaluator",
        "tasks": "test_tasks",
        "text": "tokenizer",
        "data": "source",
    }
    return own_laws[family] in line and "wrong" in line


def test_a_run_whose_config_names_them_trains_samples_and_evaluates(house):
    recipe = house / "planted.py"
    text = f'"""Names every planted member."""\n\nfrom tests import tiny\n\nCONFIG = {CONFIG!r}\n'
    text += "\n\ndef get_config(arg=None):\n"
    text += "    return tiny.recipe('unused', steps=2, every={}, **CONFIG)\n"
    recipe.write_text(text.replace(", every={}", ""), encoding="utf-8")
    workdir = house / "run"
    trained = run(house, "dlm.train", f"--config={recipe}", f"--workdir={workdir}")
    assert trained.returncode == 0, trained.stderr[-3000:]
    sampled = run(house, "dlm.sample", f"--workdir={workdir}", "--num=1", "--length=8")
    assert sampled.returncode == 0, sampled.stderr[-3000:]
    scored = run(house, "dlm.evaluate", f"--workdir={workdir}")
    assert scored.returncode == 0 and "planted.planted" in scored.stderr, scored.stderr[
        -3000:
    ]

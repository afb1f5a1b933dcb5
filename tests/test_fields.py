"""No field is idle: another value of any field of any config changes a loss, a sample, an update, a
batch, a score or a file.

Of a loss and of a sample the program is compared, without what its result does not need; what it
computes is told by the laws.

The dataclasses are found by walking from `core.run.Run`, so a new field fails here until a row says
what it changes.
"""

import dataclasses
import importlib
import types
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dlm
from dlm.app.experiment import Experiment
from dlm.core.config import build_member
from dlm.core.contracts import Bound, Loss, State
from dlm.core.errors import UserError
from dlm.core.families import exposed
from dlm.core.run import Run, build_run
from dlm.evals.bound import HeldOut
from dlm.machine import mesh
from dlm.machine.config import MeshConfig
from dlm.runs import checkpoint
from dlm.training import metrics
from dlm.training import optimizer as optim
from dlm.training.config import Average, OptimizerConfig, Skip
from dlm.training.intervals import Intervals
from dlm.training.update import _gradients, create_state, make_update
from tests import listing, tiny
from tests.evals.probes import (
    HARNESS,
    asked,
    calibration,
    exact,
    generated,
    judged,
    task,
    tokens,
)
from tests.laws.probes import (
    KIN,
    blocks,
    dropped,
    hybrid,
    kin,
    noise,
    objective,
    polynomial,
    uniform,
)
from tests.nn.probes import NETWORK, network
from tests.nn.probes import ROWS as EXPERTS
from tests.samplers.probes import ROWS as SAMPLERS
from tests.text.probes import ROWS as PUBLISHED
from tests.training import test_loop as loop_tests

METHOD = dict(
    text="fit",
    data="documents",
    noise="corrupt",
    objectives="loss",
    evals="run",
    tasks="grade",
    **{
        "samplers.remask": "sigma",
        "samplers.rules": "step",
        "samplers.drivers": "run",
        "nn.routers": "scores",
        "noise.schedules": "noised",
    },
)  # what makes a member


def members(family):
    found = []
    for file in sorted(
        (Path(dlm.__file__).parent / family.replace(".", "/")).glob("*.py")
    ):
        if file.stem not in ("__init__", "base"):
            module = importlib.import_module(f"dlm.{family}.{file.stem}")
            found += [c for c in exposed(module.__name__) if hasattr(c, METHOD[family])]
    return found


def reachable(cls):
    """Every config dataclass below one, itself included."""
    found = [cls]
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        below = []
        if f.name == "vocab":  # the tokenizer's, never a config's
            continue
        if "module" in f.metadata:
            below = exposed(
                importlib.import_module(f"dlm.{f.metadata['module']}").__name__
            )
        elif f.metadata.get("family") or f.metadata.get("families"):
            below = members(f.metadata.get("family") or f.metadata["families"])
        elif f.name != "vocab" and dataclasses.is_dataclass(hints[f.name]):
            below = [hints[f.name]]
        found += [c for b in below for c in reachable(b)]
    return list(dict.fromkeys(found))


ALL = [  # a section's own fields have the rows
    f"{c.__name__}.{f.name}"
    for c in reachable(Run)
    for f in dataclasses.fields(c)
    if f.name != "vocab" and "module" not in f.metadata
]


# ------------------------------------------------------------------------------------------- probes


def update(steps=6, **changes):
    """The averaged parameters after five updates of a small made-up problem."""
    o = OptimizerConfig(**dict(warmup=2, clip=5.0) | changes)
    rng = np.random.default_rng(0)
    params = {
        "up_DF": jnp.asarray(rng.normal(size=(3, 4))),
        "norm_D": jnp.asarray(rng.normal(size=3)),
    }

    def loss_of(p, b, k, *carried):
        return Loss(
            100 * jnp.tanh(p["norm_D"] @ p["up_DF"]).sum() * b.tokens_BL.mean(),
            b.weights_BL.sum(),
        )

    optimizer = optim.transformation(o, steps)
    step = jax.jit(
        make_update(
            loss_of, o, optimizer, optim.rate(o, steps), jax.random.key(0), np.ones(20)
        )
    )
    now = create_state(params, o, optimizer)
    for seed in range(5):
        now, _ = step(now, tiny.batch(tiny.tokens(2, 3, seed)))
    return now.averaged


def averaging(**changes):
    return update(ema=Average(**dict(decay=0.9) | changes))


def skipping(**changes):
    return update(skip=Skip(**changes))


def stopping(**changes):
    """After how many updates that are left out the loop stops."""
    log = loop_tests.Recorder()
    with pytest.raises(metrics.Diverged):
        loop_tests.train(log, 0, 40, skipped=1.0, skips=Skip(**changes).limit)
    return log.calls


def stream(corpus, **changes):
    """The first two batches of a run, with the tokenizer's content."""
    run = build_run(tiny.recipe(corpus, **changes))
    tokenizer = run.text.fit(run.data.source.documents("train"))
    batches = run.data.batches(run.data.train_windows(tokenizer, run.seed), run.seed)
    return tokenizer.content(), [next(batches) for _ in range(2)]


def bpe(corpus, **changes):
    return stream(corpus, text=dict(name="bpe", size=290) | changes)


def documents(made):
    return list(made.documents("train")), list(made.documents("held_out"))


def local(corpus, **changes):
    other = corpus.with_name("other.jsonl")
    lines = "".join(f'{{"text": "one {i}", "body": "two {i}"}}\n' for i in range(20))
    other.write_text(lines)
    equal = corpus.with_name("equal.txt")
    equal.write_text("".join(f"line {i % 10}\n" for i in range(20)))
    files = dict(other=(str(other),), equal=(str(equal),))
    changes = {k: files.get(v, v) for k, v in changes.items()}
    paths = (str(other),) if "field" in changes else (str(corpus),)
    return documents(
        build_member(
            dict(name="local", paths=paths, unit="paragraph", held_out=0.3) | changes,
            "data",
        )
    )


def embedded(**changes):
    return documents(
        build_member(
            dict(name="embedded", parts=("prose",), held_out=0.1) | changes, "data"
        )
    )


def tfds(corpus, **changes):
    from dlm.data.local import Local
    from dlm.data.tfds import Tfds, prepare

    for folder, name, share in [
        ("a", "one", 0.3),
        ("a", "two", 0.5),
        ("b", "one", 0.5),
    ]:
        if not (corpus.parent / folder / name).exists():
            prepare(
                Local((str(corpus),), unit="paragraph", held_out=share),
                name,
                str(corpus.parent / folder),
            )
    changes = {
        k: str(corpus.parent / "b") if k == "data_dir" else v
        for k, v in changes.items()
    }
    return documents(
        Tfds(**dict(dataset="one", data_dir=str(corpus.parent / "a")) | changes)
    )


def tfds_field(corpus, **changes):
    """A field that is not there is an error that names it."""
    try:
        return tfds(corpus, **changes)
    except UserError as error:
        return str(error)


def held_out(**changes):
    """A score of three windows whose nats depend on the draws."""

    def bound(samples, pattern):
        return lambda params, batch, key: Bound(
            batch.tokens_BL * 1.0 / samples,
            jnp.ones(len(batch.tokens_BL)) * len(pattern),
        )

    def windows(limit):
        for row in tiny.tokens(3, 5)[:limit]:
            yield tiny.batch(row[None])

    experiment = types.SimpleNamespace(
        bound=bound, reported=lambda pattern: types.SimpleNamespace(claims="bound")
    )
    tokenizer = types.SimpleNamespace(bytes_V=np.arange(20))
    subject = types.SimpleNamespace(
        experiment=experiment,
        held_out=windows,
        tokenizer=tokenizer,
        params=None,
        key=None,
        details={},
    )
    return list(HeldOut(**changes).run(subject, 0))


def told(**changes):
    """What the loop writes, evaluates and saves in six updates."""
    log = loop_tests.Recorder()
    loop_tests.train(log, 0, 6, **dict(log=2, eval=0, save=2) | changes)
    return log.calls


def kept(tmp_path, **changes):
    store = checkpoint.Store(tmp_path / str(changes), Intervals(**changes).keep)
    now = State(jnp.int32(0), {"x_D": jnp.zeros(2)}, {"x_D": jnp.ones(2)}, None)
    for step in (1, 2, 3):
        store.save(step, now)
    store.close()
    return checkpoint.steps(tmp_path / str(changes))


def unsaved(tmp_path, **changes):
    """What follows a save into a place where nothing can be written."""
    (tmp_path / str(changes)).mkdir()
    (tmp_path / str(changes) / checkpoint.FOLDER).write_text("not a folder")
    store = checkpoint.Store(
        tmp_path / str(changes), on_save_failure=Intervals(**changes).on_save_failure
    )
    try:
        store.save(
            1, State(jnp.int32(0), {"x_D": jnp.zeros(2)}, {"x_D": jnp.ones(2)}, None)
        )
        store.close()
    except UserError:
        return "stopped"
    return "went on"


def schedule(corpus, **changes):
    return [
        float(
            optim.rate(
                OptimizerConfig(warmup=2),
                build_run(tiny.recipe(corpus, **changes)).steps,
            )(s)
        )
        for s in range(8)
    ]


def evaluators(corpus, **changes):
    return [
        type(e).__name__
        for e in build_run(tiny.recipe(corpus, **changes)).evals.values()
    ]


def reported(corpus, **changes):
    """What an update of this run reports."""
    run = build_run(tiny.recipe(corpus, **changes))
    made = Experiment(run, run.text.fit(()))
    batch = tiny.batch(tiny.tokens(8, 32))
    _, sums = jax.eval_shape(made.update, made.abstract_state(), batch)
    return sorted([*sums, *sums["metrics"]])


ROWS = {  # field → (probe, another value, values both runs share)
    **{
        f"Masked.{k}": (objective, v, {})
        for k, v in dict(
            process=dict(name="mask", schedule="cosine"), times="iid", steps=2
        ).items()
    },
    **{
        f"Masked.{k}": (objective, v, {})
        for k, v in dict(
            coupling="complementary", pattern="count", weights="flat"
        ).items()
    },
    **{
        f"Block.{k}": (blocks, v, {})
        for k, v in dict(
            size=4,
            clip=(0.3, 0.8),
            context="causal",
            block_warmup=0.9,
            times="iid",
            steps=2,
        ).items()
    },
    **{
        f"Block.{k}": (blocks, v, {})
        for k, v in dict(
            coupling="complementary", pattern="count", weights="flat"
        ).items()
    },
    **{f"{c}.{k}": (kin(c), v, {}) for c, row in KIN.items() for k, v in row.items()},
    "UniformNoise.schedule": (uniform, "cosine", {}),
    "Polynomial.power": (polynomial, 3.0, {}),
    "HybridNoise.uniform": (hybrid, 0.3, {}),
    "Loader.marked_characters": (stream, "ab", {}),
    "Loader.prompt": (stream, " ", {}),
    "Loader.blank": (stream, "served", dict(data__prompt=".")),
    **{
        f"MaskedTokens.{k}": (tokens, v, {})
        for k, v in dict(windows=2, rate=0.9).items()
    },
    **{
        f"Exact.{k}": (exact, v, {})
        for k, v in dict(
            rule=dict(name="confident", confidence="top"),
            steps=2,
            windows=2,
            samples=2,
            pattern="own",
        ).items()
    },
    "Block.process": (blocks, dict(name="mask", schedule="cosine"), {}),
    "Block.auxiliary": (blocks, 0.5, dict(context="causal")),
    **{f"AR.{k}": (dropped, 0.5, {}) for k in ("dropout", "mtp_weight")},
    "MaskNoise.schedule": (noise, "cosine", {}),
    **{
        f"OptimizerConfig.{k}": (update, v, {})
        for k, v in dict(
            kind="muon", lr=1e-2, schedule="linear", warmup=0, b1=0.5, b2=0.5
        ).items()
    },
    **{
        f"OptimizerConfig.{k}": (update, v, {})
        for k, v in dict(weight_decay=0.5, ema=Average(0.5)).items()
    },
    **{
        f"Average.{k}": (averaging, v, {})
        for k, v in dict(decay=0.2, warmup="none").items()
    },
    "OptimizerConfig.clip": (update, 0.0, {}),
    "OptimizerConfig.skip": (update, Skip(norm=1e-6), {}),
    "Skip.norm": (skipping, 1e-6, {}),
    "Skip.limit": (stopping, 3, {}),
    "OptimizerConfig.muon_lr": (update, 0.1, dict(kind="muon")),
    **SAMPLERS,
    **NETWORK,
    **(EXPERTS | HARNESS),
    **{
        f"BPE.{k}": (bpe, v, {})
        for k, v in dict(size=280, sample=100, path="tests/tokenizer.json").items()
    },
    **PUBLISHED,
    **{
        f"Loader.{k}": (stream, v, {})
        for k, v in dict(batch=4, length=16, windows=3).items()
    },
    "Loader.source": (stream, dict(name="embedded", parts=("prose",)), {}),
    **{
        f"Local.{k}": (local, v, {})
        for k, v in dict(
            paths="other", held_out=0.6, unit="line", held_out_paths="other"
        ).items()
    },
    "Local.unique": (local, True, dict(paths="equal", unit="line")),
    "Local.form": (local, "text", dict(paths="other", unit="line")),
    "Local.field": (local, "body", {}),
    **{
        f"Embedded.{k}": (embedded, v, {})
        for k, v in dict(held_out=0.3, parts=("prose", "source")).items()
    },
    **{
        f"Tfds.{k}": (tfds, v, {})
        for k, v in dict(
            dataset="two", train="train[:3]", held_out="train", data_dir="b"
        ).items()
    },
    "Tfds.field": (tfds_field, "body", {}),
    **{
        f"Problems.{k}": (generated, v, {})
        for k, v in dict(task="countdown", count=5).items()
    },
    "Problems.unique": (generated, True, dict(task="sudoku", form="answer")),
    "Problems.form": (generated, "answer", dict(task="sudoku")),
    **{
        f"Brackets.{k}": (task("brackets"), v, {})
        for k, v in dict(depth=2, opened=7, seed=1).items()
    },
    **{
        f"Countdown.{k}": (task("countdown"), v, {})
        for k, v in dict(numbers=4, largest=9, seed=1).items()
    },
    **{
        f"StarGraph.{k}": (task("star_graph"), v, {})
        for k, v in dict(arms=2, length=2, names=30, seed=1).items()
    },
    **{
        f"Sudoku.{k}": (task("sudoku"), v, {})
        for k, v in dict(box=3, holes=0.2, seed=1).items()
    },
    **{
        f"Samples.{k}": (asked("samples", {}), v, {})
        for k, v in dict(num=3, length=5).items()
    },
    **{
        f"GenPPL.{k}": (asked("gen_ppl", dict(judge="a")), v, {})
        for k, v in dict(judge="b").items()
    },
    **{f"GenPPL.{k}": (judged, v, {}) for k, v in dict(num=3, length=5).items()},
    **{
        f"Infill.{k}": (asked("infill", dict(num=4, length=30)), v, {})
        for k, v in dict(num=3, length=20, hole=4, temperature=1.0).items()
    },
    **{
        f"Tasks.{k}": (asked("tasks", dict(num=4)), v, {})
        for k, v in dict(task="countdown", num=3, temperature=1.0).items()
    },
    **{
        f"Tasks.{k}": (asked("tasks", dict(num=4, task="sudoku")), v, {})
        for k, v in dict(ask="fill", orders=("top",), steps=(2,)).items()
    },
    **{
        f"Calibration.{k}": (calibration, v, {})
        for k, v in dict(windows=2, bins=1).items()
    },
    **{
        f"HeldOut.{k}": (held_out, v, {})
        for k, v in dict(samples=2, windows=2, pattern="own").items()
    },
    **{f"Intervals.{k}": (told, v, {}) for k, v in dict(log=3, eval=2, save=3).items()},
    "Intervals.keep": (kept, 1, {}),
    "Intervals.on_save_failure": (unsaved, "continue", {}),
    "Run.steps": (schedule, 5, {}),
    "Run.seed": (stream, 1, {}),
    "Run.text": (stream, dict(name="bpe", size=280), {}),
    "Run.evals": (evaluators, dict(compression={}), {}),
    "Run.objective": (reported, "ar", {}),
}

# These change how something is computed, not what: the program, or where it runs, is compared in
# their place.
EXECUTION = {
    "Compute.unroll": "layers per step of the scan: the same function, compiled otherwise",
    "Compute.remat": "what the backward pass keeps or recomputes",
    "OptimizerConfig.microbatches": "the same sums in parts",
    "Loader.threads": "who reads ahead; the stream must not depend on it (tests/data)",
    "MeshConfig": "where arrays lie",
}


KNOWN = {}  # what a probe found without a change; most rows share it


def unchanged(probe, corpus, tmp_path, changes):
    key = probe.__name__, str(changes)
    if key not in KNOWN:
        KNOWN[key] = value(probe, corpus, tmp_path, changes)
    return KNOWN[key]


def value(probe, corpus, tmp_path, changes):
    wanted = probe.__code__.co_varnames[: probe.__code__.co_argcount]
    given = dict(corpus=corpus, tmp_path=tmp_path)
    return probe(**{k: given[k] for k in wanted if k in given}, **changes)


def same(a, b):
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    return all(
        np.shape(x) == np.shape(y) and np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_every_field_has_a_row():
    assert len(EXECUTION) <= 5
    covered = {
        name
        for name in ALL
        if name in ROWS or name in EXECUTION or name.split(".")[0] in EXECUTION
    }
    covered |= {
        f"{cls}.{field}" for cls, field in listing.probed()
    }  # tests/test_families.py
    assert set(ALL) - covered == set() and set(ROWS) - set(ALL) == set()
    assert not set(ROWS) & set(EXECUTION)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_a_field_changes_something(name, corpus, tmp_path):
    probe, other, shared = ROWS[name]
    field = name.split(".")[1]
    if name == "BPE.path":
        other = published(tmp_path)
    changes = {FIELD.get(name, field): other}
    before = unchanged(
        probe,
        corpus,
        tmp_path,
        shared | ({"field": "text"} if name == "Local.field" else {}),
    )
    assert not same(value(probe, corpus, tmp_path, shared | changes), before)


FIELD = {
    "Loader.batch": "data__batch",
    "Loader.length": "data__length",
    "Loader.windows": "data__windows",
    "Loader.marked_characters": "data__marked_characters",
    "Loader.prompt": "data__prompt",
    "Loader.blank": "data__blank",
    "Loader.source": "data__source",
}


def published(folder):
    build_member(dict(name="bpe", size=270), "text").fit(
        ["some other text, some other merges, some other tokens"] * 9
    ).save(folder)
    return str(folder / "tokenizer.json")


def test_a_program_is_the_same_when_asked_for_again_and_holds_nothing_idle():
    assert same(network(), network())
    x, y = jnp.arange(3.0), jnp.arange(3.0) + 1
    assert same(
        tiny.program(lambda a: (a * x, a * y)[0], x), tiny.program(lambda a: a * x, x)
    )
    assert not same(tiny.program(lambda a: a * x, x), tiny.program(lambda a: a * y, x))


@pytest.mark.slow
def test_what_changes_the_execution_alone_does_change_it(corpus):
    def program(**compute):
        config = tiny.model_config(**compute)
        made = build_member("masked", "objectives", tiny.VOCAB)

        def loss(p, b):
            return made.loss(tiny.models(config, p), b, jax.random.key(0)).nats_sum

        return str(
            jax.make_jaxpr(jax.grad(loss))(
                tiny.shapes(config), tiny.batch(tiny.tokens(2, 6))
            )
        )

    programs = {
        str(c): program(**c)
        for c in ({}, dict(unroll=2), dict(remat="block"), dict(remat="dots"))
    }
    assert len(set(programs.values())) == 4

    def parts(n):
        def loss_of(p, b):
            return Loss(p * b.weights_BL.sum(), b.weights_BL.sum())

        return str(
            jax.make_jaxpr(lambda b: _gradients(loss_of, 1.0, b, n))(
                tiny.batch(tiny.tokens(4, 3))
            )
        )

    assert ("scan" in parts(2)) and ("scan" not in parts(1))
    shapes = [
        dict(mesh.make(MeshConfig(**c)).shape)
        for c in ({}, dict(data=2), dict(fsdp=2), dict(tensor=2), dict(expert=2))
    ]
    assert all(a != b for i, a in enumerate(shapes) for b in shapes[:i])

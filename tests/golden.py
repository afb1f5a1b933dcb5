"""Print a hash of everything that a refactoring must not change: losses, gradients, samples,
updates, under fixed labels.

python -m tests.golden > before.txt;  change something;  python -m tests.golden | diff before.txt -

The configs are JSON text in the names of stored runs, so that the reader of old names is tried too.
Bits differ between processors: compare on one machine, commit no hash. Where a hash differs, run
both sides with JAX_DISABLE_JIT=1 as well: equal bits there mean that XLA fused otherwise, and no
more.
"""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

# Equal programs need not be compiled again.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "dlm" / "xla-golden")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")

import jax
import jax.numpy as jnp
import numpy as np

from dlm.app.experiment import Experiment
from dlm.core import keys
from dlm.core.run import build_run
from dlm.runs import earlier_fields
from dlm.samplers.requests import Request
from tests import tiny

BASE = """{"steps": 20, "text": "bytes",
 "data": {"source": {"name": "local", "paths": ["CORPUS"], "unit": "paragraph", "held_out": 0.2},
  "batch": 4, "length": 32, "mark": "aeiou"},
 "nn": {"layers": 2, "width": 16, "attention": {"heads": 2, "kv_heads": 1, "head_size": 8},
  "ffn": {"width": 24}},
 "objective": {"name": "objectives.masked"}, "optim": {"lr": 0.01, "warmup": 1},
 "mesh": {"data": 1},
 "sampler": {"steps": 4}, "evals": {"bound": {"samples": 2}}, "every": {"log": 1, "save": 2}}"""

AR = '"sampler": {"steps": 1, "block": 1}'
BLOCK = '"objective": {"name": "objectives.block", "size": 8}'
EXPERTS = (
    '"nn": {"experts": {"number": 4, "active": 2, "width": 8, "router": '
    '{"name": "nn.routers.moge", "groups": 2}}}'
)
OBJECTIVES = {
    "ar": '{"objective": {"name": "objectives.ar"}, ' + AR + "}",
    "ar dropout": '{"objective": {"name": "objectives.ar", "dropout": 0.3}, '
    + AR
    + "}",
    "ar ahead": '{"objective": {"name": "objectives.ar", "ahead": 0.3}, "nn": {"ahead": 1}, '
    + AR
    + "}",
    "masked": "{}",
    "masked cosine": '{"objective": {"process": {"name": "noise.mask", "schedule": "cosine"}}}',
    "masked polynomial": '{"objective": {"process": {"name": "noise.mask", '
    '"schedule": "polynomial", "power": 2.0}}}',
    "masked geometric": '{"objective": {"process": {"name": "noise.mask", '
    '"schedule": "geometric"}}}',
    "masked count": '{"objective": {"pattern": "count"}}',
    "masked complementary": '{"objective": {"coupling": "complementary"}}',
    "masked context": '{"objective": {"weights": "context"}}',
    "masked steps": '{"objective": {"steps": 8}}',
    "masked importance": '{"objective": {"times": "importance"}}',
    "masked antithetic": '{"objective": {"times": "antithetic"}}',
    "masked adaln": '{"nn": {"time": "adaln"}}',
    "masked experts": "{" + EXPERTS + "}",
    "block": "{" + BLOCK + "}",
    "block count": '{"objective": {"name": "objectives.block", "size": 8, "pattern": "count"}}',
    "block causal": '{"objective": {"name": "objectives.block", "size": 8, '
    '"context": "causal", "auxiliary": 0.5, "grow": 0.5}}',
    "any_order": '{"objective": {"name": "objectives.any_order"}}',
    "partition": '{"objective": {"name": "objectives.partition"}}',
    "hybrid": '{"objective": {"name": "objectives.hybrid", "process": {"name": "noise.hybrid"}}}',
    "uniform": '{"objective": {"name": "objectives.hybrid", "process": {"name": "noise.uniform"}}}',
    "learned": '{"objective": {"name": "objectives.learned"}}',
    "adapted": '{"objective": {"name": "objectives.adapted"}}',
    "priority": '{"objective": {"name": "objectives.priority"}}',
    "span": '{"objective": {"name": "objectives.span"}}',
    "proseco": '{"objective": {"name": "objectives.proseco"}}',
    "prism": '{"objective": {"name": "objectives.prism"}, "nn": {"heads": ["quality"]}}',
}
REMASKS = ("cap", "conf", "rescale", "switch", "loop")
SAMPLERS = {
    "ancestral": ("masked", '{"rule": "ancestral"}'),
    "confident": ("masked", '{"rule": "confident"}'),
    "confident margin": (
        "masked",
        '{"rule": {"name": "confident", "confidence": "margin"}}',
    ),
    "threshold": ("masked", '{"rule": {"name": "threshold", "above": 0.1}}'),
    "factor": ("masked", '{"rule": {"name": "factor", "factor": 10.0}}'),
    "entropy_bounded": (
        "masked",
        '{"rule": {"name": "entropy_bounded", "budget": 8.0}}',
    ),
    "planned": ("masked", '{"rule": "planned"}'),
    "maskgit": ("masked", '{"rule": "maskgit"}'),
    "ordered": ("masked", '{"rule": "ordered"}'),
    "first_hitting": ("masked", '{"rule": "first_hitting"}'),
    "blocks, sharp": (
        "masked",
        '{"rule": "confident", "block": 8, "temperature": 0.7, "top_p": 0.9, "top_k": 50}',
    ),
    "sliding": ("masked", '{"rule": "threshold", "block": 8, "edge": "sliding"}'),
    "guidance": ("masked", '{"rule": "ancestral", "guidance": 1.0}'),
    "second pass": (
        "masked",
        '{"rule": "ancestral", "then": {"rule": "confident", "steps": 2, "reopen": 0.5}}',
    ),
    **{
        f"cache {kind}": (
            "masked",
            f'{{"rule": "confident", "block": 8, "cache": {{"kind": "{kind}"}}}}',
        )
        for kind in ("prefix", "dual")
    },
    "cache delayed": (
        "masked",
        '{"rule": "confident", "block": 8, "cache": {"kind": "delayed", "refresh": 3}}',
    ),
    **{
        f"remask {name}": (
            "masked",
            f'{{"steps": 12, "remask": {{"name": "{name}", "eta": 0.5}}}}',
        )
        for name in REMASKS
    },
    "remask doubted": ("masked", '{"remask": "doubted"}'),
    "remask prism": ("prism", '{"remask": "prism"}'),
    "exact cache": ("block", '{"rule": "confident", "block": 8}'),
    "autoregressive": ("ar", '{"steps": 1, "block": 1}'),
    "speculative": ("any_order", '{"rule": "speculative", "block": 8}'),
    "noise on tokens": ("hybrid", '{"rule": "ancestral"}'),
    "partition": ("partition", '{"rule": "confident"}'),
    "learned": ("learned", '{"rule": "ancestral"}'),
    "adapted": ("adapted", '{"rule": "confident"}'),
}


def merged(base: dict, changes: dict) -> dict:
    """`base` with `changes` laid over it, section by section; a section that names another member
    replaces the first.
    """
    if "name" in changes and changes["name"] != base.get("name"):
        return changes
    pairs = {
        k: merged(base[k], v)
        if isinstance(v, dict) and isinstance(base.get(k), dict)
        else v
        for k, v in changes.items()
    }
    return base | pairs


def config_of(corpus: Path, changes: str) -> dict:
    """A config in the names of an early version, as a run of its time stored it."""
    return merged(json.loads(BASE.replace("CORPUS", str(corpus))), json.loads(changes))


def experiment(corpus: Path, changes: str) -> Experiment:
    config = config_of(corpus, changes)
    earlier_fields.rename(config)
    run = build_run(config)
    return Experiment(run, run.text.fit(run.data.source.documents("train")))


def filled(params):
    """The parameters with nothing at its initial zero, by their paths alone."""

    def drawn(path, p):
        seed = int.from_bytes(
            hashlib.sha256(jax.tree_util.keystr(path).encode()).digest()[:4], "big"
        )
        return p + 0.3 * jnp.asarray(
            np.random.default_rng(seed).normal(size=p.shape), p.dtype
        )

    return jax.tree_util.tree_map_with_path(drawn, params)


def digest(tree) -> str:
    whole = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(tree)):
        whole.update(np.ascontiguousarray(leaf).tobytes())
    return whole.hexdigest()[:16]


def show(label: str, tree) -> None:
    print(f"{label:<40} {digest(tree)}", flush=True)


def losses(corpus: Path) -> None:
    for label, changes in OBJECTIVES.items():
        made = experiment(corpus, changes)
        params, batch, key = (
            filled(made.new_state().params),
            next(made.batches(0)),
            keys.key(made.root, "noise", 0),
        )

        def nats(params, made=made, batch=batch, key=key):
            return made.loss(params, batch, key).nats_sum

        show(f"loss {label}", jax.jit(jax.value_and_grad(nats))(params))
        bound = made.bound(2)(params, batch, key)
        show(f"bound {label}", (bound.nats_BL, bound.variance_B))


def samples(corpus: Path) -> None:
    requests = [Request.prompt("the cat", 24)] * 2, [Request.prompt("", 31)] * 2
    for label, (objective, sampler) in SAMPLERS.items():
        made = experiment(
            corpus,
            json.dumps(
                merged(
                    json.loads(OBJECTIVES[objective]), dict(sampler=json.loads(sampler))
                )
            ),
        )
        generator = made.generator(
            filled(made.new_state().params), made.run.sampler, seed=3
        )
        replies = [reply for batch in requests for reply in generator(batch)]
        show(
            f"sample {label}",
            [(r.ids, np.float32(r.logprob), np.int32(r.nfe)) for r in replies],
        )


def updates(corpus: Path) -> None:
    for label in ("masked", "ar", "block", "masked experts"):
        made = experiment(
            corpus,
            merged_text(
                OBJECTIVES[label], '{"optim": {"ema": 0.9, "microbatches": 2}}'
            ),
        )
        state, batches = made.new_state(), made.batches(0)
        for _ in range(made.run.steps):
            state, sums = made.update(state, next(batches))
        show(f"20 updates {label}", (state, sums.get("nats_sum", 0)))


def merged_text(base: str, changes: str) -> str:
    return json.dumps(merged(json.loads(base), json.loads(changes)))


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        corpus = tiny.write_corpus(Path(folder, "corpus.txt"))
        for part in (losses, samples, updates):
            part(corpus)


if __name__ == "__main__":
    sys.exit(main())

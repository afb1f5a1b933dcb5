"""The small world of the tests: a vocabulary of 20 ids, a network of a few thousand parameters, a
corpus of 40 paragraphs.

The same few shapes everywhere, so that few programs compile.
"""

import dataclasses
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from dlm.core import axes
from dlm.core.contracts import Batch, Canvas, Layout, Models
from dlm.core.vocab import Vocab
from dlm.nn import transformer
from dlm.nn.attend.dense import DenseAttention
from dlm.nn.config import FFN, Attention, Compute, ModelConfig
from dlm.nn.inputs import LayerInputs
from dlm.nn.visibility.full import Full

ROOT = Path(__file__).parents[1]
VOCAB = Vocab(size=20, eos=16, bos=17, pad=18, mask=19)
LAYOUT = {field.name for field in dataclasses.fields(Layout)}
ATTENTION = Attention(heads=4, kv_heads=2, head_size=4)


def model_config(**changes) -> ModelConfig:
    """Two layers, width 8, grouped heads.

    `changes` are fields of ModelConfig or of its `compute`.
    """
    compute = {
        f.name: changes.pop(f.name)
        for f in dataclasses.fields(Compute)
        if f.name in changes
    }
    given = dict(
        layers=2,
        width=8,
        attention=ATTENTION,
        ffn=FFN(width=12),
        embeddings="untied",
        compute=Compute(**compute),
        vocab=VOCAB,
    )
    return ModelConfig(**given | changes)


@functools.cache
def shapes(config):
    """The parameters' shapes by name; nothing is allocated."""
    return jax.eval_shape(
        lambda: transformer.initialise(
            transformer.Transformer(config), jax.random.key(0)
        )
    )


def random_params(config, seed=0, scale=0.5):
    """Parameters with nothing at its initial zero, so that every one of them matters."""
    rng = np.random.default_rng(seed)

    def drawn(path, p):
        gain = "norm_" in axes.name_of(path)  # starts at 1
        return jnp.asarray(gain + scale * rng.normal(size=p.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(drawn, shapes(config))


def net(config, params=None):
    if params is None:
        params = random_params(config)
    return transformer.net_of(transformer.Transformer(config), params)


def models(config, params=None, **more) -> Models:
    """The network as an objective receives it."""
    return Models(net(config, params), **more)


def canvas(z_BL, t=0.5, visibility=None, cache=None, **arrays) -> Canvas:
    """A canvas with nothing frozen; `arrays` are fields of it or of its layout."""
    z_BL = jnp.asarray(z_BL, jnp.int32)
    arrays = {name: jnp.asarray(x, jnp.int32) for name, x in arrays.items()}
    layout = Layout(**{name: arrays.pop(name) for name in LAYOUT & arrays.keys()})
    t_BL, frozen_BL = jnp.full(z_BL.shape, t, jnp.float32), jnp.zeros(z_BL.shape, bool)
    return Canvas(
        z_BL, t_BL, frozen_BL, visibility or Full(), layout, **arrays, cache=cache
    )


def layer_inputs(cos, sin, prepared, valid_BL=None) -> LayerInputs:
    """What layers share in one stream, without a cache or a time."""
    mask_ratio_B = None if valid_BL is None else jnp.zeros(len(valid_BL))
    return LayerInputs(
        cos, sin, prepared, None, None, valid_BL, mask_ratio_B, DenseAttention(), 1
    )


def under(canvas: Canvas, visibility, cache=None) -> Canvas:
    """The canvas with another visibility, and with a cache."""
    return dataclasses.replace(canvas, visibility=visibility, cache=cache)


def batch(tokens_BL, index_B=None, total=None, **arrays) -> Batch:
    """A batch of real tokens; segment 0, where segments are given, is padding."""
    tokens_BL = jnp.asarray(tokens_BL, jnp.int32)
    arrays = {name: jnp.asarray(x, jnp.int32) for name, x in arrays.items()}
    layout = Layout(**{name: arrays.pop(name) for name in LAYOUT & arrays.keys()})
    real_BL = jnp.ones(tokens_BL.shape, bool)
    if layout.segments_BL is not None:
        real_BL = layout.segments_BL > 0
    index_B = jnp.arange(len(tokens_BL)) if index_B is None else jnp.asarray(index_B)
    total = total or len(tokens_BL)
    return Batch(
        tokens_BL, real_BL * 1.0, real_BL, index_B, layout, **arrays, total=total
    )


def tokens(rows, length, seed=0):
    """Random ids that a model may generate."""
    return (
        np.random.default_rng(seed)
        .integers(0, VOCAB.eos, (rows, length))
        .astype(np.int32)
    )


def close(a, b, tolerance=1e-5):
    """Both trees agree leaf by leaf, relative to 1 or to the leaf's largest value."""
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(
            x, y, atol=tolerance * max(1.0, float(jnp.abs(jnp.asarray(y)).max()))
        ),
        a,
        b,
    )


def identical(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def program(function, *given):
    """What is computed, down to its constants, without what its result does not need: cheaper to
    compare than to run.
    """
    closed = jax.make_jaxpr(function)(*given)
    needed, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    read = {id(v) for equation in needed.eqns for v in equation.invars}
    constants = [
        (v, np.asarray(c))
        for v, c in zip(closed.jaxpr.constvars, closed.consts, strict=True)
        if id(v) in read
    ]
    text = str(needed.replace(constvars=[v for v, _ in constants]))
    return re.sub("0x[0-9a-f]+", "", text), [c for _, c in constants]


def write_corpus(path):
    words = (
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "and",
        "saw",
        "dogs",
        "run",
        "up",
        "to",
        "red",
        "barns",
        "while",
        "it",
        "rained",
    )
    rng = np.random.default_rng(0)
    paragraphs = [
        " ".join(rng.choice(words, 15))
        + "\n"
        + " ".join(rng.choice(words, 15))
        + f" {i}."
        for i in range(40)
    ]
    path.write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")
    return path


def processes(count: int, module: str, *arguments) -> subprocess.Popen:
    """Starts one command as several processes of one run, as launch/local.sh --processes does, with
    one device each.
    """
    command = [
        sys.executable,
        "-m",
        "launch.processes",
        str(count),
        sys.executable,
        "-m",
        module,
        *map(str, arguments),
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        stderr=subprocess.PIPE,
        text=True,
    )


def write_recipe(path, config):
    """A file with this config, as a user writes one."""
    path.write_text(
        f'"""A recipe."""\n\n\ndef get_config(arg=None):\n    return {config!r}\n',
        encoding="utf-8",
    )
    return path


def recipe(corpus, **changes) -> dict:
    """The plain config of a tiny run on one device:

    4 updates, bytes, batches of 8 × 32. Dotted names change a field.
    """
    from dlm.core.config import to_plain

    config = dict(
        steps=4,
        text="bytes",
        data=dict(
            source=dict(
                name="local", paths=(str(corpus),), unit="paragraph", held_out=0.2
            ),
            batch=8,
            length=32,
        ),
        nn=dict(
            layers=2,
            width=16,
            attention=dict(heads=2, kv_heads=1, head_size=8),
            ffn=dict(width=24),
        ),
        objective="masked",
        optim=dict(lr=1e-2, warmup=1),
        mesh=dict(data=1),
        sampler=dict(steps=4),
        evals=dict(bound=dict(samples=2)),
        intervals=dict(log=1, save=2),
    )
    for dotted, value in changes.items():
        *parents, leaf = dotted.replace("__", ".").split(".")
        section = config
        for parent in parents:
            if isinstance(section.get(parent), str):
                section[parent] = dict(name=section[parent])
            section = section.setdefault(parent, {})
        section[leaf] = value
    return to_plain(config)


AR = dict(objective="ar", sampler=dict(steps=1, block=1))

"""From a published config.json to the `nn` section of a recipe: every key is read, known to change no number, or refused by its name."""

from typing import Any

from dlm.core.errors import UserError
from dlm.hf import rope
from dlm.hf.keys import HARMLESS, Keys, told
from dlm.hf.layouts import Layout


def network(layout: Layout, config: dict, where: Any, whole: bool = True) -> dict:
    """The `nn` section that a config.json describes; raises UserError where it says more than that, unless it need not be `whole`."""
    keys, k = Keys(config, where, layout.defaults), layout.keys
    width, heads = keys.integer(k["width"]), keys.integer(k["heads"])
    sparse = layout.router is not None and bool(keys.integer(k["number"], least=0))
    nn = dict(
        layers=keys.integer(k["layers"]),
        width=width,
        attention=dict(
            heads=heads,
            kv_heads=keys.integer(k["kv_heads"], heads),
            head_size=_head_size(layout, keys, width, heads),
            qk_norm=layout.qk_norm,
            bias=layout.bias if "bias" not in k or keys.flag(k["bias"]) else "none",
            rope=rope.read(keys, k),
        ),
        ffn=dict(
            kind="swiglu",
            width=keys.integer(k["ffn"], keys.integer(k["expert"]) if sparse else None),
        ),
        norm=dict(epsilon=keys.number(k["epsilon"])),
        embeddings="tied" if keys.flag(k["tied"]) else "untied",
    )
    if sparse:
        nn["experts"] = _experts(layout, keys, nn["layers"])
    if whole:
        _whole(layout, keys)
    return nn


def _whole(layout: Layout, keys: Keys) -> None:
    """Raises UserError where the file says what the backbone does not do, or what nobody here knows."""
    keys.integer(layout.keys["vocab"], keys.get("vocab_size"))
    for key, allowed in layout.demands.items():
        keys.demand(key, allowed)
    named = {
        name for key in layout.keys.values() for name in key.split("|")
    }  # those of experts, where there are none
    if left := keys.left(HARMLESS | layout.harmless | named):
        ignore = (
            f"--ignore={','.join(left)}" if all(key.isprintable() for key in left) else "--ignore"
        )
        raise UserError(
            f"{keys.where} says {told(left)}, which {layout.architecture} is not known to read: "
            f"{ignore} lets it through if it changes no number that you need"
        )


def _head_size(layout: Layout, keys: Keys, width: int, heads: int) -> int:
    if "head_size" in layout.keys:
        return keys.integer(layout.keys["head_size"], width // heads)
    if keys.integer("head_dim", width // heads) != width // heads:
        raise UserError(
            f"{keys.where}: head_dim={keys.get('head_dim')} is not supported: {layout.architecture} has heads of {width // heads}, "
            f"{layout.keys['width']} / {layout.keys['heads']}"
        )
    return width // heads


def _experts(layout: Layout, keys: Keys, layers: int) -> dict:
    k, width = layout.keys, keys.integer(layout.keys["expert"])
    number, active = keys.integer(k["number"]), keys.integer(k["active"])
    shared = keys.integer(k["shared"], 0, least=0) if "shared" in k else 0
    if shared % width:
        raise UserError(
            f"{keys.where}: {k['shared']}={shared} must be a multiple of {k['expert']}={width}"
        )
    router = dict(layout.router)
    if router["name"].endswith("moge"):
        router["groups"] = active  # one expert of each group, as in the released code
    elif "weights" not in router:
        router["weights"] = "renormalised" if keys.flag(k["renormalised"]) else "plain"
    dense, every = _sparse_layers(layout, keys, layers)
    return dict(
        number=number,
        active=active,
        width=width,
        shared=shared // width,
        dense=dense,
        every=every,
        router=router,
    )


def _sparse_layers(layout: Layout, keys: Keys, layers: int) -> tuple[int, int]:
    """(how many of the first layers have no experts, of the others each how-manieth has)."""
    k = layout.keys
    said = keys.integers(k["sparse"], [1] * layers) if "sparse" in k else [1] * layers
    only = keys.integers(k["dense"]) if "dense" in k else []
    every = keys.integer(k["every"], 1) if "every" in k else 1
    sparse = [bool(on) and n not in only and (n + 1) % every == 0 for n, on in enumerate(said)]
    dense = next((n for n, on in enumerate(sparse) if on), 0) + 1 - every
    if (
        len(sparse) != layers
        or dense < 0
        or sparse != [n >= dense and (n - dense + 1) % every == 0 for n in range(layers)]
    ):
        said = told(
            {k[name]: keys.get(k[name]) for name in ("sparse", "dense", "every") if name in k}
        )
        raise UserError(
            f"{keys.where}: {said}: layers with experts must follow the first dense ones, each {every}-th of them"
        )
    return dense, every

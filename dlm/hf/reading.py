"""From a published config.json to the `nn` section of a recipe.

Every key is read, known to change no prediction, or refused by its name (`hf.keys`).
"""

from typing import Any

from dlm.core.errors import UserError
from dlm.hf import rope
from dlm.hf.keys import HARMLESS, Keys, format_values
from dlm.hf.layouts import Layout


def network(layout: Layout, config: dict, where: Any, whole: bool = True) -> dict:
    """Returns the `nn` section that a config.json describes.

    Raises UserError for a value that the backbone does not implement and, if `whole`, for any key
    that this layout is not known to read.
    """
    # k: their name of what we call width, heads and so on.
    keys, k = Keys(config, where, layout.defaults), layout.keys
    width = keys.integer(k["width"])
    heads = keys.integer(k["heads"])
    sparse = _is_sparse(layout, keys)
    attention = dict(
        heads=heads,
        kv_heads=keys.integer(k["kv_heads"], heads),
        head_size=_head_size(layout, keys, width, heads),
        qk_norm=layout.qk_norm,
        bias=_bias(layout, keys),
        rope=rope.read(keys, k),
    )
    # Some layouts with experts in every layer have no width for dense layers.
    ffn_default = keys.integer(k["expert"]) if sparse else None
    ffn_width = keys.integer(k["ffn"], ffn_default)
    layers = keys.integer(k["layers"])
    tied = keys.flag(k["tied"])
    nn = dict(
        layers=layers,
        width=width,
        attention=attention,
        ffn=dict(kind="swiglu", width=ffn_width),
        norm=dict(epsilon=keys.number(k["epsilon"])),
        embeddings="tied" if tied else "untied",
    )
    if sparse:
        nn["experts"] = _experts(layout, keys, layers)
    if whole:
        _refuse_unknown(layout, keys)
    return nn


def _is_sparse(layout: Layout, keys: Keys) -> bool:
    if layout.router is None:
        return False
    return keys.integer(layout.keys["number"], least=0) > 0


def _bias(layout: Layout, keys: Keys) -> str:
    name = layout.keys.get("bias")
    if name is None or keys.flag(name):
        return layout.bias
    return "none"


def _refuse_unknown(layout: Layout, keys: Keys) -> None:
    """Raises UserError for an unsupported value and for an unknown key."""
    keys.integer(layout.keys["vocab"], keys.get("vocab_size"))
    for key, allowed in layout.required.items():
        keys.require(key, allowed)
    # Keys of experts are known even where a network without experts does not read them.
    known = HARMLESS | layout.harmless
    for key in layout.keys.values():
        known |= set(key.split("|"))
    unknown = keys.unknown(known)
    if not unknown:
        return
    # A name with a line break or the like can't be typed in a shell as it is.
    printable = all(key.isprintable() for key in unknown)
    ignore = f"--ignore={','.join(unknown)}" if printable else "--ignore"
    text = format_values(unknown)
    raise UserError(
        f"{keys.where} says {text}, which {layout.architecture} is not known to read: "
        f"{ignore} lets it through if it changes no number that you need"
    )


def _head_size(layout: Layout, keys: Keys, width: int, heads: int) -> int:
    size, k = width // heads, layout.keys
    if "head_size" in k:
        return keys.integer(k["head_size"], size)
    # The layout's code computes the size, so another head_dim would be a false statement.
    if keys.integer("head_dim", size) != size:
        raise UserError(
            f"{keys.where}: head_dim={keys.get('head_dim')} is not supported: "
            f"{layout.architecture} has heads of {size}, {k['width']} / {k['heads']}"
        )
    return size


def _experts(layout: Layout, keys: Keys, layers: int) -> dict:
    # Widths of experts may differ from those of dense layers.
    k = layout.keys
    width = keys.integer(k["expert"])
    number = keys.integer(k["number"])
    active = keys.integer(k["active"])
    shared = 0
    if "shared" in k:
        shared = keys.integer(k["shared"], 0, least=0)
    # Ours are a number of experts of one width; theirs is one wide expert.
    if shared % width:
        multiple = f"must be a multiple of {k['expert']}={width}"
        raise UserError(f"{keys.where}: {k['shared']}={shared} {multiple}")
    dense, every = _sparse_layers(layout, keys, layers)
    return dict(
        count=number,
        per_token=active,
        width=width,
        shared=shared // width,
        first_dense=dense,
        period=every,
        router=_router(layout, keys, active),
    )


def _router(layout: Layout, keys: Keys, active: int) -> dict:
    router = dict(layout.router or {})
    if router["name"].endswith("moge"):
        router["groups"] = active  # one expert of each group, as in the released code
    elif "weights" not in router:
        renormalised = keys.flag(layout.keys["renormalised"])
        router["weights"] = "renormalised" if renormalised else "plain"
    return router


def _sparse_layers(layout: Layout, keys: Keys, layers: int) -> tuple[int, int]:
    """Reads which layers have experts.

    Returns (dense, every): the first `dense` layers have none, of the others each `every`-th has.
    """
    k = layout.keys
    flags, only_dense, every = [1] * layers, [], 1
    if "sparse" in k:
        flags = keys.integers(k["sparse"], flags)
    if "dense" in k:
        only_dense = keys.integers(k["dense"])
    if "every" in k:
        every = keys.integer(k["every"], 1)
    sparse = []
    for n, flag in enumerate(flags):
        # As transformers counts: the last layer of each period has experts.
        on_step = (n + 1) % every == 0
        sparse.append(bool(flag) and n not in only_dense and on_step)

    # The first layer with experts is the last of its period.
    first = sparse.index(True) if True in sparse else 0
    dense = first + 1 - every
    if dense >= 0 and sparse == sparse_pattern(layers, dense, every):
        return dense, every
    # The error shows the keys that this layout has.
    names = [k[name] for name in ("sparse", "dense", "every") if name in k]
    text = format_values({name: keys.get(name) for name in names})
    raise UserError(
        f"{keys.where}: {text}: layers with experts must follow the first dense ones, "
        f"each {every}-th of them"
    )


def sparse_pattern(layers: int, dense: int, every: int) -> list[bool]:
    """Returns for each layer whether it has experts; the last of each period has."""
    flags = []
    for n in range(layers):
        last = (n - dense + 1) % every == 0
        flags.append(n >= dense and last)
    return flags

"""The rotary section of a config.json, in its two shapes, and what of it this backbone does.

    transformers 4    "rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 4.0}
    transformers 5    "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}, or one such for each type of layer

As in transformers 5, a section's own rope_theta goes before the one beside it. A key that is not used here is refused (`hf.keys`).
"""

from typing import Any

from dlm.core.errors import UserError
from dlm.hf.keys import Keys, told
from dlm.nn.config import Rope

_FULL = "full_attention"
_OURS = dict(  # kind → our field: their key
    linear=dict(factor="factor"),
    llama3=dict(
        factor="factor",
        low="low_freq_factor",
        high="high_freq_factor",
        original="original_max_position_embeddings",
    ),
)


def read(keys: Keys, names: dict) -> dict:
    """The `rope` section of ours; `names` are the layout's (`Layout.keys`). Raises UserError for what the backbone cannot do."""
    typed = _layer_types(keys, names)
    own = _of_full_layers(keys, *_section(keys, names), typed)
    kind = own.get("rope_type|type", "default")
    ours = dict(
        base=own.number("rope_theta")
        if own.get("rope_theta") is not None
        else keys.number(names["base"])
    )
    if kind != "default":
        if not isinstance(kind, str) or kind not in _OURS:
            raise UserError(
                f"{own.where} of type {str(kind)[:80]!r} is not supported: default, linear and llama3 are"
            )
        ours |= dict(kind=kind) | _scaled(own, keys, names, kind)
    keys.unread |= {
        f"{own.where.removeprefix(f'{keys.where}: ')}.{key}": value
        for key, value in own.left().items()
    }
    return ours


def _section(keys: Keys, names: dict) -> tuple[str, dict]:
    """(its name, the section) where there is one."""
    given = {names[k]: keys.section(names[k]) for k in ("scaling", "parameters") if k in names}
    given = {name: section for name, section in given.items() if section}
    if len(given) > 1 and len({repr(section) for section in given.values()}) > 1:
        raise UserError(f"{keys.where}: {told(given)} contradict each other: keep one of them")
    return next(iter(given.items()), (names.get("scaling", ""), {}))


def _layer_types(keys: Keys, names: dict) -> bool:
    """Whether there are types of layers that a section may speak of apart; they must all be of full attention."""
    types = keys.get("layer_types")
    if types is None or types == []:
        return False
    if types != [_FULL] * keys.integer(names["layers"]):
        raise UserError(
            f"{keys.where}: {told(dict(layer_types=types))} is not supported: it must be {_FULL!r} for each layer"
        )
    return "kinds" in names


def _of_full_layers(keys: Keys, name: str, section: dict, typed: bool) -> Keys:
    """What a section says of layers of full attention."""
    where = f"{keys.where}: {name}"
    if typed and isinstance(section.get(_FULL), dict):
        outer = Keys(section, where)
        inner = outer.section(_FULL)
        keys.unread |= {f"{name}.{key}": value for key, value in outer.left().items()}
        return Keys(inner, f"{where}.{_FULL}")
    return Keys(section, where)


def _scaled(own: Keys, keys: Keys, names: dict, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        ours: own.number(theirs) for ours, theirs in _OURS[kind].items() if ours != "original"
    }
    if (
        kind == "llama3"
    ):  # as in transformers 5, the first training was as long as the model's positions where nothing else is said
        found["original"] = own.integer(_OURS[kind]["original"], keys.get(names["length"]))
    return found


def written(rope: Rope) -> dict:
    """The keys that say it, in the shape of transformers 4, which both read."""
    found: dict[str, Any] = dict(rope_theta=rope.base)
    if rope.kind != "plain":
        found["rope_scaling"] = dict(rope_type=rope.kind) | {
            theirs: getattr(rope, ours) for ours, theirs in _OURS[rope.kind].items()
        }
    return found

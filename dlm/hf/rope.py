"""The rotary section of a config.json in its two shapes, and the part that this backbone has.

    transformers 4    "rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 4.0}
    transformers 5    "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
                      or one such section for each type of layer

As in transformers 5, a section's own rope_theta goes before the one beside the section. A key that
is not used here is refused (`hf.keys`).
"""

from typing import Any

from dlm.core.errors import UserError
from dlm.hf.keys import Keys, agree, format_values
from dlm.nn.config import Rope

_FULL = "full_attention"

# kind → our field → their key
_LINEAR = dict(factor="factor")
_LLAMA3 = dict(
    factor="factor",
    low="low_freq_factor",
    high="high_freq_factor",
    original="original_max_position_embeddings",
)
_OURS = dict(linear=_LINEAR, llama3=_LLAMA3)


def read(keys: Keys, names: dict) -> dict:
    """Returns our `rope` section; `names` are the layout's (`Layout.keys`).

    Raises UserError for a rotation that the backbone does not implement.
    """
    # Layers of other types would rotate otherwise.
    typed = _has_layer_types(keys, names)
    name, section = _section(keys, names)
    own = _of_full_layers(keys, name, section, typed)

    # Two names of the same key, of transformers 4 and 5.
    kind = own.get("rope_type|type", "default")
    if own.get("rope_theta") is None:
        base = keys.number(names["base"])
    else:
        base = own.number("rope_theta")
    ours: dict[str, Any] = dict(base=base)
    if kind != "default":
        if not isinstance(kind, str) or kind not in _OURS:
            text = f"{own.where} of type {str(kind)[:80]!r} is not supported"
            raise UserError(f"{text}: default, linear and llama3 are")
        length = keys.get(names["length"])
        ours["kind"] = kind
        ours |= _scaling(own, kind, length)

    # The caller refuses unknown keys, with those of the file itself.
    section_name = own.where.removeprefix(f"{keys.where}: ")
    for key, value in own.unknown().items():
        keys.unread[f"{section_name}.{key}"] = value
    return ours


def _section(keys: Keys, names: dict) -> tuple[str, dict]:
    """Returns (its name, the section); the section is {} where the file has none."""
    sections = {}
    for kind in ("scaling", "parameters"):
        name = names.get(kind)
        if name is not None and keys.section(name):
            sections[name] = keys.section(name)
    if not agree(sections):
        text = format_values(sections)
        raise UserError(f"{keys.where}: {text} contradict each other: keep one of them")
    for name, section in sections.items():
        return name, section
    return names.get("scaling", ""), {}


def _has_layer_types(keys: Keys, names: dict) -> bool:
    """Whether a section may have a part for each type of layer.

    Raises UserError unless all layers have full attention.
    """
    types = keys.get("layer_types")
    if types is None or types == []:
        return False
    if types != [_FULL] * keys.integer(names["layers"]):
        text = format_values(dict(layer_types=types))
        must = f"it must be {_FULL!r} for each layer"
        raise UserError(f"{keys.where}: {text} is not supported: {must}")
    return "kinds" in names


def _of_full_layers(keys: Keys, name: str, section: dict, typed: bool) -> Keys:
    """Returns the part of a section that is about layers of full attention."""
    where = f"{keys.where}: {name}"
    if not typed or not isinstance(section.get(_FULL), dict):
        return Keys(section, where)
    # The keys beside the part for full attention must be neutral, too.
    outer = Keys(section, where)
    inner = outer.section(_FULL)
    for key, value in outer.unknown().items():
        keys.unread[f"{name}.{key}"] = value
    return Keys(inner, f"{where}.{_FULL}")


def _scaling(own: Keys, kind: str, length: Any) -> dict[str, Any]:
    """Reads the numbers of a scaled rotation; `length` is the number of the model's positions."""
    fields: dict[str, Any] = {}
    for ours, theirs in _OURS[kind].items():
        if ours != "original":
            fields[ours] = own.number(theirs)
    if kind == "llama3":
        # As in transformers 5, the length of the first training is by default the model's length.
        fields["original"] = own.integer(_LLAMA3["original"], length)
    return fields


def written(rope: Rope) -> dict:
    """Returns the keys of a config.json, in the shape of transformers 4, which both read."""
    # transformers 5 moves these into a section by itself.
    keys: dict[str, Any] = dict(rope_theta=rope.base)
    if rope.kind != "plain":
        scaling: dict[str, Any] = dict(rope_type=rope.kind)
        for ours, theirs in _OURS[rope.kind].items():
            scaling[theirs] = getattr(rope, ours)
        keys["rope_scaling"] = scaling
    return keys

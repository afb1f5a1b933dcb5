"""From a published folder to the recipe of a run: what its config.json says of network, objective, tokenizer and sampler."""

from pathlib import Path
from typing import Any

from dlm.core.errors import UserError
from dlm.hf import reading
from dlm.hf.keys import Keys
from dlm.hf.layouts import Layout
from dlm.hf.shards import json_object

CONFIG, GENERATION = "config.json", "generation_config.json"
LONGEST = 2048  # positions of the recipe's windows, where the model allows more
_IDS = ("bos", "pad", "mask")


def config(folder: Path) -> dict:
    """The config.json of a folder."""
    path = Path(folder) / CONFIG
    parsed = json_object(path)
    if quantised := parsed.get("quantization_config"):
        raise UserError(
            f"{path}: quantised weights are not supported ({str(quantised)[:80]}): get the model in bfloat16 or float32"
        )
    return parsed


def ends(folder: Path, config: dict, named: int | None, known: set[int]) -> dict[str, list[int]]:
    """The ids that end a text, by who says so; all of them do. generation_config.json decides where a published model stops writing.

    `named` is the id of the tokenizer's own eos_token, `known` are the ids of all its pieces.
    Raises UserError for an id that is none of them.
    """
    path = Path(folder) / GENERATION
    found = {
        CONFIG: _listed(config, Path(folder) / CONFIG),
        GENERATION: _listed(json_object(path), path) if path.is_file() else [],
    }
    for name, ids in found.items():
        for id in set(ids) - known:
            raise UserError(
                f"{Path(folder) / name} says eos_token_id={id}, and the tokenizer has no such id: correct the one or the other"
            )
    return {
        name: ids
        for name, ids in (found | dict(tokenizer=[] if named is None else [named])).items()
        if ids
    }


def _listed(config: dict, where: Path) -> list[int]:
    """eos_token_id as a list."""
    given = config.get("eos_token_id")
    ids = given if isinstance(given, list) else [] if given is None else [given]
    for id in ids:
        if type(id) is not int or id < 0:
            raise UserError(f"{where}: eos_token_id is an id or a list of ids, not {given!r}")
    return ids


def union(ends: dict[str, list[int]]) -> list[int]:
    """All ids that end a text, once, those of config.json first."""
    return list(dict.fromkeys(id for ids in ends.values() for id in ids))


def recipe(
    folder: Path, config: dict, layout: Layout, dtype: str, ends: dict[str, list[int]]
) -> dict:
    """A run of no updates. Its other sections are what one begins with: the embedded corpus, and the model's own sampler."""
    try:
        return _recipe(folder, config, layout, dtype, union(ends))
    except (
        TypeError,
        ValueError,
        AttributeError,
        KeyError,
        IndexError,
        ArithmeticError,
    ) as error:  # a value of another kind
        raise UserError(
            f"{Path(folder) / CONFIG} is not a config.json of {layout.architecture}: {error!r}"
        ) from None


def _recipe(folder: Path, config: dict, layout: Layout, dtype: str, ends: list[int]) -> dict:
    where = Path(folder) / CONFIG
    nn, objective, keys = (
        reading.network(layout, config, where),
        dict(layout.objective),
        Keys(config, where),
    )
    length = min(LONGEST, keys.integer(layout.keys["length"], LONGEST))
    if "block" in layout.keys:
        objective["size"] = keys.integer(layout.keys["block"], 4)
    sampler = {
        "objectives.ar": dict(rule="ancestral", steps=1, block=1),
        "objectives.block": dict(
            rule=dict(name="samplers.threshold"), steps=objective.get("size", 1)
        ),
        "objectives.masked": dict(rule=dict(name="samplers.confident"), steps=32, block=32),
        "objectives.adapted": dict(
            rule=dict(name="samplers.confident", confidence="entropy"), steps=length
        ),
    }[objective["name"]]
    return dict(
        seed=0,
        steps=0,
        text=dict(
            name="text.bpe", path=str(folder), published=_published(config, layout, where, ends)
        ),
        data=dict(source=dict(name="data.embedded"), batch=8, length=length),
        nn=nn | dict(compute=dict(dtype=dtype)),
        objective=objective,
        sampler=sampler,
        evals=dict(bound=dict(samples=4, windows=64)),
    )


def _published(config: dict, layout: Layout, where: Path, ends: list[int]) -> dict:
    """What the model's files say of its ids."""
    found: dict[str, Any] = dict(
        rows=config.get(layout.keys["vocab"]) or config.get("vocab_size"), says="all"
    )
    if not isinstance(found["rows"], int):
        raise UserError(f"{where} lacks {layout.keys['vocab']}")
    for kind in _IDS:
        id = config.get(f"{kind}_token_id")
        if id is not None and type(id) is not int:
            raise UserError(f"{where}: {kind}_token_id is an id, not {str(id)[:80]!r}")
        if (
            id is None
            and kind == "mask"
            and layout.mask is not None
            and layout.mask < found["rows"]
        ):
            id = layout.mask
        if id is not None and id >= 0:
            found[kind] = id
    return found | (dict(eos=ends[0], stops=tuple(ends[1:])) if ends else {})

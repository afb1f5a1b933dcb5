"""From a published folder to the recipe of a run: network, objective, tokenizer and sampler."""

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

# Errors that a value of the wrong type in a config.json may cause while it is read.
_DAMAGED = (
    TypeError,
    ValueError,
    AttributeError,
    KeyError,
    IndexError,
    ArithmeticError,
)


def config(folder: Path) -> dict:
    """Reads the config.json of a folder; UserError for quantised weights."""
    path = Path(folder) / CONFIG
    parsed = json_object(path)
    if quantised := parsed.get("quantization_config"):
        text = str(quantised)[:80]
        raise UserError(
            f"{path}: quantised weights are not supported ({text}): "
            "get the model in bfloat16 or float32"
        )
    return parsed


def ends(
    folder: Path,
    config: dict,
    eos: int | None,
    known: set[int],
) -> dict[str, list[int]]:
    """Returns the ids that end a text, by the file that names them; all of them end one.

    generation_config.json decides where a published model stops writing. `eos` is the id of the
    tokenizer's own eos_token, `known` are the ids of all its pieces. Raises UserError for an id
    that is not known.
    """
    folder = Path(folder)
    # Files may disagree: then all of their ids end a text.
    by_file = {CONFIG: _eos_ids(config, folder / CONFIG)}
    generation = folder / GENERATION
    if generation.is_file():
        by_file[GENERATION] = _eos_ids(json_object(generation), generation)
    # An id that the tokenizer lacks would never end a text.
    for name, ids in by_file.items():
        for id in set(ids) - known:
            raise UserError(
                f"{folder / name} says eos_token_id={id}, and the tokenizer has no such id: "
                "correct the one or the other"
            )
    if eos is not None:
        by_file["tokenizer"] = [eos]
    return {name: ids for name, ids in by_file.items() if ids}


def _eos_ids(config: dict, where: Path) -> list[int]:
    """Returns eos_token_id as a list."""
    value = config.get("eos_token_id")
    if value is None:
        return []
    ids = value if isinstance(value, list) else [value]
    for id in ids:
        if type(id) is not int or id < 0:
            must = "is an id or a list of ids"
            raise UserError(f"{where}: eos_token_id {must}, not {value!r}")
    return ids


def union(ends: dict[str, list[int]]) -> list[int]:
    """Returns all ids that end a text without repetition, those of config.json first."""
    ids: dict[int, None] = {}
    for more in ends.values():
        ids |= dict.fromkeys(more)
    return list(ids)


def recipe(
    folder: Path,
    config: dict,
    layout: Layout,
    dtype: str,
    ends: dict[str, list[int]],
) -> dict:
    """Returns the recipe of a run of no updates: the published network, tokenizer and sampler.

    Data and evaluators are those of a first run: the embedded corpus.

    Args:
        folder: the published folder.
        config: its config.json.
        layout: the architecture that config.json names.
        dtype: of the computation.
        ends: ids that end a text, by the file that names them (`ends`).
    """
    try:
        return _recipe(folder, config, layout, dtype, union(ends))
    except _DAMAGED as error:
        text = f"is not a config.json of {layout.architecture}: {error!r}"
        raise UserError(f"{Path(folder) / CONFIG} {text}") from None


def _recipe(
    folder: Path,
    config: dict,
    layout: Layout,
    dtype: str,
    ends: list[int],
) -> dict:
    # Every message names the file.
    where = Path(folder) / CONFIG
    nn = reading.network(layout, config, where)
    keys = Keys(config, where)
    length = min(LONGEST, keys.integer(layout.keys["length"], LONGEST))
    objective = dict(layout.objective)
    # 4 is the block size of the published SDAR models that do not name it.
    if "block" in layout.keys:
        objective["size"] = keys.integer(layout.keys["block"], 4)
    published = _published(config, layout, where, ends)
    return dict(
        seed=0,
        steps=0,
        text=dict(name="text.bpe", path=str(folder), published=published),
        data=dict(source=dict(name="data.embedded"), batch=8, length=length),
        nn=nn | dict(compute=dict(dtype=dtype)),
        objective=objective,
        sampler=_sampler(objective, length),
        evals=dict(bound=dict(samples=4, windows=64)),
    )


def _sampler(objective: dict, length: int) -> dict:
    """Returns the sampler that the layout's own code uses."""
    threshold = dict(name="samplers.rules.threshold")
    confident = dict(name="samplers.rules.confident")
    entropy = dict(name="samplers.rules.confident", confidence="entropy")
    match objective["name"]:
        case "objectives.ar":
            return dict(rule="ancestral", steps=1, block=1)
        case "objectives.block":
            return dict(rule=threshold, steps=objective.get("size", 1))
        case "objectives.masked":
            return dict(rule=confident, steps=32, block=32)
        case "objectives.adapted":
            return dict(rule=entropy, steps=length)
    raise KeyError(objective["name"])


def _published(
    config: dict,
    layout: Layout,
    where: Path,
    ends: list[int],
) -> dict:
    """Returns what the model's files say about its ids (`text.pretrained`)."""
    # Some layouts have more rows than ids, for an even division over devices.
    rows = config.get(layout.keys["vocab"]) or config.get("vocab_size")
    if not isinstance(rows, int):
        raise UserError(f"{where} lacks {layout.keys['vocab']}")
    published: dict[str, Any] = dict(rows=rows, says="all")
    for kind in _IDS:
        id = config.get(f"{kind}_token_id")
        if id is not None and type(id) is not int:
            text = repr(str(id)[:80])
            raise UserError(f"{where}: {kind}_token_id is an id, not {text}")
        if id is None and kind == "mask":
            id = _mask_of_layout(layout, rows)
        # A negative id is the usual way to say that a model has no such token.
        if id is not None and id >= 0:
            published[kind] = id
    if ends:
        published |= dict(eos=ends[0], stops=tuple(ends[1:]))
    return published


def _mask_of_layout(layout: Layout, rows: int) -> int | None:
    """Returns the id that the layout's code has for the mask, if the embedding has its row."""
    if layout.mask is None or layout.mask >= rows:
        return None
    return layout.mask

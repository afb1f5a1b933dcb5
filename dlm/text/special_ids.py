"""The ids of eos, bos, pad and mask in a published tokenizer, and in the copy that a run saves."""

import itertools
from typing import TYPE_CHECKING

from dlm.core.errors import UserError
from dlm.core.vocab import Vocab
from dlm.text import bpe_bytes
from dlm.text.tokenizer_tree import FLAGS, OURS, OUTSIDE, TokenizerFiles, by_id, id_of_content

if TYPE_CHECKING:
    from dlm.text.bpe import Published

# Names under which published tokenizers have our specials.
NAMES = dict(
    eos=("<|eos|>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>"),
    bos=("<|bos|>", "<|begin_of_text|>", "<|startoftext|>", "<s>", "<bos>"),
    pad=("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>"),
    mask=("<|mask|>", "<|mdm_mask|>", "<mask>", "[MASK]", "<|MASK|>"),
)
_CONFIG = "config.text.published"


def vocab(files: TokenizerFiles, published: "Published", where: str) -> Vocab:
    """Choose the special ids: as `published` sets them, else by name, else as it describes.

    Raises UserError for ids that do not exist or are in use.
    """
    ids = id_of_content(files.tree).values()
    end = 1 + max(ids)
    rows = published.rows or end
    if rows < end:
        raise UserError(f"{_CONFIG}.rows={rows} is less than the {end} ids of {where}")
    chosen = _known_ids(files, published, rows, where)
    generates_all = published.says == "all"
    # The remaining ones get ids above the tokenizer's, in this order.
    free = (id for id in itertools.count(end) if id not in chosen.values())
    for kind in NAMES:
        if kind in chosen:
            continue
        shares_eos = generates_all and kind in ("bos", "pad")
        chosen[kind] = chosen["eos"] if shares_eos else next(free)
    _check(files, published, chosen, rows, where)
    size = max(rows, 1 + max(chosen.values()))
    excluded = None
    if generates_all:
        mask = chosen["mask"]
        excluded = (mask, *(id for id in range(rows, size) if id != mask))
    return Vocab(size=size, **chosen, excluded=excluded, stops=published.stops)


def _known_ids(
    files: TokenizerFiles, published: "Published", rows: int, where: str
) -> dict[str, int]:
    """The special ids that `published` sets or that the tokenizer has by name."""
    id_of_name = {token["content"]: token["id"] for token in files.tree["added_tokens"]}
    chosen = {}
    for kind, names in NAMES.items():
        id = getattr(published, kind)
        if id < 0:
            # A model that generates everything was used with the special of its own config.
            own = files.names.get(f"{kind}_token") if published.says == "all" else None
            candidates = names if own is None else (own, *names)
            id = next((id_of_name[name] for name in candidates if name in id_of_name), None)
        if id is None:
            continue
        if id >= rows:
            raise UserError(f"{_CONFIG}.{kind}={id} is no id: {where} and its model have {rows}")
        chosen[kind] = id
    return chosen


def _check(
    files: TokenizerFiles,
    published: "Published",
    chosen: dict[str, int],
    rows: int,
    where: str,
) -> None:
    stops = published.stops
    if max(stops, default=0) >= rows:
        raise UserError(
            f"{_CONFIG}.stops={stops}: {where} and its model have {rows} ids, from 0 on"
        )
    mask = chosen["mask"]
    if mask in (*stops, chosen["eos"], chosen["bos"], chosen["pad"]):
        raise UserError(
            f"{_CONFIG}: the mask must have an id of its own in {where}, "
            f"and {mask} is that of another"
        )
    # bos and pad of a model that generates everything may be pieces of text.
    kinds = ("eos", "mask") if published.says == "all" else tuple(NAMES)
    text_ids = bpe_bytes.ordinary(files.tree)
    for kind in kinds:
        if chosen[kind] in text_ids:
            raise UserError(
                f"{_CONFIG}.{kind}={chosen[kind]} is the id of a piece of text in {where}"
            )


def with_specials(tree: dict, vocab: Vocab) -> dict:
    """Add all four specials to the tree under their ids, and all added tokens to its vocabulary.

    This is what a run saves. Both are marked, so that reading it gives the published tree again.
    """
    pieces = tree["model"]["vocab"]
    added = []
    for token in tree["added_tokens"]:
        outside = {} if token["content"] in pieces else {OUTSIDE: True}
        added.append({**token, **outside})
    added += _lacking_specials(tree, vocab)
    return bpe_bytes.counted({**tree, "added_tokens": by_id(added)})


def _lacking_specials(tree: dict, vocab: Vocab) -> list[dict]:
    ids = id_of_content(tree)
    used_ids = set(ids.values())
    names: dict[int, str] = {}
    # If one id has several of these roles, the last is its name: eos.
    for kind in ("mask", "pad", "bos", "eos"):
        id = getattr(vocab, kind)
        name = f"<|{kind}|>"
        if id not in used_ids:
            names[id] = name if name not in ids else f"<|{kind} {id}|>"
    flags = FLAGS | dict(special=True)
    return [dict(id=id, content=name, **flags, **{OURS: True}) for id, name in names.items()]


def puts_bos(files: TokenizerFiles, bos: int) -> bool:
    """Whether the published tokenizer puts bos in front of a text."""
    if files.adds_bos is not None:
        return files.adds_bos
    # Without a setting, the template of the post-processor decides.
    processor = files.tree.get("post_processor") or {}
    steps = processor.get("processors") or [processor]
    return any(bos in _first_ids(step) for step in steps)


def _first_ids(step: dict) -> tuple[int, ...]:
    """The ids that a post-processor puts before a single text."""
    if step.get("type") != "TemplateProcessing":
        return ()
    pieces = step.get("single") or [{}]
    name = pieces[0].get("SpecialToken", {}).get("id")
    special = step.get("special_tokens", {}).get(name, {})
    return tuple(special.get("ids", ()))

"""The ids of eos, bos, pad and mask in a published tokenizer, and in the copy that a run saves."""

import itertools
from typing import TYPE_CHECKING

from dlm.core.errors import UserError
from dlm.core.vocab import Vocab
from dlm.text import bpe_bytes
from dlm.text.tokenizer_tree import (
    FLAGS,
    OURS,
    OUTSIDE,
    TokenizerFiles,
    added_ids,
    by_id,
    id_of_content,
)

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

Chosen = dict[str, int]  # the id of each kind of special


def vocab(files: TokenizerFiles, published: "Published", where: str) -> Vocab:
    """Choose the special ids: as `published` sets them, else by name, else as it describes.

    Raises UserError for ids that do not exist or are in use.
    """
    # The embedding of a model may have more rows than its tokenizer has ids.
    end = 1 + max(files.ids)
    rows = published.rows or end
    if rows < end:
        raise UserError(f"{_CONFIG}.rows={rows} is less than the {end} ids of {where}")
    chosen = _known_ids(files, published, rows, where)
    generates_all = published.says == "all"
    for kind in NAMES:
        if kind in chosen:
            continue
        shares_eos = generates_all and kind in ("bos", "pad")
        # The others get the first free ids above the tokenizer's.
        chosen[kind] = chosen["eos"] if shares_eos else _free_id(end, chosen)
    _check(files, published, chosen, rows, where)
    largest = max(chosen.values())
    size = max(rows, 1 + largest)
    # None: bos, pad and mask, as `Vocab` defines.
    excluded = None
    if generates_all:
        mask = chosen["mask"]
        appended = [id for id in range(rows, size) if id != mask]
        excluded = (mask, *appended)
    return Vocab(size=size, **chosen, excluded=excluded, stops=published.stops)


def _free_id(begin: int, chosen: Chosen) -> int:
    used = set(chosen.values())
    return next(id for id in itertools.count(begin) if id not in used)


def _known_ids(
    files: TokenizerFiles, published: "Published", rows: int, where: str
) -> Chosen:
    """The special ids that `published` sets or that the tokenizer has by name."""
    chosen: Chosen = {}
    for kind in NAMES:
        id = getattr(published, kind)
        # −1: find the id by its name.
        if id < 0:
            id = _named_id(files, published, kind)
        if id is None:
            continue
        if id >= rows:
            raise UserError(
                f"{_CONFIG}.{kind}={id} is no id: {where} and its model have {rows}"
            )
        chosen[kind] = id
    return chosen


def _named_id(files: TokenizerFiles, published: "Published", kind: str) -> int | None:
    id_of_name = added_ids(files.tree)
    names = list(NAMES[kind])
    # A model that generates everything was used with the special of its own config.
    own = files.names.get(f"{kind}_token")
    if own is not None and published.says == "all":
        names.insert(0, own)
    for name in names:
        if name in id_of_name:
            return id_of_name[name]
    return None


def _check(
    files: TokenizerFiles,
    published: "Published",
    chosen: Chosen,
    rows: int,
    where: str,
) -> None:
    stops = published.stops
    if max(stops, default=0) >= rows:
        raise UserError(
            f"{_CONFIG}.stops={stops}: {where} and its model have {rows} ids, from 0 on"
        )
    # A sampler could not distinguish a mask from text otherwise.
    others = dict(chosen)
    mask = others.pop("mask")
    if mask in stops or mask in others.values():
        raise UserError(
            f"{_CONFIG}: the mask must have an id of its own in {where}, "
            f"and {mask} is that of another"
        )
    # bos and pad of a model that generates everything may be pieces of text.
    kinds = tuple(NAMES)
    if published.says == "all":
        kinds = ("eos", "mask")
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
        marked = dict(token)
        # `counted` below adds it to the vocabulary, which the mark undoes on reading.
        if token["content"] not in pieces:
            marked[OUTSIDE] = True
        added.append(marked)
    added += _lacking_specials(tree, vocab)
    tree = dict(tree, added_tokens=by_id(added))
    return bpe_bytes.counted(tree)


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
    tokens = []
    for id, name in names.items():
        token = dict(id=id, content=name) | FLAGS
        token["special"] = True
        token[OURS] = True
        tokens.append(token)
    return tokens


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
    first = pieces[0].get("SpecialToken", {})
    tokens = step.get("special_tokens", {})
    special = tokens.get(first.get("id"), {})
    return tuple(special.get("ids", ()))

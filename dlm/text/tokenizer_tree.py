"""The checked content of a tokenizer.json: a tree of plain JSON, and what its folder adds to it.

Two kinds of BPE lose nothing. Over bytes, a piece is spelled in GPT-2's alphabet ('Ġthe'). Over
characters (SentencePiece), '▁' is a space, and a character without a piece is spelled in bytes
('<0xE2>'); its `byte_fallback` must cover all 256. Everything else raises UserError.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dlm.core.errors import UserError
from dlm.text import bpe_bytes

# In a saved copy: an added token that is ours, and one that the model's vocabulary lacked.
OURS = "appended"
OUTSIDE = "outside"
FLAGS = dict(
    single_word=False,
    lstrip=False,
    rstrip=False,
    normalized=False,
    special=False,
)
_KINDS = "BPE over bytes, or over characters with byte_fallback"
SUPPORTED = f"only {_KINDS}, gives the exact bytes of every id"
_LARGEST = 2**24  # ids; some arrays have one entry for each id
_AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")

Merges = list[list[str]]  # pairs of pieces

_STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


class TokenizerFiles(NamedTuple):
    """The content of a tokenizer's files."""

    tree: dict  # as in tokenizer.json
    names: dict[str, str]  # bos_token, eos_token, …
    adds_bos: bool | None = None  # add_bos_token of tokenizer_config.json
    template: str | None = None  # of chats

    @property
    def ids(self) -> set[int]:
        """The ids of all pieces and added tokens."""
        by_content = id_of_content(self.tree)
        return set(by_content.values())

    @property
    def own_eos(self) -> int | None:
        """The id of the eos_token that the files name."""
        name = self.names.get("eos_token")
        if name is None:
            return None
        return id_of_content(self.tree).get(name)


def added_ids(tree: dict) -> dict[str, int]:
    """Map the names of added tokens to their ids."""
    ids = {}
    for token in tree["added_tokens"]:
        name = token["content"]
        ids[name] = token["id"]
    return ids


def id_of_content(tree: dict) -> dict[str, int]:
    """Map all pieces and added tokens to their ids."""
    return tree["model"]["vocab"] | added_ids(tree)


def by_id(tokens: list[dict]) -> list[dict]:
    """Sort added tokens by their ids."""
    return sorted(tokens, key=lambda token: token["id"])


def complete_token(token: dict) -> dict:
    """Add the flags that an added token lacks; raises ValueError where it is none."""
    content = token["content"]
    has_id = type(token["id"]) is int
    if not isinstance(content, str) or not content or not has_id:
        raise ValueError
    complete = dict(token)
    for flag, default in FLAGS.items():
        value = token.get(flag)
        if not isinstance(value, bool):
            complete[flag] = default
    return complete


def checked(tree: dict, path: Path) -> dict:
    """Bring the fields of a tree into one form, without the tokens that we appended on saving.

    Raises UserError for other kinds of tokenizers and for damaged files.
    """
    model = tree.get("model")
    if not isinstance(model, dict):
        model = {}
    kind = _checked_kind(model, path)
    added, merges = _tokens_and_merges(tree, model, path)
    published, vocab = _without_ours(added, model["vocab"])
    _check_merges(merges, vocab, path)
    checked_tree = dict(tree)
    # A missing step is None from here on.
    for step in _STEPS:
        checked_tree[step] = tree.get(step)
    checked_tree["added_tokens"] = by_id(published)
    checked_model = {"type": kind, **model}
    checked_model["vocab"] = vocab
    checked_model["merges"] = merges
    checked_tree["model"] = checked_model
    _check_keeps_bytes(checked_tree, path)
    return checked_tree


def _without_ours(
    added: list[dict], vocab: dict[str, int]
) -> tuple[list[dict], dict[str, int]]:
    """(The published tokens, the published vocabulary).

    A copy that we saved marks our own tokens, and those that its vocabulary lacked at first.
    """
    published = []
    own_vocab = dict(vocab)
    for token in added:
        is_ours = token.get(OURS)
        if is_ours or token.get(OUTSIDE):
            own_vocab.pop(token["content"], None)
        if not is_ours:
            unmarked = dict(token)
            unmarked.pop(OUTSIDE, None)
            published.append(unmarked)
    return published, own_vocab


def _checked_kind(model: dict, path: Path) -> str:
    # Old files do not name the type.
    default = "BPE" if "merges" in model else "unknown"
    kind = model.get("type") or default
    has_vocab = isinstance(model.get("vocab"), dict)
    has_merges = isinstance(model.get("merges"), list)
    if kind != "BPE" or not has_vocab or not has_merges:
        raise UserError(f"{path} is a tokenizer of type {kind}: {SUPPORTED}")
    for affix in _AFFIXES:
        if model.get(affix):
            raise UserError(
                f"{path} has the {affix} {model[affix]!r}, and so loses where spaces were: "
                f"{SUPPORTED}"
            )
    return kind


def _tokens_and_merges(
    tree: dict, model: dict, path: Path
) -> tuple[list[dict], Merges]:
    listed = tree.get("added_tokens") or []
    merges = []
    try:
        added = [complete_token(token) for token in listed]
        for merge in model["merges"]:
            # Older files write a merge as one text, newer ones as a pair.
            pair = merge.split(" ") if isinstance(merge, str) else merge
            left, right = pair
            if isinstance(left, str) and isinstance(right, str):
                merges.append([left, right])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"{path} is damaged: an added token or a merge has not the form that it must have"
        ) from None
    return added, merges


def _check_merges(merges: Merges, vocab: dict[str, int], path: Path) -> None:
    for merge in merges:
        left, right = merge
        pieces = (left, right, left + right)
        if not all(piece in vocab for piece in pieces):
            raise UserError(
                f"{path} is damaged: the merge {merge} is of, or makes, "
                "a piece that the vocabulary has not"
            )


def _check_keeps_bytes(tree: dict, path: Path) -> None:
    """Refuses a tokenizer without a piece for each byte."""
    model = tree["model"]
    vocab = model["vocab"]
    # Over bytes: the alphabet needs a piece for each.
    if bpe_bytes.over_bytes(tree):
        alphabet = bpe_bytes.alphabet()
        lacking = [sign for sign in alphabet if sign not in vocab]
        if lacking:
            raise UserError(
                f"{path} has no piece for {len(lacking)} of the 256 bytes: {SUPPORTED}"
            )
        return
    # Over characters: any character without a piece must fall back to bytes.
    names = map(bpe_bytes.byte_name, range(256))
    if model.get("byte_fallback") is not True:
        missing = "byte_fallback"
    elif not all(name in vocab for name in names):
        missing = "pieces for all 256 bytes"
    else:
        return
    raise UserError(
        f"{path} does not split into bytes (no ByteLevel pre-tokenizer) and has no {missing}: "
        f"{SUPPORTED}"
    )


def check_ids(tree: dict, path: Path) -> None:
    """Check that each piece has one id and each id one piece, within a range for arrays."""
    piece_of: dict[int, str] = {}
    for piece, id in _pieces(tree):
        is_id = type(id) is int and 0 <= id < _LARGEST
        if not is_id:
            raise UserError(
                f"{path} is damaged: the id {id!r} of {piece!r} is out of range"
            )
        other = piece_of.setdefault(id, piece)
        if other != piece:
            raise UserError(
                f"{path} is damaged: the id {id} is that of {other!r} and of {piece!r}"
            )
    # An added token may be in the vocabulary too, under the same id.
    vocab = tree["model"]["vocab"]
    for name, id in added_ids(tree).items():
        if vocab.get(name, id) != id:
            raise UserError(f"{path} is damaged: {name!r} has two ids")


def _pieces(tree: dict) -> Iterator[tuple[str, Any]]:
    yield from tree["model"]["vocab"].items()
    for token in tree["added_tokens"]:
        yield token["content"], token["id"]

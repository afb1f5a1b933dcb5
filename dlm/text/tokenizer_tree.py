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
FLAGS = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
SUPPORTED = (
    "only BPE over bytes, or over characters with byte_fallback, gives the exact bytes of every id"
)
_LARGEST = 2**24  # ids; some arrays have one entry for each id
_AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")
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
        return set(id_of_content(self.tree).values())

    @property
    def own_eos(self) -> int | None:
        """The id of the eos_token that the files name."""
        name = self.names.get("eos_token")
        return None if name is None else id_of_content(self.tree).get(name)


def id_of_content(tree: dict) -> dict[str, int]:
    """Map all pieces and added tokens to their ids."""
    added = {token["content"]: token["id"] for token in tree["added_tokens"]}
    return tree["model"]["vocab"] | added


def by_id(tokens: list[dict]) -> list[dict]:
    """Sort added tokens by their ids."""
    return sorted(tokens, key=lambda token: token["id"])


def complete_token(token: dict) -> dict:
    """Add the flags that an added token lacks; raises ValueError where it is none."""
    content = token["content"]
    if not isinstance(content, str) or not content or type(token["id"]) is not int:
        raise ValueError
    complete = dict(token)
    for flag, default in FLAGS.items():
        if not isinstance(token.get(flag), bool):
            complete[flag] = default
    return complete


def checked(tree: dict, path: Path) -> dict:
    """Bring the fields of a tree into one form, without the tokens that we appended on saving.

    Raises UserError for other kinds of tokenizers and for damaged files.
    """
    model = tree.get("model")
    model = model if isinstance(model, dict) else {}
    kind = _checked_kind(model, path)
    added, merges = _tokens_and_merges(tree, model, path)
    # A copy that we saved marks our own tokens, and those that its vocabulary lacked at first.
    ours = {token["content"] for token in added if token.get(OURS)}
    outside = {token["content"] for token in added if token.get(OUTSIDE)}
    own_vocab = {}
    for piece, id in model["vocab"].items():
        if piece not in ours | outside:
            own_vocab[piece] = id
    published = []
    for token in added:
        if token["content"] not in ours:
            published.append({key: value for key, value in token.items() if key != OUTSIDE})
    _check_merges(merges, own_vocab, path)
    checked_tree = dict(tree)
    for step in _STEPS:
        checked_tree[step] = tree.get(step)
    checked_tree["added_tokens"] = by_id(published)
    checked_tree["model"] = {"type": kind, **model, "vocab": own_vocab, "merges": merges}
    _check_keeps_bytes(checked_tree, path)
    return checked_tree


def _checked_kind(model: dict, path: Path) -> str:
    default = "BPE" if "merges" in model else "unknown"
    kind = model.get("type") or default
    has_vocab = isinstance(model.get("vocab"), dict)
    if kind != "BPE" or not has_vocab or not isinstance(model.get("merges"), list):
        raise UserError(f"{path} is a tokenizer of type {kind}: {SUPPORTED}")
    for affix in _AFFIXES:
        if model.get(affix):
            raise UserError(
                f"{path} has the {affix} {model[affix]!r}, and so loses where spaces were: "
                f"{SUPPORTED}"
            )
    return kind


def _tokens_and_merges(tree: dict, model: dict, path: Path) -> tuple[list[dict], list[list[str]]]:
    try:
        added = [complete_token(token) for token in tree.get("added_tokens") or []]
        # Older files write a merge as one text, newer ones as a pair.
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        merges = [[a, b] for a, b in pairs if isinstance(a, str) and isinstance(b, str)]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"{path} is damaged: an added token or a merge has not the form that it must have"
        ) from None
    return added, merges


def _check_merges(merges: list[list[str]], vocab: dict[str, int], path: Path) -> None:
    for merge in merges:
        left, right = merge
        if not (left in vocab and right in vocab and left + right in vocab):
            raise UserError(
                f"{path} is damaged: the merge {merge} is of, or makes, "
                "a piece that the vocabulary has not"
            )


def _check_keeps_bytes(tree: dict, path: Path) -> None:
    """Refuses a tokenizer without a piece for each byte."""
    model = tree["model"]
    vocab = model["vocab"]
    if bpe_bytes.over_bytes(tree):
        lacking = [sign for sign in bpe_bytes.alphabet() if sign not in vocab]
        if lacking:
            raise UserError(f"{path} has no piece for {len(lacking)} of the 256 bytes: {SUPPORTED}")
        return
    if model.get("byte_fallback") is not True:
        missing = "byte_fallback"
    elif any(bpe_bytes.byte_name(byte) not in vocab for byte in range(256)):
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
        if type(id) is not int or not 0 <= id < _LARGEST:
            raise UserError(f"{path} is damaged: the id {id!r} of {piece!r} is out of range")
        other = piece_of.setdefault(id, piece)
        if other != piece:
            raise UserError(f"{path} is damaged: the id {id} is that of {other!r} and of {piece!r}")
    vocab = tree["model"]["vocab"]
    for token in tree["added_tokens"]:
        if vocab.get(token["content"], token["id"]) != token["id"]:
            raise UserError(f"{path} is damaged: {token['content']!r} has two ids")


def _pieces(tree: dict) -> Iterator[tuple[str, Any]]:
    yield from tree["model"]["vocab"].items()
    for token in tree["added_tokens"]:
        yield token["content"], token["id"]

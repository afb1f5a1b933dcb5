"""The bytes of BPE pieces, and the part of a tokenizer's file whose ids carry the bytes of a text.

over bytes         a piece is spelled in GPT-2's alphabet of 256 characters: 'Ġthe' is b' the'
over characters    '▁' is a space; '<0xE2>' is one byte of a character without a piece of its own;
                   everything else is itself

A `tree` is the content of tokenizer.json, as `text.pretrained` checks it.
"""

import functools
import json
import re
from typing import Any

from dlm.core.vocab import Vocab

SPACE = "▁"
_NO_BYTE = "\uffff"  # Latin-1 cannot encode it


def _types(node: Any) -> set[str]:
    """Collect the types of all steps of a normalizer or pre-tokenizer."""
    if isinstance(node, list):
        return set().union(*map(_types, node))
    if isinstance(node, dict):
        own_type = {str(node.get("type"))}
        return own_type.union(*map(_types, node.values()))
    return set()


def over_bytes(tree: dict) -> bool:
    """Whether the pieces are spelled in GPT-2's alphabet."""
    return "ByteLevel" in _types(tree["pre_tokenizer"])


def spaced(tree: dict) -> bool:
    """Whether a space is written as '▁'."""
    if "Metaspace" in _types(tree["pre_tokenizer"]):
        return True
    return SPACE in json.dumps(tree["normalizer"], ensure_ascii=False)


def byte_name(byte: int) -> str:
    """Return the piece that stands for one byte in a BPE over characters."""
    return f"<0x{byte:02X}>"


@functools.cache
def alphabet() -> dict[str, int]:
    """Return GPT-2's printable character of every byte.

    Printable Latin-1 stands for itself, the other bytes follow from U+0100 on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    bytes_of = {chr(byte): byte for byte in printable}
    for i, byte in enumerate(others):
        bytes_of[chr(256 + i)] = byte
    return bytes_of


def piece_bytes(tree: dict) -> dict[str, bytes]:
    """Map the pieces of the vocabulary to their bytes.

    An entry that is no piece, such as a special token in the vocabulary, stands for its own text.
    """
    pieces = tree["model"]["vocab"]
    if over_bytes(tree):
        return {piece: _spelled(piece) for piece in pieces}
    single = {byte_name(byte): bytes([byte]) for byte in range(256)}
    # Where nothing writes spaces as '▁', it is a character like any other.
    space = " " if spaced(tree) else SPACE
    bytes_of = {}
    for piece in pieces:
        text = piece.replace(SPACE, space)
        bytes_of[piece] = single.get(piece) or text.encode("utf-8", "replace")
    return bytes_of


@functools.cache
def _table() -> dict[int, str]:
    """Map the alphabet to Latin-1, whose characters are bytes, and other Latin-1 to no byte."""
    table = dict.fromkeys(range(256), _NO_BYTE)
    for character, byte in alphabet().items():
        table[ord(character)] = chr(byte)
    return table


def _spelled(piece: str) -> bytes:
    try:
        return piece.translate(_table()).encode("latin-1")
    except UnicodeEncodeError:
        return piece.encode("utf-8", "replace")


def bytes_of_ids(tree: dict, vocab: Vocab, spelled: dict[str, bytes]) -> list[bytes]:
    """List the bytes of every id: none for specials and for ids that are never produced.

    `spelled` are the bytes of the pieces.
    """
    pieces = tree["model"]["vocab"]
    content_of_id = [b""] * vocab.size
    for piece, content in spelled.items():
        content_of_id[pieces[piece]] = content
    for token in tree["added_tokens"]:
        if token["special"]:
            content_of_id[token["id"]] = b""
        elif token["content"] not in pieces:
            content_of_id[token["id"]] = token["content"].encode("utf-8", "replace")
    for id in _silent_ids(tree, vocab):
        content_of_id[id] = b""
    return content_of_id


def _silent_ids(tree: dict, vocab: Vocab) -> set[int]:
    """Ids without bytes: special ids, unless texts consist of them, and the unknown piece."""
    silent = {vocab.eos, vocab.mask}
    silent |= {vocab.bos, vocab.pad, *vocab.stops} - ordinary(tree)
    pieces = tree["model"]["vocab"]
    unknown = tree["model"].get("unk_token")
    if unknown in pieces:
        silent.add(pieces[unknown])
    return silent


def names(tree: dict) -> tuple[str, ...]:
    """List the names of special tokens, and of added tokens that no text should produce.

    Many tokenizers add single characters, bytes, or runs of spaces and line breaks: those are
    text, not names.
    """
    byte_names = {byte_name(byte) for byte in range(256)}

    def is_text(content: str) -> bool:
        blank = not content.replace(SPACE, " ").strip()
        return len(content) <= 1 or content in byte_names or blank

    tokens = tree["added_tokens"]
    chosen = [t["content"] for t in tokens if t["special"] or not is_text(t["content"])]
    return tuple(dict.fromkeys(chosen))


def ordinary(tree: dict) -> set[int]:
    """Return the ids that texts consist of: single characters, bytes and merged pieces.

    Added tokens are excluded.
    """
    pieces = tree["model"]["vocab"]
    texts = {left + right for left, right in tree["model"]["merges"]}
    texts |= {piece for piece in pieces if len(piece) == 1}
    texts |= {byte_name(byte) for byte in range(256)}
    texts -= {token["content"] for token in tree["added_tokens"]}
    return {pieces[piece] for piece in texts if piece in pieces}


def bare(tree: dict, bytes_of_id: list[bytes], spelled: dict[str, bytes]) -> dict:
    """Reduce the tree to its merges, so that the bytes of the ids are the bytes of the text.

    Without normalisation, added tokens, templates and prefix space, without pieces that would not
    stand for the bytes they consist of, and without any piece named like an added token.
    """
    names_of_tokens = set(names(tree))
    pieces = {}
    for piece, id in tree["model"]["vocab"].items():
        is_exact = bytes_of_id[id] == spelled[piece] != b""
        if is_exact and piece not in names_of_tokens:
            pieces[piece] = id

    def keeps_bytes(left: str, right: str) -> bool:
        merged = left + right
        if not (left in pieces and right in pieces and merged in pieces):
            return False
        return spelled[left] + spelled[right] == spelled[merged]

    merges = [[left, right] for left, right in tree["model"]["merges"] if keeps_bytes(left, right)]
    changes = dict(vocab=pieces, merges=merges, dropout=None, unk_token=None)
    reduced = unbounded(tree)
    reduced["added_tokens"] = []
    reduced["normalizer"] = _space_writer(tree)
    reduced["pre_tokenizer"] = without_prefix(tree["pre_tokenizer"])
    reduced["decoder"] = None
    reduced["model"] = {**tree["model"], **changes}
    return reduced


def _space_writer(tree: dict) -> dict | None:
    """The normalizer that writes spaces as '▁', where no pre-tokenizer does."""
    by_pre_tokenizer = over_bytes(tree) or "Metaspace" in _types(tree["pre_tokenizer"])
    if not spaced(tree) or by_pre_tokenizer:
        return None
    return dict(type="Replace", pattern=dict(String=" "), content=SPACE)


def nameless(tree: dict, bare: dict, begins: bool = True) -> dict:
    """Add the file's own normalisation and prefix space to `bare`.

    This encodes a text as published in which no name is special. `begins`: it is at the beginning
    of everything that is encoded.
    """
    split = tree["pre_tokenizer"] if begins else _inside(tree["pre_tokenizer"])
    return {**bare, "normalizer": tree["normalizer"], "pre_tokenizer": split}


def _inside(node: Any) -> Any:
    """Remove from a pre-tokenizer what it does only at the beginning of a text."""
    if isinstance(node, list):
        return [_inside(part) for part in node]
    if not isinstance(node, dict):
        return node
    node = {key: _inside(part) for key, part in node.items()}
    if node.get("prepend_scheme") == "first":
        node["prepend_scheme"] = "never"
    return node


def hazard(tree: dict) -> re.Pattern | None:
    """Compile a pattern for text that a tokenizer over characters would take for something else.

    That is its sign for spaces, and the names of bytes.
    """
    if over_bytes(tree):
        return None
    patterns = []
    if spaced(tree):
        patterns.append(SPACE)
    if tree["model"].get("ignore_merges"):
        patterns.append("<(?=0x[0-9A-F]{2}>)")
    return re.compile(f"({'|'.join(patterns)})") if patterns else None


def unbounded(tree: dict) -> dict:
    """Remove templates, truncation and padding."""
    return {**tree, "post_processor": None, "truncation": None, "padding": None}


def without_prefix(node: Any) -> Any:
    """Remove the prefix space from a pre-tokenizer: it would add a byte that the text lacks."""
    if isinstance(node, list):
        return [without_prefix(part) for part in node]
    if not isinstance(node, dict):
        return node
    changed = {}
    for key, part in node.items():
        changed[key] = False if key == "add_prefix_space" else without_prefix(part)
    if changed.get("type") == "Metaspace":
        changed["prepend_scheme"] = "never"
    return changed


def counted(tree: dict) -> dict:
    """Add the added tokens to the vocabulary.

    The library numbers those that are not in it itself, whatever the file says.
    """
    added = {token["content"]: token["id"] for token in tree["added_tokens"]}
    vocab = tree["model"]["vocab"] | added
    return {**tree, "model": {**tree["model"], "vocab": vocab}}

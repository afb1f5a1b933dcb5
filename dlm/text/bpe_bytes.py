"""The bytes of BPE pieces, and the part of a tokenizer's file whose ids carry the bytes of a text.

over bytes         a piece is spelled in GPT-2's alphabet of 256 characters: 'Ġthe' is b' the'
over characters    '▁' is a space; '<0xE2>' is one byte of a character without a piece of its own;
                   everything else is itself

A `tree` is the content of tokenizer.json, as `text.pretrained` checks it.
"""

import functools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from dlm.core.vocab import Vocab

SPACE = "▁"
_NO_BYTE = "\uffff"  # Latin-1 cannot encode it

Spelled = dict[str, bytes]  # the bytes of each piece


def _types(node: Any) -> set[str]:
    """Collect the types of all steps of a normalizer or pre-tokenizer."""
    types: set[str] = set()
    parts: Iterable[Any] = ()
    # Steps are nested: a sequence contains others.
    if isinstance(node, list):
        parts = node
    elif isinstance(node, dict):
        types.add(str(node.get("type")))
        parts = node.values()
    for part in parts:
        types |= _types(part)
    return types


def over_bytes(tree: dict) -> bool:
    """Whether the pieces are spelled in GPT-2's alphabet."""
    return "ByteLevel" in _types(tree["pre_tokenizer"])


def spaced(tree: dict) -> bool:
    """Whether a space is written as '▁'."""
    # Either a pre-tokenizer or a normalizer writes it.
    if "Metaspace" in _types(tree["pre_tokenizer"]):
        return True
    normalizer = json.dumps(tree["normalizer"], ensure_ascii=False)
    return SPACE in normalizer


def byte_name(byte: int) -> str:
    """Return the piece that stands for one byte in a BPE over characters."""
    return f"<0x{byte:02X}>"


@functools.cache
def alphabet() -> dict[str, int]:
    """Return GPT-2's printable character of every byte.

    Printable Latin-1 stands for itself, the other bytes follow from U+0100 on.
    """
    bytes_of = {}
    others = []
    for byte in range(256):
        # Latin-1 without control characters, spaces and the soft hyphen.
        is_printable = 33 <= byte < 127 or 161 <= byte < 256
        if is_printable and byte != 173:
            bytes_of[chr(byte)] = byte
        else:
            others.append(byte)
    for code, byte in enumerate(others, 256):
        bytes_of[chr(code)] = byte
    return bytes_of


def piece_bytes(tree: dict) -> Spelled:
    """Map the pieces of the vocabulary to their bytes.

    An entry that is no piece, such as a special token in the vocabulary, means its own text.
    """
    pieces = tree["model"]["vocab"]
    if over_bytes(tree):
        return {piece: _spelled(piece) for piece in pieces}
    bytes_of = {}
    # Where nothing writes spaces as '▁', it is a character like any other.
    space = " " if spaced(tree) else SPACE
    for piece in pieces:
        text = piece.replace(SPACE, space)
        bytes_of[piece] = text.encode("utf-8", "replace")
    # '<0xE2>' is a byte, whatever it spells.
    for byte, name in enumerate(_byte_names()):
        if name in bytes_of:
            bytes_of[name] = bytes([byte])
    return bytes_of


def _byte_names() -> list[str]:
    return [byte_name(byte) for byte in range(256)]


@functools.cache
def _table() -> dict[int, str]:
    """Map the alphabet to Latin-1, whose characters are bytes, and other Latin-1 to no byte."""
    # A character of Latin-1 that is not in the alphabet must not become a byte.
    table = dict.fromkeys(range(256), _NO_BYTE)
    for character, byte in alphabet().items():
        table[ord(character)] = chr(byte)
    return table


def _spelled(piece: str) -> bytes:
    text = piece.translate(_table())
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        # Not spelled in the alphabet: a special token, which stands for its name.
        return piece.encode("utf-8", "replace")


def bytes_of_ids(tree: dict, vocab: Vocab, spelled: Spelled) -> list[bytes]:
    """List the bytes of every id: none for specials and for ids that are never produced.

    `spelled` are the bytes of the pieces.
    """
    pieces = tree["model"]["vocab"]
    content_of_id = [b""] * vocab.size
    # The vocabulary may have gaps, and the model more rows than the vocabulary.
    for piece, content in spelled.items():
        content_of_id[pieces[piece]] = content
    for token in tree["added_tokens"]:
        id = token["id"]
        name = token["content"]
        if token["special"]:
            content_of_id[id] = b""
        elif name not in pieces:
            content_of_id[id] = name.encode("utf-8", "replace")
    for id in _silent_ids(tree, vocab):
        content_of_id[id] = b""
    return content_of_id


def _silent_ids(tree: dict, vocab: Vocab) -> set[int]:
    """Ids without bytes: special ids, unless texts consist of them, and the unknown piece."""
    silent = {vocab.bos, vocab.pad, *vocab.stops}
    # Published models may use a piece of text for these, but never for eos or the mask.
    silent -= ordinary(tree)
    silent |= {vocab.eos, vocab.mask}
    # The unknown piece replaces text that it does not contain.
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
    byte_names = _byte_names()

    def is_text(content: str) -> bool:
        is_blank = not content.replace(SPACE, " ").strip()
        return is_blank or len(content) == 1 or content in byte_names

    # In the order of their ids, each once.
    chosen = []
    for token in tree["added_tokens"]:
        name = token["content"]
        if token["special"] or not is_text(name):
            chosen.append(name)
    return tuple(dict.fromkeys(chosen))


def ordinary(tree: dict) -> set[int]:
    """Return the ids that texts consist of: single characters, bytes and merged pieces.

    Added tokens are excluded.
    """
    pieces = tree["model"]["vocab"]
    texts = set(_byte_names())
    texts |= {piece for piece in pieces if len(piece) == 1}
    for left, right in tree["model"]["merges"]:
        texts.add(left + right)
    for token in tree["added_tokens"]:
        texts.discard(token["content"])
    return {id for piece, id in pieces.items() if piece in texts}


def bare(tree: dict, bytes_of_id: list[bytes], spelled: Spelled) -> dict:
    """Reduce the tree to its merges, so that the bytes of the ids are the bytes of the text.

    Without normalisation, added tokens, templates and prefix space, without pieces that would not
    stand for the bytes they consist of, and without any piece named like an added token.
    """
    model = dict(tree["model"])
    pieces = _exact_pieces(tree, bytes_of_id, spelled)
    model["vocab"] = pieces
    model["merges"] = list(_exact_merges(tree, pieces, spelled))
    # Dropout would make the ids random, an unknown piece would lose bytes.
    model["dropout"] = None
    model["unk_token"] = None
    reduced = unbounded(tree)
    reduced["added_tokens"] = []
    reduced["normalizer"] = _space_writer(tree)
    reduced["pre_tokenizer"] = without_prefix(tree["pre_tokenizer"])
    reduced["decoder"] = None
    reduced["model"] = model
    return reduced


def _exact_pieces(
    tree: dict, bytes_of_id: list[bytes], spelled: Spelled
) -> dict[str, int]:
    """The pieces that stand for the bytes they are spelled in, and are no token's name."""
    names_of_tokens = set(names(tree))
    pieces = {}
    for piece, id in tree["model"]["vocab"].items():
        content = bytes_of_id[id]
        is_exact = content == spelled[piece] != b""
        if is_exact and piece not in names_of_tokens:
            pieces[piece] = id
    return pieces


def _exact_merges(
    tree: dict, pieces: dict[str, int], spelled: Spelled
) -> Iterator[list[str]]:
    """The merges of such pieces that keep their bytes."""
    for left, right in tree["model"]["merges"]:
        merged = left + right
        are_pieces = left in pieces and right in pieces and merged in pieces
        if are_pieces and spelled[left] + spelled[right] == spelled[merged]:
            yield [left, right]


def _space_writer(tree: dict) -> dict | None:
    """The normalizer that writes spaces as '▁', where no pre-tokenizer does."""
    types = _types(tree["pre_tokenizer"])
    if "ByteLevel" in types or "Metaspace" in types or not spaced(tree):
        return None
    pattern = dict(String=" ")
    return dict(type="Replace", pattern=pattern, content=SPACE)


def nameless(tree: dict, bare: dict, begins: bool = True) -> dict:
    """Add the file's own normalisation and prefix space to `bare`.

    This encodes a text as published in which no name is special. `begins`: it is at the beginning
    of everything that is encoded.
    """
    split = tree["pre_tokenizer"]
    named = dict(bare)
    named["normalizer"] = tree["normalizer"]
    named["pre_tokenizer"] = split if begins else _inside(split)
    return named


def _inside(node: Any) -> Any:
    """Remove from a pre-tokenizer what it does only at the beginning of a text."""
    if isinstance(node, list):
        return [_inside(part) for part in node]
    if not isinstance(node, dict):
        return node
    changed = {}
    for key, part in node.items():
        changed[key] = _inside(part)
    if changed.get("prepend_scheme") == "first":
        changed["prepend_scheme"] = "never"
    return changed


def hazard(tree: dict) -> re.Pattern | None:
    """Compile a pattern for text that a tokenizer over characters would take for something else.

    That is its sign for spaces, and the names of bytes.
    """
    if over_bytes(tree):
        return None
    # With `ignore_merges` the library takes a whole word for a piece, also the name of a byte.
    patterns = []
    if spaced(tree):
        patterns.append(SPACE)
    if tree["model"].get("ignore_merges"):
        patterns.append("<(?=0x[0-9A-F]{2}>)")
    return re.compile(f"({'|'.join(patterns)})") if patterns else None


def unbounded(tree: dict) -> dict:
    """Remove templates, truncation and padding."""
    steps = ("post_processor", "truncation", "padding")
    return {**tree, **dict.fromkeys(steps)}


def without_prefix(node: Any) -> Any:
    """Remove the prefix space from a pre-tokenizer: it would add a byte that the text lacks."""
    if isinstance(node, list):
        return [without_prefix(part) for part in node]
    if not isinstance(node, dict):
        return node
    changed = {}
    for key, part in node.items():
        changed[key] = without_prefix(part)
    # Either kind of step may add it.
    if "add_prefix_space" in changed:
        changed["add_prefix_space"] = False
    if changed.get("type") == "Metaspace":
        changed["prepend_scheme"] = "never"
    return changed


def counted(tree: dict) -> dict:
    """Add the added tokens to the vocabulary.

    The library numbers those that are not in it itself, whatever the file contains.
    """
    vocab = dict(tree["model"]["vocab"])
    for token in tree["added_tokens"]:
        name = token["content"]
        vocab[name] = token["id"]
    model = {**tree["model"], "vocab": vocab}
    return {**tree, "model": model}

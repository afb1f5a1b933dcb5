"""What the pieces of a BPE stand for, and what of a tokenizer's file makes ids whose bytes are the bytes of the text.

over bytes         a piece is spelled in GPT-2's alphabet of 256 signs: 'Ġthe' is b' the'
over characters    '▁' is a space; '<0xE2>' is one byte of a character that has no piece; all else is itself
"""

import functools
import json
import re
from typing import Any

from dlm.core.vocab import Vocab

SPACE = "▁"


def _types(node: Any) -> set[str]:
    """The types of all steps of a normalizer or pre-tokenizer."""
    if isinstance(node, list):
        return set().union(*map(_types, node))
    return (
        {str(node.get("type"))}.union(*map(_types, node.values()))
        if isinstance(node, dict)
        else set()
    )


def over_bytes(tree: dict) -> bool:
    return "ByteLevel" in _types(tree["pre_tokenizer"])


def spaced(tree: dict) -> bool:
    """Whether a space is written as '▁'."""
    return "Metaspace" in _types(tree["pre_tokenizer"]) or SPACE in json.dumps(
        tree["normalizer"], ensure_ascii=False
    )


def byte_name(byte: int) -> str:
    return f"<0x{byte:02X}>"


@functools.cache
def alphabet() -> dict[str, int]:
    """GPT-2's printable sign of every byte: printable Latin-1 stands for itself, the others follow from U+0100 on."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in own]
    return {chr(b): b for b in own} | {chr(256 + i): b for i, b in enumerate(others)}


def piece_bytes(tree: dict) -> dict[str, bytes]:
    """What the pieces of the vocabulary stand for; one that is no piece (a special left in it) for its own text."""
    pieces = tree["model"]["vocab"]
    if over_bytes(tree):
        return {p: _spelled(p) for p in pieces}
    single = {byte_name(b): bytes([b]) for b in range(256)}
    space = " " if spaced(tree) else SPACE
    return {
        p: single[p] if p in single else p.replace(SPACE, space).encode("utf-8", "replace")
        for p in pieces
    }


@functools.cache
def _table() -> dict[int, str]:
    """From the alphabet's signs to Latin-1, whose signs are bytes; what is no sign of the alphabet to something that no byte is."""
    return {c: "\uffff" for c in range(256)} | {
        ord(sign): chr(byte) for sign, byte in alphabet().items()
    }


def _spelled(piece: str) -> bytes:
    try:
        return piece.translate(_table()).encode("latin-1")
    except UnicodeEncodeError:
        return piece.encode("utf-8", "replace")


def bytes_of_ids(tree: dict, vocab: Vocab, spelled: dict[str, bytes]) -> list[bytes]:
    """Of every id; of specials, and of ids that are never produced, none. `spelled` are the bytes of the pieces."""
    spelled_bytes, pieces = [b""] * vocab.size, tree["model"]["vocab"]
    for piece, content in spelled.items():
        spelled_bytes[pieces[piece]] = content
    for token in tree["added_tokens"]:
        if token["special"]:
            spelled_bytes[token["id"]] = b""
        elif token["content"] not in pieces:
            spelled_bytes[token["id"]] = token["content"].encode("utf-8", "replace")
    unknown, plain = tree["model"].get("unk_token"), ordinary(tree)
    blank = {
        vocab.eos,
        vocab.mask,
        *(id for id in (vocab.bos, vocab.pad, *vocab.stops) if id not in plain),
    }
    for id in blank | ({pieces[unknown]} if unknown in pieces else set()):
        spelled_bytes[id] = b""
    return spelled_bytes


def names(tree: dict) -> tuple[str, ...]:
    """Of special tokens, and of what was added to the pieces and says more than a sign, a byte, or a run of spaces and line breaks: those
    are added to many tokenizers, and are text."""
    plain = {byte_name(b) for b in range(256)}

    def says(name):
        return len(name) > 1 and name not in plain and name.replace(SPACE, " ").strip()

    return tuple(
        dict.fromkeys(
            token["content"]
            for token in tree["added_tokens"]
            if token["special"] or says(token["content"])
        )
    )


def ordinary(tree: dict) -> set[int]:
    """The ids of which texts are made: single characters, bytes, and what merges make, unless they are added tokens."""
    pieces, added = tree["model"]["vocab"], {token["content"] for token in tree["added_tokens"]}
    merged = (
        {a + b for a, b in tree["model"]["merges"]}
        | {p for p in pieces if len(p) == 1}
        | {byte_name(b) for b in range(256)}
    )
    return {pieces[p] for p in merged - added if p in pieces}


def bare(tree: dict, bytes_of_id: list[bytes], spelled: dict[str, bytes]) -> dict:
    """The merges alone: without normalisation, added tokens, templates or a space put in front, and without any piece that would not
    stand for the bytes it is made of, so that the bytes of the ids are the bytes of the text; nor any with the name of an added token."""
    model, named = tree["model"], set(names(tree))
    pieces = {
        piece: id
        for piece, id in model["vocab"].items()
        if bytes_of_id[id] == spelled[piece] != b"" and piece not in named
    }

    def exact(a, b, c):
        return a in pieces and b in pieces and c in pieces and spelled[a] + spelled[b] == spelled[c]

    merges = [merge for merge in model["merges"] if exact(*merge, merge[0] + merge[1])]
    model = {**model, "vocab": pieces, "merges": merges, "dropout": None, "unk_token": None}
    written = (
        spaced(tree) and not over_bytes(tree) and "Metaspace" not in _types(tree["pre_tokenizer"])
    )
    normalizer = dict(type="Replace", pattern=dict(String=" "), content=SPACE) if written else None
    split = without_prefix(tree["pre_tokenizer"])
    return {
        **unbounded(tree),
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": split,
        "decoder": None,
        "model": model,
    }


def nameless(tree: dict, bare: dict, begins: bool = True) -> dict:
    """`bare` with the file's own normalisation and prefix space: a text as published in which no name is one. `begins` says whether it
    stands at the beginning of all that is encoded."""
    split = tree["pre_tokenizer"] if begins else _inside(tree["pre_tokenizer"])
    return {**bare, "normalizer": tree["normalizer"], "pre_tokenizer": split}


def _inside(node: Any) -> Any:
    """A pre-tokenizer without what it does at the beginning of a text alone."""
    if isinstance(node, list):
        return [_inside(v) for v in node]
    if not isinstance(node, dict):
        return node
    node = {k: _inside(v) for k, v in node.items()}
    return node | dict(prepend_scheme="never") if node.get("prepend_scheme") == "first" else node


def hazard(tree: dict) -> re.Pattern | None:
    """What a text may hold and a tokenizer over characters would take for something else: its sign for spaces, names of bytes."""
    if over_bytes(tree):
        return None
    signs = ([SPACE] if spaced(tree) else []) + (
        ["<(?=0x[0-9A-F]{2}>)"] if tree["model"].get("ignore_merges") else []
    )
    return re.compile(f"({'|'.join(signs)})") if signs else None


def unbounded(tree: dict) -> dict:
    """Without templates, cuts and padding."""
    return {**tree, "post_processor": None, "truncation": None, "padding": None}


def without_prefix(node: Any) -> Any:
    """A prefix space would add a byte that the text does not have."""
    if isinstance(node, list):
        return [without_prefix(v) for v in node]
    if not isinstance(node, dict):
        return node
    node = {k: False if k == "add_prefix_space" else without_prefix(v) for k, v in node.items()}
    return node | dict(prepend_scheme="never") if node.get("type") == "Metaspace" else node


def counted(tree: dict) -> dict:
    """With the added tokens in the vocabulary too: the library numbers those that are not in it itself, whatever the file says."""
    pieces = tree["model"]["vocab"] | {
        token["content"]: token["id"] for token in tree["added_tokens"]
    }
    return {**tree, "model": {**tree["model"], "vocab": pieces}}

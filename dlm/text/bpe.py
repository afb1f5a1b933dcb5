"""Byte-level BPE: bytes, and the pairs of them that a corpus repeats most, merged one by one (arXiv:1508.07909, arXiv:1909.03341).

    0 … 255            the bytes                      in the order of GPT-2's alphabet
    256 … k            the merges learned             k ≤ size − 5; a small corpus may give fewer
    …                  unused                         never produced, 0 bytes
    size − 4 … − 1     eos bos pad mask

The size is a config's and known before any corpus is read. `path` takes a published byte-level `tokenizer.json` instead: its ids
stay, specials it lacks are appended.
"""

import functools
import itertools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from dlm import text
from dlm.run import files
from dlm.run.spec import UserError, Vocab

FILE = "tokenizer.json"  # in a run directory

# What a merge may not cross. A word takes one sign or space before it along ('.append', '_name', ' the'), punctuation takes the
# line break and indentation after it (':\n        '), digits go by threes. On held-out source and prose at 1,024 ids this gives
# 2.64 bytes per token, GPT-2's pattern 2.55 and cl100k's 2.50.
PATTERN = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{L}]+",
        r" ?[\p{N}]{1,3}",
        r" ?[^\s\p{L}\p{N}]+(?:\r?\n[ \t]*)*",
        r"\s*\n[ \t]*",
        r"\s+(?!\S)",
        r"\s+",
    )
)
ASCII_PATTERN = re.compile(PATTERN.replace(r"\p{L}", "a-zA-Z").replace(r"\p{N}", "0-9"), re.ASCII)
WHOLE = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False)  # bytes, no split

# Names under which published tokenizers carry our specials.
PUBLISHED = dict(
    eos=("<|eos|>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>"),
    bos=("<|bos|>", "<|begin_of_text|>", "<|startoftext|>", "<s>", "<bos>"),
    pad=("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>"),
    mask=("<|mask|>", "<|mdm_mask|>", "<mask>", "[MASK]", "<|MASK|>"),
)


@dataclass(frozen=True)
class BPE:
    """Learned from the corpus, or published (`path`)."""

    size: int = 1024  # ids in all, with the bytes and the specials; not read where `path` is given
    sample: int = 2_000_000  # characters of the corpus to learn from, drawn over whole documents; about a second
    path: str | None = None  # a published byte-level tokenizer.json

    def __post_init__(self):
        if self.size < 260:
            raise ValueError(f"size must be at least 260 (256 bytes and 4 specials), not {self.size}")
        if self.sample < 1:
            raise ValueError(f"sample must be at least 1 character, not {self.sample}")

    @property
    def vocab(self) -> Vocab:
        return text.closing(self.size) if self.path is None else _published_vocab(_read(Path(self.path).expanduser()))

    def fit(self, documents: Iterable[str]) -> text.Tokenizer:
        """Learns the merges: the same documents in the same order give the same merges."""
        if self.path is not None:
            return BPETokenizer(_read(Path(self.path).expanduser()), self.vocab)
        return BPETokenizer(_learn(_sample(documents, self.sample), self.size), self.vocab)

    def restore(self, folder: Path) -> text.Tokenizer:
        """What `save` wrote into a run directory; the published file is not needed any more, but for its sizes."""
        tree = _read(Path(folder) / FILE)
        if self.path is None and _specials(tree).get("mask") != self.size - 1:
            raise UserError(f"{Path(folder) / FILE} is not a tokenizer of {self.size} ids (config.text.size)")
        return BPETokenizer(tree, _published_vocab(tree))


class BPETokenizer(text.Tokenizer):
    """Encodes with the merges alone: normalisation, added tokens and templates of the file are not applied, so that the bytes of
    the ids are the bytes of the text."""

    def __init__(self, tree: dict, vocab: Vocab):
        """`tree` is the content of a tokenizer.json."""
        bytes_of_id = [b""] * vocab.size
        for piece, id in tree["model"]["vocab"].items():
            bytes_of_id[id] = _bytes(piece)
        for token in tree["added_tokens"]:
            bytes_of_id[token["id"]] = b"" if token["special"] else token["content"].encode()
        for id in (vocab.eos, *vocab.never):
            bytes_of_id[id] = b""
        super().__init__(vocab, bytes_of_id)
        self._tree = tree
        bare = {**tree, "added_tokens": [], "normalizer": None, "post_processor": None, "truncation": None, "padding": None}
        self._encoder = tokenizers.Tokenizer.from_str(json.dumps(bare))
        self._own_split = _pattern(tree["pre_tokenizer"]) == PATTERN
        self._whole = tokenizers.Tokenizer.from_str(json.dumps({**bare, "pre_tokenizer": WHOLE}))
        self._ids: dict[str, list[int]] = {}  # of pieces seen

    def encode_all(self, texts: list[str]) -> list[np.ndarray]:
        texts = [t if t.isascii() else text.utf8(t).decode() for t in texts]
        fast = [i for i, t in enumerate(texts) if self._own_split and t.isascii()]
        slow = sorted(set(range(len(texts))) - set(fast))
        ids = dict(zip(fast, self._encode_ascii([texts[i] for i in fast]), strict=True))
        found = self._encoder.encode_batch_fast([texts[i] for i in slow], add_special_tokens=False)
        ids |= {i: np.array(e.ids, np.int32) for i, e in zip(slow, found, strict=True)}
        return [ids[i] for i in range(len(texts))]

    def _encode_ascii(self, texts: list[str]) -> list[np.ndarray]:
        """The same ids four times as fast: a corpus has few distinct pieces, and Python's `re` splits ASCII alike."""
        pieces = [ASCII_PATTERN.findall(t) for t in texts]
        if len(self._ids) > 2**20:
            self._ids.clear()
        new = list(set(itertools.chain.from_iterable(pieces)) - self._ids.keys())
        encoded = self._whole.encode_batch_fast(new, add_special_tokens=False)
        self._ids |= {piece: e.ids for piece, e in zip(new, encoded, strict=True)}
        rows = (itertools.chain.from_iterable(map(self._ids.__getitem__, row)) for row in pieces)
        return [np.fromiter(row, np.int32) for row in rows]

    def content(self) -> str:
        return json.dumps(self._tree, ensure_ascii=False)

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json`, which other libraries read too."""
        files.write(Path(folder) / FILE, json.dumps(_with_specials(self._tree, self.vocab), indent=1, ensure_ascii=False))


# ------------------------------------------------------------------------------------------------------------------ learning


def _sample(documents: Iterable[str], characters: int) -> list[str]:
    """Whole documents in a fixed pseudo-random order until there are `characters`, so that every part of a corpus is seen."""
    if not hasattr(documents, "__getitem__"):
        documents = list(documents)
    drawn = []
    for i in np.random.RandomState(0).permutation(len(documents)):
        drawn.append(documents[int(i)][:characters])
        characters -= len(drawn[-1])
        if characters <= 0:
            break
    if not any(drawn):
        raise UserError("no text to learn a tokenizer from")
    return [text.utf8(t).decode() for t in drawn]


def _learn(documents: list[str], size: int) -> dict:
    learner = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
    learner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    learner.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(documents, trainers.BpeTrainer(vocab_size=size - 4, initial_alphabet=alphabet, show_progress=False))
    return _with_specials(json.loads(learner.to_str()), text.closing(size))


def _pattern(pre_tokenizer) -> str | None:
    """The one regex of a pre-tokenizer of our make."""
    steps = pre_tokenizer.get("pretokenizers", []) if isinstance(pre_tokenizer, dict) else []
    return steps[0].get("pattern", {}).get("Regex") if len(steps) == 2 else None


def _with_specials(tree: dict, vocab: Vocab) -> dict:
    """The tree with all four specials under their ids, both in the vocabulary (which may have gaps) and as added tokens."""
    ids = dict(eos=vocab.eos, bos=vocab.bos, pad=vocab.pad, mask=vocab.mask)
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    lacking = [kind for kind in ids if kind not in _specials(tree)]
    added = [dict(id=ids[kind], content=f"<|{kind}|>", **flags) for kind in lacking]
    pieces = {**tree["model"]["vocab"], **{f"<|{kind}|>": ids[kind] for kind in lacking}}
    added_tokens = sorted([*tree["added_tokens"], *added], key=lambda token: token["id"])
    return {**tree, "added_tokens": added_tokens, "model": {**tree["model"], "vocab": pieces}}


# ------------------------------------------------------------------------------------------------------------------- reading


def _read(path: Path) -> dict:
    """A tokenizer.json, checked to be byte-level BPE."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no tokenizer {path}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a tokenizer.json: {error}") from None
    model = tree.get("model") if isinstance(tree, dict) else None
    if not isinstance(model, dict) or model.get("type") != "BPE" or not set(_alphabet()) <= set(model.get("vocab", ())):
        raise UserError(f"{path} is not byte-level BPE: only those give the exact bytes of every id")
    if '"ByteLevel"' not in json.dumps(tree.get("pre_tokenizer")):
        raise UserError(f"{path} does not split into bytes (no ByteLevel pre-tokenizer)")
    return {**tree, "added_tokens": tree.get("added_tokens") or [], "pre_tokenizer": _without_prefix(tree["pre_tokenizer"])}


def _without_prefix(node):
    """A prefix space would add a byte that the text does not have."""
    if isinstance(node, dict):
        return {k: False if k == "add_prefix_space" else _without_prefix(v) for k, v in node.items()}
    return [_without_prefix(v) for v in node] if isinstance(node, list) else node


def _specials(tree: dict) -> dict[str, int]:
    """The ids of eos, bos, pad and mask, as far as the file has them."""
    ids = {token["content"]: token["id"] for token in tree["added_tokens"]}
    found = {kind: next((ids[name] for name in names if name in ids), None) for kind, names in PUBLISHED.items()}
    return {kind: id for kind, id in found.items() if id is not None}


def _published_vocab(tree: dict) -> Vocab:
    found = _specials(tree)
    size = 1 + max([*tree["model"]["vocab"].values(), *(token["id"] for token in tree["added_tokens"])])
    for kind in PUBLISHED:
        if kind not in found:
            found[kind], size = size, size + 1
    return Vocab(size=size, **found)


@functools.cache
def _alphabet() -> dict[str, int]:
    """GPT-2's printable sign of every byte: printable Latin-1 stands for itself, the others follow from U+0100 on."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in own]
    return {chr(b): b for b in own} | {chr(256 + i): b for i, b in enumerate(others)}


def _bytes(piece: str) -> bytes:
    """The bytes of a piece; of a name that is no piece (a special left in the vocabulary), its own text."""
    table = _alphabet()
    return bytes(table[c] for c in piece) if all(c in table for c in piece) else piece.encode()

"""Byte-level BPE: bytes, and the pairs of them that a corpus repeats most, merged one by one (arXiv:1508.07909, arXiv:1909.03341).

    0 … 255            the bytes                      in the order of GPT-2's alphabet
    256 … k            the merges learned             k ≤ size − 5; a small corpus may give fewer
    …                  unused                         never produced, 0 bytes
    size − 4 … − 1     eos bos pad mask

The size is a config's and known before any corpus is read. `path` takes a published tokenizer instead (`text.pretrained`): its ids stay,
and `published` says what its model knows and it does not.
"""

import functools
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from dlm import text
from dlm.core.errors import UserError
from dlm.core.named import Place
from dlm.core.vocab import Vocab
from dlm.text import bpe_bytes, pretrained
from dlm.text.pretrained import TokenizerFiles

FILE = pretrained.FILE  # in a run directory

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
WHOLE = dict(
    type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False
)  # bytes, no split

# Texts that tokenizers are known to lose something of, each after a line break so that all of them are tried at once.
PROBE = "\n".join(
    (
        " a  b   c ",
        "\t\t x\r\n\r\n ",
        "".join(map(chr, range(128))),
        "é e\u0301 ﬁ Ａ ½ ß İ",
        "🎉👩\u200d🚀 \u2028\x85\xa0\u3000",
        "中文字 ▁ ▁▁ Ġ",
    )
)


@dataclass(frozen=True)
class Published:
    """What a published model knows of its ids, and a tokenizer's files need not say; `hf` takes it from the model's own config.

    An id of −1 is found by its name. One that has no name is taken from the rows above the tokenizer's ids, else appended. So all four
    differ, unless they are named otherwise or `says` is 'all': then a model without bos or pad has eos in their place, as it was used.
    """

    rows: int = 0  # of the model's embedding; 0: as many as the tokenizer has ids
    eos: int = -1
    bos: int = -1
    pad: int = -1
    mask: int = -1
    stops: tuple[int, ...] = ()  # what ends a text besides eos
    says: Literal["text", "all"] = (
        "text"  # text: bos, pad and mask are never generated; all: only the mask and what is appended are not
    )

    def __post_init__(self):
        for name in ("rows", "eos", "bos", "pad", "mask"):
            if getattr(self, name) < -(name != "rows"):
                raise ValueError(
                    f"{name}={getattr(self, name)} must not be negative"
                    + ("" if name == "rows" else ", or -1: by its name")
                )
        if min(self.stops, default=0) < 0:
            raise ValueError(f"stops={self.stops} must not be negative")


@dataclass(frozen=True)
class BPE:
    """Learned from the corpus, or published (`path`)."""

    size: int = 1024  # ids in all, with the bytes and the specials; not read where `path` is given
    sample: int = 2_000_000  # characters of the corpus to learn from, drawn over whole documents; about a second
    path: Place | None = (
        None  # of a published tokenizer: its folder, tokenizer.json, or vocab.json beside merges.txt
    )
    published: Published = field(default_factory=Published)  # read where `path` is given

    def __post_init__(self):
        if self.size < 260:
            raise ValueError(
                f"size must be at least 260 (256 bytes and 4 specials), not {self.size}"
            )
        if self.sample < 1:
            raise ValueError(f"sample must be at least 1 character, not {self.sample}")

    @property
    def vocab(self) -> Vocab:
        return (
            text.closing(self.size)
            if self.path is None
            else self._ids(pretrained.read(self.path), self.path)
        )

    def _ids(self, tokenizer_files: TokenizerFiles, where: str | Path) -> Vocab:
        return pretrained.special_ids(
            tokenizer_files, Published() if self.path is None else self.published, str(where)
        )

    def fit(self, documents: Iterable[str]) -> text.Tokenizer:
        """Learns the merges: the same documents in the same order give the same merges."""
        if self.path is not None:
            tokenizer_files = pretrained.read(self.path)
            return BPETokenizer(tokenizer_files, self._ids(tokenizer_files, self.path), self.path)
        return BPETokenizer(
            TokenizerFiles(_learn(_sample(documents, self.sample), self.size), {}), self.vocab
        )

    def restore(self, folder: Path) -> text.Tokenizer:
        """What `save` wrote into a run directory; the published files are not needed any more."""
        path = Path(folder) / FILE
        tokenizer_files = pretrained.read(path)
        vocab = self._ids(tokenizer_files, path)
        if self.path is None and vocab.mask != self.size - 1:
            raise UserError(f"{path} is not a tokenizer of {self.size} ids (config.text.size)")
        return BPETokenizer(tokenizer_files, vocab, path)


class BPETokenizer(text.Tokenizer):
    """`encode` has the merges alone: normalisation, added tokens and templates of the file are not applied, so that the bytes of the ids
    are the bytes of the text. `encode_marked` has all but the template."""

    def __init__(
        self, tokenizer_files: TokenizerFiles, vocab: Vocab, where: str | Path = "this tokenizer"
    ):
        self._tree, self._tokenizer_files, self._where = (
            tokenizer_files.tree,
            tokenizer_files,
            where,
        )
        spelled = bpe_bytes.piece_bytes(tokenizer_files.tree)
        content = bpe_bytes.bytes_of_ids(tokenizer_files.tree, vocab, spelled)
        super().__init__(vocab, content)
        self.adds_bos = (
            None if vocab.excluded is None else pretrained.puts_bos(tokenizer_files, vocab.bos)
        )
        self._bare, self._hazard = (
            bpe_bytes.bare(tokenizer_files.tree, content, spelled),
            bpe_bytes.hazard(tokenizer_files.tree),
        )
        self._encoder = self._build(self._bare)
        self._own_split = _pattern(tokenizer_files.tree["pre_tokenizer"]) == PATTERN
        self._ids: dict[str, list[int]] = {}  # of pieces seen
        if not self._own_split and self.decode(self._encode_any([PROBE])[0]) != PROBE:
            self._refuse()

    def encode_all(self, texts: list[str]) -> list[np.ndarray]:
        texts = [t if t.isascii() else text.utf8(t).decode() for t in texts]
        fast = [i for i, t in enumerate(texts) if self._own_split and t.isascii()]
        slow = sorted(set(range(len(texts))) - set(fast))
        ids = (
            dict(zip(fast, self._encode_ascii([texts[i] for i in fast]), strict=True))
            if fast
            else {}
        )
        ids |= dict(zip(slow, self._encode_any([texts[i] for i in slow]), strict=True))
        return [ids[i] for i in range(len(texts))]

    def _encode_any(self, texts: list[str]) -> list[np.ndarray]:
        """By the library; what would be taken for something else stands alone, or in bytes."""
        parts = [self._hazard.split(t) if self._hazard else [t] for t in texts]
        flat = [part for row in parts for part in row]
        encodings = iter(self._encoder.encode_batch_fast(flat, add_special_tokens=False))
        rows = [
            [
                self._sign if part == bpe_bytes.SPACE and self._hazard else e.ids
                for part, e in zip(row, encodings)  # noqa: B905
            ]
            for row in parts
        ]
        ids = [np.fromiter(itertools.chain.from_iterable(row), np.int32) for row in rows]
        if any(self.bytes_V[i].sum() != len(t.encode()) for i, t in zip(ids, texts, strict=True)):
            self._refuse()
        return ids

    @functools.cached_property
    def _sign(self) -> list[int]:
        """The ids of the sign for spaces, where it stands for itself."""
        return [
            self._tree["model"]["vocab"][bpe_bytes.byte_name(b)] for b in bpe_bytes.SPACE.encode()
        ]

    def _refuse(self) -> None:
        split = self._tree["pre_tokenizer"] or self._tree["model"]
        raise UserError(
            f"{self._where} loses bytes of texts (pre-tokenizer {split.get('type')}): {pretrained.SUPPORTED}"
        )

    def _build(self, tree: dict) -> tokenizers.Tokenizer:
        try:
            return tokenizers.Tokenizer.from_str(json.dumps(tree))
        except Exception as error:  # the library has no narrower one
            raise UserError(f"{self._where} is damaged: {error}") from None

    @functools.cached_property
    def _whole(self) -> tokenizers.Tokenizer:
        return self._build({**self._bare, "pre_tokenizer": WHOLE})

    @functools.cached_property
    def _marked(self) -> tokenizers.Tokenizer:
        return self._build(bpe_bytes.counted(bpe_bytes.unbounded(self._tree)))

    @property
    def names(self) -> tuple[str, ...]:
        return bpe_bytes.names(self._tree)

    def encode_marked(self, text_: str) -> np.ndarray:
        plain, spelled = text.utf8(text_).decode(), self.spelled(text_)
        encoding = self._marked.encode(text.blanked(plain, spelled), add_special_tokens=False)
        if not spelled:
            return np.array(encoding.ids, np.int32)
        ids: list[int] = []
        for begin, end, own in self._stretches(encoding, len(plain)):
            if any(begin <= a < end for a, _ in spelled):
                own = (
                    (self._nameless if begin else self._nameless_first)
                    .encode(plain[begin:end], add_special_tokens=False)
                    .ids
                )
            ids += own
        return np.array(ids, np.int32)

    def _stretches(
        self, encoding: tokenizers.Encoding, length: int
    ) -> Iterator[tuple[int, int, list[int]]]:
        """(begin, end, ids) of the names in a text and of what lies between them, which the library encodes each for itself."""
        begin, own = 0, []
        for id, (a, b) in zip(encoding.ids, encoding.offsets, strict=True):
            if id in self._added:
                yield begin, a, own
                yield b, b, [id]
                begin, own = b, []
            else:
                own.append(id)
        yield begin, length, own

    @functools.cached_property
    def _added(self) -> set[int]:
        return {token["id"] for token in self._tree["added_tokens"]}

    @functools.cached_property
    def _nameless_first(self) -> tokenizers.Tokenizer:
        return self._build(bpe_bytes.nameless(self._tree, self._bare))

    @functools.cached_property
    def _nameless(self) -> tokenizers.Tokenizer:
        """The same for what does not begin a text, where a prefix that is for its beginning alone is not put in front."""
        return self._build(bpe_bytes.nameless(self._tree, self._bare, begins=False))

    @functools.cached_property
    def _id_of_name(self) -> dict[str, int]:
        return {token["content"]: token["id"] for token in self._tree["added_tokens"]}

    def _encode_ascii(self, texts: list[str]) -> list[np.ndarray]:
        """The same ids four times as fast: a corpus has few distinct pieces, and Python's `re` splits ASCII alike."""
        split = [ASCII_PATTERN.findall(t) for t in texts]
        if len(self._ids) > 2**20:
            self._ids.clear()
        new = list(set(itertools.chain.from_iterable(split)) - self._ids.keys())
        encoded = self._whole.encode_batch_fast(new, add_special_tokens=False)
        self._ids |= {piece: e.ids for piece, e in zip(new, encoded, strict=True)}
        rows = (itertools.chain.from_iterable(map(self._ids.__getitem__, row)) for row in split)
        return [np.fromiter(row, np.int32) for row in rows]

    def content(self) -> str:
        return json.dumps(self._tree, ensure_ascii=False)

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json`, which other libraries read too, and the names and the chat template that were published with it."""
        pretrained.save(Path(folder), self._tokenizer_files, self.vocab)


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
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    learner.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        documents,
        trainers.BpeTrainer(vocab_size=size - 4, initial_alphabet=alphabet, show_progress=False),
    )
    return _closed(json.loads(learner.to_str()), size)


def _pattern(pre_tokenizer) -> str | None:
    """The one regex of a pre-tokenizer of our make."""
    steps = pre_tokenizer.get("pretokenizers", []) if isinstance(pre_tokenizer, dict) else []
    return steps[0].get("pattern", {}).get("Regex") if len(steps) == 2 else None


def _closed(tree: dict, size: int) -> dict:
    """The tree with the four specials as its last ids, in the vocabulary (which may have gaps) and as added tokens."""
    vocab = text.closing(size)
    ids = {"<|eos|>": vocab.eos, "<|bos|>": vocab.bos, "<|pad|>": vocab.pad, "<|mask|>": vocab.mask}
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    added = [dict(id=id, content=name, **flags) for name, id in ids.items()]
    return {
        **tree,
        "added_tokens": added,
        "model": {**tree["model"], "vocab": tree["model"]["vocab"] | ids},
    }

"""Byte-level BPE: bytes, and the most frequent pairs of a corpus, merged one by one.

    0 … 255            the bytes                      in the order of GPT-2's alphabet
    256 … k            the learned merges             k ≤ size − 5; a small corpus may give fewer
    …                  unused                         never produced, 0 bytes
    size − 4 … − 1     eos bos pad mask

The size is in the config and known before any corpus is read. `path` uses a published tokenizer
instead (`text.pretrained`): its ids stay, and `published` adds what only its model's config says.

Sources: arXiv:1508.07909 (BPE), arXiv:1909.03341 (over bytes).
"""

import functools
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers

from dlm.core.errors import UserError
from dlm.core.named import Place
from dlm.core.vocab import Vocab
from dlm.text import bpe_bytes, bpe_learning, pretrained, special_ids
from dlm.text.base import Tokenizer, blanked, closing, utf8
from dlm.text.tokenizer_tree import SUPPORTED, TokenizerFiles, added_ids

FILE = pretrained.FILE  # in a run directory

# Python's `re` splits ASCII like the library's regular expressions, with these classes.
_ASCII_LETTERS = bpe_learning.PATTERN.replace(r"\p{L}", "a-zA-Z")
_ASCII = _ASCII_LETTERS.replace(r"\p{N}", "0-9")
ASCII_PATTERN = re.compile(_ASCII, re.ASCII)

# Bytes without any split: the text is one piece already.
WHOLE = dict(
    type="ByteLevel",
    add_prefix_space=False,
    trim_offsets=True,
    use_regex=False,
)

_CACHED_PIECES = 2**20  # after which the cache of pieces starts again

# Texts of which tokenizers are known to lose something. Each follows a line break, so that one
# call tries all of them.
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


Stretch = tuple[int, int, list[int]]  # begin, end and ids of a part of a text


@dataclass(frozen=True)
class Published:
    """The facts about a published model's ids that its tokenizer files may not contain.

    `hf` reads them from the model's own config. An id of −1 is found by its name. One without a
    name is taken from the rows above the tokenizer's ids, else appended. So all four differ, unless
    they are named otherwise or `says` is 'all': then a model without bos or pad uses eos instead,
    as it was trained.
    """

    rows: int = 0  # of the model's embedding; 0: as many as the tokenizer has ids
    eos: int = -1
    bos: int = -1
    pad: int = -1
    mask: int = -1
    stops: tuple[int, ...] = ()  # ids that end a text besides eos
    # What the model generates. text: never bos, pad or mask; all: anything except the mask and
    # appended ids.
    says: Literal["text", "all"] = "text"

    def __post_init__(self):
        if self.rows < 0:
            raise ValueError(f"rows={self.rows} must not be negative")
        for name in ("eos", "bos", "pad", "mask"):
            id = getattr(self, name)
            if id < -1:
                raise ValueError(
                    f"{name}={id} must not be negative, or -1: by its name"
                )
        if min(self.stops, default=0) < 0:
            raise ValueError(f"stops={self.stops} must not be negative")


@dataclass(frozen=True)
class BPE:
    """Merge frequent pairs of bytes, as learned from the corpus or as published (`path`)."""

    size: int = (
        1024  # ids in all, with the bytes and the specials; ignored where `path` is set
    )
    sample: int = (
        2_000_000  # characters of whole documents to learn from; about a second
    )
    path: Place | None = (
        None  # published: a folder, tokenizer.json, or vocab.json + merges.txt
    )
    published: Published = field(default_factory=Published)  # used where `path` is set

    def __post_init__(self):
        if self.size < 260:
            raise ValueError(
                f"size must be at least 260 (256 bytes and 4 specials), not {self.size}"
            )
        if self.sample < 1:
            raise ValueError(f"sample must be at least 1 character, not {self.sample}")

    @property
    def vocab(self) -> Vocab:
        if self.path is None:
            return closing(self.size)
        files = pretrained.read(self.path)
        return self._vocab(files, self.path)

    def _vocab(self, files: TokenizerFiles, where: str | Path) -> Vocab:
        # A learned tokenizer has our own names.
        published = Published()
        if self.path is not None:
            published = self.published
        return special_ids.vocab(files, published, str(where))

    def fit(self, documents: Iterable[str]) -> Tokenizer:
        """Learn the merges: the same documents in the same order give the same merges."""
        if self.path is not None:
            files = pretrained.read(self.path)
            vocab = self._vocab(files, self.path)
            return BPETokenizer(files, vocab, self.path)
        sample = bpe_learning.sample(documents, self.sample)
        tree = bpe_learning.learn(sample, self.size)
        files = TokenizerFiles(tree, names={})
        return BPETokenizer(files, self.vocab)

    def restore(self, folder: Path) -> Tokenizer:
        """Read the copy that `save` wrote into a run directory, not the published files."""
        path = Path(folder) / FILE
        files = pretrained.read(path)
        vocab = self._vocab(files, path)
        if self.path is None and vocab.mask != self.size - 1:
            raise UserError(
                f"{path} is not a tokenizer of {self.size} ids (config.text.size)"
            )
        return BPETokenizer(files, vocab, path)


class BPETokenizer(Tokenizer):
    """A learned or published BPE.

    `encode` applies only the merges: no normalisation, added tokens or templates of the file, so
    that the bytes of the ids are the bytes of the text. `encode_marked` applies everything but the
    template.
    """

    def __init__(
        self, files: TokenizerFiles, vocab: Vocab, where: str | Path = "this tokenizer"
    ):
        """`where` names the tokenizer in errors."""
        tree = files.tree
        self._tree = tree
        self._files = files
        self._where = where
        spelled = bpe_bytes.piece_bytes(tree)
        bytes_of_id = bpe_bytes.bytes_of_ids(tree, vocab, spelled)
        super().__init__(vocab, bytes_of_id)
        # Only a vocabulary of a published model lists the ids that it never generates.
        if vocab.excluded is not None:
            self.adds_bos = special_ids.puts_bos(files, vocab.bos)
        self._bare = bpe_bytes.bare(tree, bytes_of_id, spelled)
        self._hazard = bpe_bytes.hazard(tree)
        self._encoder = self._build(self._bare)
        self._own_split = bpe_learning.has_our_split(tree)
        self._ids_of_piece: dict[str, list[int]] = {}
        if not self._own_split:
            probe = self._encode_any([PROBE])[0]
            if self.decode(probe) != PROBE:
                self._refuse()

    def content(self) -> str:
        return json.dumps(self._tree, ensure_ascii=False)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, which other libraries read too, published names and template."""
        folder = Path(folder)
        pretrained.save(folder, self._files, self.vocab)

    # -------------------------------------------------------------------------------------- encode

    def encode_all(self, texts: list[str]) -> list[np.ndarray]:
        fast = []
        slow = []
        for text in texts:
            is_fast = self._own_split and text.isascii()
            if is_fast:
                fast.append(text)
            else:
                slow.append(utf8(text).decode())
        fast_ids = iter(self._encode_ascii(fast))
        slow_ids = iter(self._encode_any(slow))
        # Both keep the order of their texts.
        ids = []
        for text in texts:
            is_fast = self._own_split and text.isascii()
            ids.append(next(fast_ids if is_fast else slow_ids))
        return ids

    def _encode_ascii(self, texts: list[str]) -> list[np.ndarray]:
        """Give the same ids four times as fast: a corpus has few distinct pieces."""
        if not texts:
            return []
        if len(self._ids_of_piece) > _CACHED_PIECES:
            self._ids_of_piece.clear()
        ids_of = self._ids_of_piece
        rows = [ASCII_PATTERN.findall(text) for text in texts]
        pieces = set(itertools.chain.from_iterable(rows))
        new = list(pieces - ids_of.keys())
        encodings = self._whole.encode_batch_fast(new, add_special_tokens=False)
        for piece, encoding in zip(new, encodings, strict=True):
            ids_of[piece] = encoding.ids
        return [_joined(ids_of[piece] for piece in row) for row in rows]

    def _encode_any(self, texts: list[str]) -> list[np.ndarray]:
        """Encode by the library; hazards are separate parts, or spelled in bytes."""
        rows = [self._parts(text) for text in texts]
        flat = list(itertools.chain.from_iterable(rows))
        batch = self._encoder.encode_batch_fast(flat, add_special_tokens=False)
        encodings = iter(batch)
        ids_of_texts = []
        for text, parts in zip(texts, rows, strict=True):
            lists = [self._ids_of_part(part, next(encodings)) for part in parts]
            ids = _joined(lists)
            size = len(text.encode())
            # The library loses text silently where the file lacks a piece for it.
            if self.bytes_V[ids].sum() != size:
                self._refuse()
            ids_of_texts.append(ids)
        return ids_of_texts

    def _parts(self, text: str) -> list[str]:
        return self._hazard.split(text) if self._hazard else [text]

    def _ids_of_part(self, part: str, encoding: Any) -> list[int]:
        is_sign = self._hazard and part == bpe_bytes.SPACE
        return self._sign if is_sign else encoding.ids

    @functools.cached_property
    def _sign(self) -> list[int]:
        """The ids of '▁' where it means itself, not a space."""
        vocab = self._tree["model"]["vocab"]
        names = map(bpe_bytes.byte_name, bpe_bytes.SPACE.encode())
        return [vocab[name] for name in names]

    def _refuse(self) -> None:
        split = self._tree["pre_tokenizer"] or self._tree["model"]
        kind = split.get("type")
        raise UserError(
            f"{self._where} loses bytes of texts (pre-tokenizer {kind}): {SUPPORTED}"
        )

    # ------------------------------------------------------------------ encode with special tokens

    @property
    def names(self) -> tuple[str, ...]:
        return bpe_bytes.names(self._tree)

    @functools.cached_property
    def _id_of_name(self) -> dict[str, int]:
        return added_ids(self._tree)

    def encode_marked(self, text: str) -> np.ndarray:
        plain = utf8(text).decode()
        spelled = self.spelled(text)
        searched = blanked(plain, spelled)
        encoding = self._marked.encode(searched, add_special_tokens=False)
        if not spelled:
            return np.array(encoding.ids, np.int32)
        # Overwritten names changed the text around them: encode those stretches again, as text.
        begins = [begin for begin, _ in spelled]
        ids: list[int] = []
        for stretch in self._stretches(encoding, len(plain)):
            begin, end, stretch_ids = stretch
            if any(begin <= at < end for at in begins):
                text = plain[begin:end]
                encoder = self._nameless if begin else self._nameless_first
                stretch_ids = encoder.encode(text, add_special_tokens=False).ids
            ids += stretch_ids
        return np.array(ids, np.int32)

    def _stretches(self, encoding: Any, length: int) -> Iterator[Stretch]:
        """Yield (begin, end, ids) of the names in a text and of the stretches between them.

        The library encodes each stretch independently.
        """
        added = set(self._id_of_name.values())
        begin = 0
        stretch_ids: list[int] = []
        for id, span in zip(encoding.ids, encoding.offsets, strict=True):
            if id not in added:
                stretch_ids.append(id)
                continue
            name_begin, name_end = span
            yield begin, name_begin, stretch_ids
            yield name_end, name_end, [id]
            begin = name_end
            stretch_ids = []
        yield begin, length, stretch_ids

    # -------------------------------------------------------------------- the library's tokenizers

    def _build(self, tree: dict) -> tokenizers.Tokenizer:
        text = json.dumps(tree)
        try:
            return tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library has no narrower one
            raise UserError(f"{self._where} is damaged: {error}") from None

    @functools.cached_property
    def _whole(self) -> tokenizers.Tokenizer:
        """Encodes one piece of our own split."""
        whole = dict(self._bare, pre_tokenizer=WHOLE)
        return self._build(whole)

    @functools.cached_property
    def _marked(self) -> tokenizers.Tokenizer:
        """Encodes as published, with special tokens."""
        unbounded = bpe_bytes.unbounded(self._tree)
        return self._build(bpe_bytes.counted(unbounded))

    @functools.cached_property
    def _nameless_first(self) -> tokenizers.Tokenizer:
        """Encodes the beginning of a text as published, without special tokens."""
        nameless = bpe_bytes.nameless(self._tree, self._bare)
        return self._build(nameless)

    @functools.cached_property
    def _nameless(self) -> tokenizers.Tokenizer:
        """Encodes the rest of a text, where a prefix that is only for its beginning is left out."""
        nameless = bpe_bytes.nameless(self._tree, self._bare, begins=False)
        return self._build(nameless)


def _joined(lists: Iterable[list[int]]) -> np.ndarray:
    ids = itertools.chain.from_iterable(lists)
    return np.fromiter(ids, np.int32)

"""What general-purpose compressors make of the held-out bytes, in bits per byte: the yardstick beside every model's score.

gzip -9, xz -9 and the entropy of single bytes, H = −Σ (n_c / n) log₂ (n_c / n), of the documents joined in order and compressed
alone. None of them has seen the training text, so a model of a related corpus should be well below all three. They pay for where a
document ends as a model does: each is followed by a byte that no UTF-8 text has, and what it costs is told per byte of the text alone.
"""

import gzip
import lzma
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import log2
from typing import ClassVar

from dlm.core.errors import UserError

_END = b"\xff"


@dataclass(frozen=True)
class Compression:
    claims: ClassVar[str] = "exact"
    over: ClassVar[None] = None

    def run(self, context, step: int) -> Iterator[tuple[str, float, float]]:
        """(name, value, standard error 0) of `context.held_out_documents`."""
        encoded = [
            document.encode("utf-8", "replace") for document in context.held_out_documents
        ]  # half a surrogate pair: as tokenizers
        size, text = sum(map(len, encoded)), b"".join(document + _END for document in encoded)
        if not size:
            raise UserError("no held-out text to compress")
        yield "gzip_bits_per_byte", 8 * len(gzip.compress(text, 9, mtime=0)) / size, 0.0
        yield "xz_bits_per_byte", 8 * len(lzma.compress(text, preset=9)) / size, 0.0
        yield (
            "order0_bits_per_byte",
            sum(n * log2(len(text) / n) for n in Counter(text).values()) / size,
            0.0,
        )
        yield "held_out_bytes", float(size), 0.0

"""General-purpose compressors on the held-out bytes, in bits per byte, to compare models with.

gzip -9, xz -9 and the entropy of single bytes, H = −Σ (n_c / n) log₂ (n_c / n), of the documents
joined in order. None of them has seen the training text, so a model of a related corpus should be
well below all three. They pay for the end of a document as a model does: each document is followed
by a byte that no UTF-8 text has, and its cost is counted per byte of the text itself.

Source: https://www.gnu.org/software/gzip and https://tukaani.org/xz.
"""

import gzip
import lzma
from collections import Counter
from dataclasses import dataclass
from math import log2
from typing import ClassVar

from dlm.core.contracts.evaluation import EvalContext, Score
from dlm.core.errors import UserError
from dlm.evals.base import Base, Scores

_END = b"\xff"


@dataclass(frozen=True)
class Compression(Base):
    claims: ClassVar[str] = "exact"
    over: ClassVar[str | None] = None

    def run(self, context: EvalContext, step: int) -> Scores:
        size = 0
        parts = []
        for document in context.held_out_documents:
            # Half of a surrogate pair is replaced, as tokenizers do.
            encoded = document.encode("utf-8", "replace")
            size += len(encoded)
            parts.append(encoded + _END)
        text = b"".join(parts)
        if not size:
            raise UserError("no held-out text to compress")

        # Without a modification time, equal texts give equal files.
        gzipped = gzip.compress(text, 9, mtime=0)
        yield Score("gzip_bits_per_byte", 8 * len(gzipped) / size, 0.0)
        xz = lzma.compress(text, preset=9)
        yield Score("xz_bits_per_byte", 8 * len(xz) / size, 0.0)
        yield Score("order0_bits_per_byte", _entropy(text) / size, 0.0)
        yield Score("held_out_bytes", float(size), 0.0)


def _entropy(text: bytes) -> float:
    """The bits of all bytes under their own frequencies."""
    bits = 0.0
    for number in Counter(text).values():
        bits += number * log2(len(text) / number)
    return bits

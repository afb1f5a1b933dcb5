"""Further results at each position, beside the prediction: one head per file. No JAX here."""

from typing import TYPE_CHECKING

from dlm.core.families import member_class, member_names

if TYPE_CHECKING:  # the contracts load JAX
    from dlm.core.contracts import Head


def names() -> list[str]:
    """Returns the names of all heads; nothing is imported."""
    return member_names("nn.heads")


def head(name: str) -> "Head":
    """Returns the head of that name."""
    return member_class(f"nn.heads.{name}", "nn.heads", "nn.heads")()

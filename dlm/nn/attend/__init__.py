"""How softmax(q·kᵀ) v is computed: one backend per file, all with the same result up to rounding.

A backend has `rank`, `supports(case)`, `prepare(case)`, once a call of the network and outside of
the scan over layers, and `attend(q, k, v, prepared, scale)`, once a layer.
"""

from dlm.core.errors import UserError
from dlm.core.families import member_class, member_names
from dlm.nn.attend.base import Backend, Case


def backends() -> list[Backend]:
    """Returns all backends, those of the lowest rank first."""
    names = [f"nn.attend.{name}" for name in member_names("nn.attend")]
    classes = [
        member_class(name, "nn.compute.attention", "nn.attend") for name in names
    ]
    return sorted((cls() for cls in classes), key=_rank)


def _rank(backend: Backend) -> int:
    return backend.rank


def choose(case: Case) -> Backend:
    """Returns the backend of the lowest rank that supports the case."""
    reasons = []
    for backend in backends():
        reason = backend.supports(case)
        if reason is None:
            return backend
        reasons.append(f"{type(backend).__name__}: {reason}")
    raise UserError(f"no attention backend supports this model: {'; '.join(reasons)}")

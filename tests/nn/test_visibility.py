"""Laws of every visibility.

Rows are the same when computed alone, the capabilities are true of `allowed`, and a key that is not
allowed changes nothing. A new member is tried with its defaults.
"""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core.contracts import Layout
from dlm.core.families import member_class, member_names
from dlm.nn.attend import backends
from dlm.nn.attend.base import Case
from dlm.nn.attend.dense import Streams
from dlm.nn.visibility import in_one_stream
from dlm.nn.visibility.block import Block
from dlm.nn.visibility.causal import Causal
from dlm.nn.visibility.full import Full
from tests import tiny

L = 6
PAIRS = ("zz", "zx", "xx")
REACH = Full(reach_B1=jnp.full((2, 1), 1))
FAMILY = "nn.visibility"
VARIANTS = dict(
    output=Full("output"),
    reach=REACH,
    unshifted=Causal("none"),
    block=Block(size=2),
    ones=Block(size=1),
    context=Block(size=2, context="causal"),
    any_order=Block(size=1, any_order=True),
)
DEFAULTS = {
    name: member_class(f"{FAMILY}.{name}", FAMILY, FAMILY)()
    for name in member_names(FAMILY)
}
MEMBERS = DEFAULTS | VARIANTS
every_member = pytest.mark.parametrize("visibility", MEMBERS.values(), ids=MEMBERS)
rng = np.random.default_rng(0)
# Two packed rows, the last position of the second is padding.
SEGMENTS_BL = np.array(["111122", "112220"]).view("U1").reshape(2, L).astype(np.int32)
POSITIONS_BL = np.array(["012301", "010120"]).view("U1").reshape(2, L).astype(np.int32)
SAME_BLL = SEGMENTS_BL[:, :, None] == SEGMENTS_BL[:, None, :]
RANK_BL = np.stack([rng.permutation(L) for _ in range(2)]).astype(np.int32)
GROUP_BL = rng.integers(0, 2, (2, L)).astype(np.int32)
number_L = np.arange(L)
AFTER_LL = number_L[:, None] < number_L
ITSELF_LL = np.eye(L, dtype=bool)


def layout(visibility) -> Layout:
    """Packed rows; an order, or groups, where the visibility has some."""
    packed = Layout(jnp.asarray(SEGMENTS_BL), jnp.asarray(POSITIONS_BL))
    if visibility.any_order and visibility.streams == 2:
        block_BL = GROUP_BL if visibility.block is None else RANK_BL
        packed = dataclasses.replace(packed, block_BL=jnp.asarray(block_BL))
    return packed.complete(L)


def whole(visibility, query: Layout, key: Layout, pair) -> np.ndarray:
    """`allowed`, with True where there is no restriction."""
    return filled(visibility.allowed(query, key, pair))


def filled(allowed) -> np.ndarray:
    """[B, L, L], with True where there is no restriction."""
    shape = 2, L, L
    if allowed is None:
        return np.ones(shape, bool)
    return np.broadcast_to(allowed, shape)


@every_member
@pytest.mark.parametrize("pair", PAIRS)
def test_the_row_of_a_query_is_the_same_when_it_is_computed_alone(visibility, pair):
    packed = layout(visibility)
    together = visibility.allowed(packed, packed, pair)
    for i in range(L):
        own = slice(i, i + 1)
        one = jax.tree.map(operator.itemgetter((slice(None), own)), packed)
        alone = visibility.allowed(one, packed, pair)
        assert (alone is None) == (together is None)
        if together is not None:
            tiny.identical(alone, together[:, own])


def seen(visibility, query: Layout) -> np.ndarray:
    """Who attends to whom in sampling, [B, L, L], segments aside."""
    if visibility.needs_clean:
        noised = whole(visibility, query, query, "zz")
        return noised | whole(visibility, query, query, "zx")
    return filled(in_one_stream(visibility, query, query))


@every_member
def test_each_capability_is_true_of_what_is_allowed(visibility):
    size = visibility.block
    row = Layout()
    if size is None:
        row = Layout(block_BL=jnp.asarray(GROUP_BL))
    row = row.complete(L)
    sees_BLL = seen(visibility, row)
    # Positions decided together see each other, and nothing that is decided later.
    if size is not None:
        same_LL, later_LL = blocks_of(size)
        assert sees_BLL[:, same_LL].all()
        assert not sees_BLL[:, later_LL].any()
    if size in (None, 1):
        assert visibility.infills == sees_BLL[:, AFTER_LL].any()
    assert visibility.infills == (size is None)
    assert visibility.any_order or size is not None
    # Keys and values never change if no clean token sees one that is decided after it.
    if visibility.exact_cache:
        _, later_LL = blocks_of(size)
        clean_BLL = whole(visibility, row, row, "xx")
        assert not clean_BLL[:, later_LL].any()
    # A noised token that saw the clean one at its own position would know the answer.
    if visibility.streams == 2:
        clean_BLL = whole(visibility, row, row, "zx")
        noised_BLL = whole(visibility, row, row, "zz")
        assert not clean_BLL[:, ITSELF_LL].any()
        assert noised_BLL[:, ITSELF_LL].all()


def blocks_of(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether a key is in the query's block of so many positions, and whether in a later one."""
    block_L = number_L // size
    query_L1 = block_L[:, None]
    return query_L1 == block_L, query_L1 < block_L


@every_member
def test_blocks_in_any_order_are_seen_by_their_ranks(visibility):
    if visibility.block is None or not visibility.any_order:
        return
    ranked = Layout(block_BL=jnp.asarray(RANK_BL)).complete(L)
    earlier_BLL = RANK_BL[:, :, None] > RANK_BL[:, None, :]
    clean_BLL = whole(visibility, ranked, ranked, "zx")
    np.testing.assert_array_equal(clean_BLL, earlier_BLL)


CONFIG = tiny.model_config(layers=1)
PARAMS = tiny.random_params(CONFIG)


@every_member
def test_a_key_that_is_not_allowed_changes_no_bit(visibility):
    """Of all layers' values only those of allowed keys enter, in every backend and stream."""
    packed = layout(visibility)
    streams = visibility.streams
    length = streams * L
    shapes = [(2, length, heads, 4) for heads in (4, 2, 2)]
    arrays = [rng.normal(size=shape) for shape in shapes]
    q_BLHK, k_BMJK, v_BMJK = (jnp.asarray(x, jnp.float32) for x in arrays)
    for backend in backends():
        case = Case(visibility, packed, packed, streams)
        assert backend.supports(case) is None
        prepared = backend.prepare(case)
        attend = functools.partial(backend.attend, prepared=prepared, scale=0.5)
        attend = jax.jit(functools.partial(attend, q_BLHK))
        plain = np.asarray(attend(k_BMJK, v_BMJK))
        allowed = square(visibility, packed, prepared)
        for m in range(length):
            other_k, other_v = k_BMJK.at[:, m].add(9.0), v_BMJK.at[:, m].add(-7.0)
            other = np.asarray(attend(other_k, other_v))
            moved_BL = (other != plain).any((2, 3))
            reads_BL = allowed[:, :, m]
            assert not moved_BL[~reads_BL].any()
            assert moved_BL[reads_BL].all()


def square(visibility, packed, prepared) -> np.ndarray:
    """[B, queries, keys] of all streams, from `allowed` and the segments alone."""
    if visibility.streams == 1:
        return SAME_BLL & filled(in_one_stream(visibility, packed, packed))
    assert isinstance(prepared, Streams)
    parts = [whole(visibility, packed, packed, pair) for pair in PAIRS]
    zz, zx, xx = (part & SAME_BLL for part in parts)
    return np.block([[zz, zx], [np.zeros_like(xx), xx]])


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_token_that_is_not_allowed_changes_no_bit_of_the_prediction(name):
    visibility = MEMBERS[name]
    packed = layout(visibility)
    x_BL = jnp.asarray(tiny.tokens(2, L))
    canvas = tiny.canvas(x_BL, visibility=visibility)
    row = dataclasses.replace(packed, index_BL=None)
    canvas = dataclasses.replace(canvas, layout=row)
    net = jax.jit(tiny.net(CONFIG, PARAMS))
    allowed_BLL = seen(visibility, packed) & SAME_BLL
    plain = net(canvas).prediction.logits_BLV
    for m in range(L):
        z_BL = x_BL.at[:, m].add(1) % 16
        other = net(dataclasses.replace(canvas, z_BL=z_BL)).prediction
        moved_BL = (other.logits_BLV != plain).any(-1)
        reads_BL = allowed_BLL[:, :, m]
        # With shifted input the token is read one position later, in the same segment.
        if visibility.shift == "input":
            later = min(m + 1, L - 1)
            later_BL = allowed_BLL[:, :, later] & SAME_BLL[:, :, m]
            reads_BL = later_BL & (m + 1 < L)
        assert not np.asarray(moved_BL)[~reads_BL].any(), (name, m)

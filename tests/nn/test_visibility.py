"""Laws of every visibility: rows are the same alone, capabilities are true of `allowed`, and what is not allowed changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core.contracts import Layout
from dlm.core.families import member_names
from dlm.nn.attend import backends
from dlm.nn.attend.base import Case
from dlm.nn.attend.dense import Streams
from dlm.nn.visibility import in_one_stream
from dlm.nn.visibility.block import Block
from dlm.nn.visibility.causal import Causal
from dlm.nn.visibility.full import Full
from dlm.nn.visibility.partition import Partition
from tests import tiny

L = 6
PAIRS = ("zz", "zx", "xx")
REACH = Full(reach_B1=jnp.full((2, 1), 1))
MEMBERS = dict(
    full=Full(),
    output=Full("output"),
    reach=REACH,
    causal=Causal(),
    unshifted=Causal("none"),
    block=Block(size=2),
    ones=Block(size=1),
    context=Block(size=2, context="causal"),
    any_order=Block(size=1, any_order=True),
    partition=Partition(),
)
every_member = pytest.mark.parametrize("visibility", MEMBERS.values(), ids=MEMBERS)
rng = np.random.default_rng(0)
SEGMENTS_BL = jnp.asarray([[1, 1, 1, 1, 2, 2], [1, 1, 2, 2, 2, 0]])
POSITIONS_BL = jnp.asarray([[0, 1, 2, 3, 0, 1], [0, 1, 0, 1, 2, 0]])
RANK_BL = jnp.asarray(np.stack([rng.permutation(L) for _ in range(2)]), jnp.int32)
GROUP_BL = jnp.asarray(rng.integers(0, 2, (2, L)), jnp.int32)


def layout(visibility) -> Layout:
    """Packed rows; an order, or groups, where the visibility has some."""
    packed = Layout(SEGMENTS_BL, POSITIONS_BL)
    if visibility.any_order and visibility.streams == 2:
        groups = visibility.block is None
        packed = dataclasses.replace(packed, block_BL=GROUP_BL if groups else RANK_BL)
    return packed.complete(L)


def whole(visibility, query: Layout, key: Layout, pair) -> np.ndarray:
    """`allowed`, with True where there is no restriction."""
    allowed = visibility.allowed(query, key, pair)
    return np.ones((2, L, L), bool) if allowed is None else np.broadcast_to(allowed, (2, L, L))


def test_the_listing_has_no_other_member():
    tried = {type(visibility).__module__.rpartition(".")[2] for visibility in MEMBERS.values()}
    assert tried == set(member_names("nn.visibility"))


@every_member
@pytest.mark.parametrize("pair", PAIRS)
def test_the_row_of_a_query_is_the_same_when_it_is_computed_alone(visibility, pair):
    packed = layout(visibility)
    together = visibility.allowed(packed, packed, pair)
    for i in range(L):
        one = jax.tree.map(lambda x, i=i: x[:, i : i + 1], packed)
        alone = visibility.allowed(one, packed, pair)
        assert (alone is None) == (together is None)
        if together is not None:
            tiny.identical(alone, together[:, i : i + 1])


def seen(visibility, query: Layout) -> np.ndarray:
    """Who attends to whom in sampling, [B, L, L], segments aside."""
    if visibility.needs_clean:
        noised, clean = (whole(visibility, query, query, pair) for pair in ("zz", "zx"))
        return noised | clean
    allowed = in_one_stream(visibility, query, query)
    return np.ones((2, L, L), bool) if allowed is None else np.broadcast_to(allowed, (2, L, L))


@every_member
def test_each_capability_is_true_of_what_is_allowed(visibility):
    row = Layout(block_BL=GROUP_BL if visibility.block is None else None).complete(L)
    sees_BLL = seen(visibility, row)
    after_LL = np.arange(L)[:, None] < np.arange(L)
    size = visibility.block
    # Positions decided together see each other, and nothing that is decided later.
    if size is not None:
        block_L = np.arange(L) // size
        same_LL, later_LL = block_L[:, None] == block_L, block_L[:, None] < block_L
        assert sees_BLL[:, same_LL].all() and not sees_BLL[:, later_LL].any()
    if size in (None, 1):
        assert visibility.infills == sees_BLL[:, after_LL].any()
    assert visibility.infills == (size is None) and (visibility.any_order or size is not None)
    # Keys and values never change if no clean token sees one that is decided after it.
    if visibility.exact_cache:
        block_L = np.arange(L) // size
        later_LL = block_L[:, None] < block_L
        assert not whole(visibility, row, row, "xx")[:, later_LL].any()
    # A noised token that saw the clean one at its own place would know the answer.
    if visibility.streams == 2:
        own_LL = np.eye(L, dtype=bool)
        assert not whole(visibility, row, row, "zx")[:, own_LL].any()
        assert whole(visibility, row, row, "zz")[:, own_LL].all()


@every_member
def test_blocks_in_any_order_are_seen_by_their_ranks(visibility):
    if visibility.block is None or not visibility.any_order:
        return
    ranked = Layout(block_BL=RANK_BL).complete(L)
    earlier_BLL = np.asarray(RANK_BL)[:, :, None] > np.asarray(RANK_BL)[:, None, :]
    np.testing.assert_array_equal(whole(visibility, ranked, ranked, "zx"), earlier_BLL)


CONFIG = tiny.model_config(layers=1)
PARAMS = tiny.random_params(CONFIG)


@every_member
def test_a_key_that_is_not_allowed_changes_no_bit(visibility):
    """Of all layers' values only those of allowed keys enter, in every backend and stream."""
    packed = layout(visibility)
    streams = visibility.streams
    length = streams * L
    q_BLHK, k_BMJK, v_BMJK = (
        jnp.asarray(rng.normal(size=(2, length, heads, 4)), jnp.float32) for heads in (4, 2, 2)
    )
    for backend in backends():
        case = Case(visibility, packed, packed, streams)
        assert backend.supports(case) is None
        prepared = backend.prepare(case)
        attend = jax.jit(lambda k, v: backend.attend(q_BLHK, k, v, prepared, 0.5))  # noqa: B023
        plain = np.asarray(attend(k_BMJK, v_BMJK))
        allowed = square(visibility, packed, prepared)
        for m in range(length):
            other = np.asarray(attend(k_BMJK.at[:, m].add(9.0), v_BMJK.at[:, m].add(-7.0)))
            moved = (other != plain).any((2, 3))
            assert not moved[~allowed[:, :, m]].any() and moved[allowed[:, :, m]].all()


def square(visibility, packed, prepared) -> np.ndarray:
    """[B, queries, keys] of all streams, from `allowed` and the segments alone."""
    same_BLL = np.asarray(SEGMENTS_BL)[:, :, None] == np.asarray(SEGMENTS_BL)[:, None, :]
    if visibility.streams == 1:
        allowed = in_one_stream(visibility, packed, packed)
        return same_BLL if allowed is None else same_BLL & np.asarray(allowed)
    assert isinstance(prepared, Streams)
    zz, zx, xx = (whole(visibility, packed, packed, pair) & same_BLL for pair in PAIRS)
    return np.block([[zz, zx], [np.zeros_like(xx), xx]])


@pytest.mark.parametrize("name", ["full", "causal", "block", "partition"])
def test_a_token_that_is_not_allowed_changes_no_bit_of_the_prediction(name):
    visibility, packed = MEMBERS[name], layout(MEMBERS[name])
    x_BL = jnp.asarray(tiny.tokens(2, L))
    canvas = tiny.canvas(x_BL, visibility=visibility)
    canvas = dataclasses.replace(canvas, layout=dataclasses.replace(packed, index_BL=None))
    net = jax.jit(tiny.net(CONFIG, PARAMS))
    same_BLL = np.asarray(SEGMENTS_BL)[:, :, None] == np.asarray(SEGMENTS_BL)[:, None, :]
    allowed_BLL = seen(visibility, packed) & same_BLL
    plain = net(canvas).prediction.logits_BLV
    for m in range(L):
        other = dataclasses.replace(canvas, z_BL=x_BL.at[:, m].add(1) % 16)
        moved_BL = (net(other).prediction.logits_BLV != plain).any(-1)
        reads_BL = allowed_BLL[:, :, m]
        # With shifted input the token is read one position later, in the same segment.
        if visibility.shift == "input":
            later_BL = allowed_BLL[:, :, min(m + 1, L - 1)] & same_BLL[:, :, m]
            reads_BL = later_BL & (m + 1 < L)
        assert not np.asarray(moved_BL)[~reads_BL].any(), (name, m)

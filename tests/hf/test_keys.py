"""Every key of a config.json is read, known to change no prediction, or refused by its name."""

from types import SimpleNamespace

import pytest

from dlm.core.config import to_plain
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.hf import keys, layouts, reading, writing
from dlm.nn.visibility.block import Block
from dlm.nn.visibility.causal import Causal
from dlm.nn.visibility.full import Full
from dlm.text.bpe import BPE, Published
from tests.hf.realistic import CONFIGS, READ_ELSEWHERE


def network(config):
    return reading.network(layouts.of(config, "it"), config, "it")


def refused(config, key):
    with pytest.raises(UserError) as caught:
        network(config)
    assert "\n" not in str(caught.value) and key in str(caught.value), str(caught.value)
    return True


@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_file_is_accepted_and_a_key_more_is_refused_by_its_name(name):
    config = CONFIGS[name]
    network(config)
    layout = layouts.of(config, "it")
    reads = {*layout.keys.values()} | (
        {"qk_layernorm"} if True in layout.required.get("qk_layernorm", ()) else set()
    )
    for key in READ_ELSEWHERE.keys() - reads:
        assert refused(config | {key: READ_ELSEWHERE[key]}, key)
    assert len(READ_ELSEWHERE.keys() - reads) >= 45


def test_every_layout_is_among_them():
    assert {layouts.of(config, "").architecture for config in CONFIGS.values()} == set(
        layouts.LAYOUTS
    )


NOT_SO = {
    "Llama 3": dict(
        hidden_size=64.5,
        num_hidden_layers=True,
        num_attention_heads=0,
        num_key_value_heads=2.0,
        head_dim=-8,
        vocab_size="many",
        intermediate_size=[96],
        rms_norm_eps=float("nan"),
        rope_theta=True,
        tie_word_embeddings=1,
        attention_bias="no",
        rope_scaling="fast",
        is_causal=False,
        use_sliding_window=True,
        sliding_window=1024,
        partial_rotary_factor=0,
        clip_qkv=False,
        architectures="LlamaForCausalLM",
        model_type="qwen2",
    ),
    "Qwen3-MoE": dict(
        num_experts=16.0,
        num_local_experts=8,
        num_experts_per_tok=None,
        moe_intermediate_size=True,
        norm_topk_prob=1,
        mlp_only_layers=[True],
        decoder_sparse_step=0.5,
    ),
    "Mixtral": dict(norm_topk_prob=False, sliding_window=4096, num_experts=16),
    "LLaDA": dict(
        rope=False,
        block_type="sequential",
        activation_type="swiglu",
        layer_norm_type="default",
        alibi=True,
        include_bias=True,
        include_qkv_bias="yes",
        attention_layer_norm=True,
        input_emb_norm=True,
        scale_logits=True,
        bias_for_layer_norm=True,
        layer_norm_with_affine=False,
        rope_full_precision=False,
        block_group_size=2,
        clip_qkv=0,
        rope_scaling=dict(type="linear", factor=2.0),
        is_causal=True,
        weight_tying="yes",
    ),
    "LLaDA-MoE": dict(
        norm_topk_prob=True,  # which its code does not read: it never renormalises
        qk_layernorm=False,
        clip_qkv=1.0,
        moe_layer_freq=[1, 1, 1],
        moe_router_score_function="sigmoid",
        moe_router_enable_expert_bias=True,
        routed_scaling_factor=0,
        rope_theta=None,
        shared_expert_intermediate_size=25,
    ),
    "SDAR": dict(use_sliding_window=0, mlp_bias=0.0),
}


@pytest.mark.parametrize("name", NOT_SO)
def test_a_value_of_another_kind_or_meaning_is_refused_by_its_key(name):
    for key, value in NOT_SO[name].items():
        assert refused(CONFIGS[name] | {key: value}, key)


SLOW = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
FULL = dict(layer_types=["full_attention"] * 4)
ROPES = [  # what is said → ours, or the key by which it is refused
    (dict(rope_theta=None), dict(base=10_000.0)),
    (dict(rope_theta=5e5), dict(base=5e5)),
    (
        dict(rope_scaling=dict(type="linear", factor=4)),
        dict(base=1e6, kind="linear", factor=4.0),
    ),
    (dict(rope_scaling={}, rope_parameters=dict(rope_theta=7.0)), dict(base=7.0)),
    (
        dict(rope_parameters=dict(rope_type="default", rope_theta=5e5), rope_theta=9.0),
        dict(base=5e5),
    ),
    (dict(rope_scaling=dict(rope_type="default", rope_theta=5e5)), dict(base=5e5)),
    (
        dict(rope_parameters=dict(rope_type="linear", factor=2.0)),
        dict(base=1e6, kind="linear", factor=2.0),
    ),
    (
        dict(rope_parameters=SLOW),
        dict(base=1e6, kind="llama3", factor=8.0, low=1.0, high=4.0, original=4096),
    ),
    (
        dict(rope_scaling=SLOW | dict(original_max_position_embeddings=512)),
        dict(base=1e6, kind="llama3", factor=8.0, low=1.0, high=4.0, original=512),
    ),
    (
        dict(rope_parameters=dict(partial_rotary_factor=1.0, rope_theta=5e5)),
        dict(base=5e5),
    ),
    (
        FULL | dict(rope_parameters=dict(full_attention=dict(rope_theta=5e5))),
        dict(base=5e5),
    ),
    (
        FULL
        | dict(rope_parameters=dict(full_attention=dict(rope_type="linear", factor=2))),
        dict(base=1e6, kind="linear", factor=2.0),
    ),
    (
        dict(rope_parameters=dict(full_attention=dict(rope_theta=5e5))),
        "rope_parameters.full_attention",
    ),
    (
        FULL
        | dict(
            rope_parameters=dict(
                full_attention=dict(rope_theta=5.0),
                sliding_attention=dict(rope_theta=9.0),
            )
        ),
        "sliding_attention",
    ),
    (
        FULL
        | dict(rope_parameters=dict(full_attention=dict(rope_theta=5.0, beta_fast=32))),
        "rope_parameters.full_attention.beta_fast",
    ),
    (
        FULL
        | dict(
            rope_parameters=dict(full_attention=dict(rope_theta=5.0), rope_theta=9.0)
        ),
        "rope_parameters.rope_theta",
    ),
    (FULL | dict(layer_types=["full_attention"] * 3), "layer_types"),
    (
        dict(rope_parameters=dict(partial_rotary_factor=0.5, rope_theta=5e5)),
        "rope_parameters.partial_rotary_factor",
    ),
    (
        dict(rope_scaling=dict(type="linear", factor=4.0, attention_factor=1.3)),
        "rope_scaling.attention_factor",
    ),
    (dict(rope_scaling=dict(type="default", factor=4.0)), "rope_scaling.factor"),
    (
        dict(rope_scaling=dict(type="linear", rope_type="llama3", factor=4.0)),
        "contradict",
    ),
    (
        dict(
            rope_scaling=dict(type="linear", factor=4.0),
            rope_parameters=dict(rope_theta=5.0),
        ),
        "contradict",
    ),
    (dict(rope_scaling=dict(type="linear")), "lacks factor"),
    (dict(rope_scaling=dict(type="linear", factor=True)), "factor"),
    (dict(rope_scaling=dict(type="dynamic", factor=2.0)), "'dynamic' is not supported"),
    (dict(rope_scaling=dict(type="yarn", factor=2.0)), "'yarn' is not supported"),
    (dict(rope_scaling=dict(type=["linear"], factor=2.0)), "is not supported"),
    (dict(rope_scaling=SLOW | dict(low_freq_factor="1")), "low_freq_factor"),
    (dict(rope_parameters=dict(rope_theta="5e5")), "rope_theta"),
    (dict(rope_theta=float("inf")), "rope_theta"),
    (dict(rope_theta=-5.0), "rope_theta"),
    (dict(rope_scaling=dict(type="linear", factor=0)), "factor"),
]


@pytest.mark.parametrize("said, ours", ROPES)
def test_a_rope_section_is_read_in_both_shapes(said, ours):
    config = {**CONFIGS["Qwen3"], **said}
    if isinstance(ours, str):
        assert refused(config, ours)
    elif said == dict(rope_theta=None):
        assert (
            network({k: v for k, v in config.items() if k != "rope_theta"})[
                "attention"
            ]["rope"]
            == ours
        )
    else:
        assert network(config)["attention"]["rope"] == ours


def test_types_of_layers_are_for_layouts_that_have_them():
    """transformers reads the other layouts' sections as flat ones, and so another base."""
    apart = FULL | dict(rope_parameters=dict(full_attention=dict(rope_theta=5e5)))
    for name in CONFIGS.keys() - {"Qwen2", "Qwen2, transformers 5", "Qwen3"}:
        refused(CONFIGS[name] | apart, "rope_parameters")


# What a layout's own code takes for an absent key; a key without a known default is required.
ABSENT = {
    "Llama 3": dict(
        head_dim=8,
        num_key_value_heads=8,
        rms_norm_eps=1e-6,
        rope_theta=10_000.0,
        tie_word_embeddings=False,
        attention_bias=False,
    ),
    "Qwen2": dict(
        num_key_value_heads=32,
        rms_norm_eps=1e-6,
        rope_theta=10_000.0,
        tie_word_embeddings=False,
    ),
    "Qwen3": dict(
        num_key_value_heads=32, head_dim=128, rms_norm_eps=1e-6, rope_theta=10_000.0
    ),
    "Qwen3-MoE": dict(
        num_key_value_heads=4,
        head_dim=8,
        norm_topk_prob=False,
        decoder_sparse_step=1,
        mlp_only_layers=[],
    ),
    "Mixtral": dict(num_key_value_heads=8, rms_norm_eps=1e-5, rope_theta=1e6),
    "LLaDA": dict(
        n_kv_heads=8,
        rms_norm_eps=1e-5,
        rope_theta=10_000.0,
        weight_tying=True,
        include_qkv_bias=False,
    ),
    "LLaDA-MoE": dict(
        num_key_value_heads=8,
        rms_norm_eps=1e-5,
        rope_theta="lacks",
        moe_layer_freq=[1] * 4,
        qk_layernorm="qk_layernorm",
    ),
    "Dream": dict(num_key_value_heads=32, rms_norm_eps=1e-6, rope_theta=10_000.0),
    "SDAR": dict(
        num_key_value_heads=32, head_dim=128, rms_norm_eps=1e-6, rope_theta=10_000.0
    ),
    "Pangu Pro MoE": dict(
        num_key_value_heads=8,
        rms_norm_eps=1e-5,
        rope_theta="lacks",
        num_experts="lacks",
    ),
}


@pytest.mark.parametrize("name", ABSENT)
def test_a_key_that_is_not_there_means_what_the_layouts_code_takes(name):
    for key, value in ABSENT[name].items():
        less = {k: v for k, v in CONFIGS[name].items() if k != key}
        if isinstance(value, str):
            assert refused(less, value)
        else:
            assert network(less) == network(less | {key: value}), key


def test_what_is_ignored_is_as_if_it_were_not_there():
    config = CONFIGS["Llama 3"] | dict(
        clip_qkv=2.0, softcap=3.0, rope_scaling=SLOW | dict(beta=2)
    )
    for key in ("softcap", "rope_scaling.beta"):
        refused(config, key)
    assert network(
        keys.without(config, ["clip_qkv", "softcap", "rope_scaling.beta"])
    ) == network(CONFIGS["Llama 3"] | dict(rope_scaling=SLOW))
    plain = keys.without(config, ["clip_qkv", "softcap", "rope_scaling"])
    assert network(plain)["attention"]["rope"] == dict(base=1e6)
    for wrong in ("softcaps", "rope_scaling.alpha", "softcap.x", ""):
        with pytest.raises(UserError, match="no such key"):
            keys.without(config, [wrong])
    assert keys.without({"a.b": 1, "a": dict(b=2)}, ["a.b"]) == dict(a=dict(b=2))


def test_the_line_says_how_to_let_keys_through():
    line = r"says softcap=3.0, '\\n'='a+…, which Lla.* --ignore lets"
    with pytest.raises(UserError, match=line):
        network(CONFIGS["Llama 3"] | {"softcap": 3.0, "\n": "a" * 100})
    with pytest.raises(UserError, match="--ignore=softcap,other lets"):
        network(CONFIGS["Llama 3"] | dict(softcap=3.0, other=[1]))


NOTHING, SOMETHING = (
    (None, False, 0, 0.0, 1.0, "", [], {}),
    (True, 1, 2, -1.0, "x", [0], {"a": None}),
)


def test_what_says_nothing_passes_under_any_name():
    for name, config in CONFIGS.items():
        for value in NOTHING:
            network(config | {f"of_{name}": value})
        for value in SOMETHING:
            refused(config | {f"of_{name}": value}, f"of_{name}")
        for key in ("routed_scaling_factor", "embedding_multiplier"):
            network(config | {key: 1})
            refused(config | {key: 0}, key)


@pytest.mark.parametrize(
    "said, dense, every",
    [
        (dict(), 0, 1),
        (dict(mlp_only_layers=[0]), 1, 1),
        (dict(mlp_only_layers=[1, 0]), 2, 1),
        (dict(decoder_sparse_step=2), 0, 2),
        (dict(decoder_sparse_step=2, mlp_only_layers=[1]), 2, 2),
        (dict(decoder_sparse_step=2, mlp_only_layers=[0, 2]), 0, 2),
        (dict(mlp_only_layers=[1]), None, None),
        (dict(mlp_only_layers=[3]), None, None),
        (dict(mlp_only_layers=[0, 1, 2, 3]), None, None),
        (dict(decoder_sparse_step=2, mlp_only_layers=[3]), None, None),
    ],
)
def test_which_layers_have_experts(said, dense, every):
    config = CONFIGS["Qwen3-MoE"] | said
    if dense is None:
        assert refused(config, "must follow the first dense ones")
    else:
        experts = network(config)["experts"]
        assert (experts["first_dense"], experts["period"]) == (dense, every)
        freq = dict(
            moe_layer_freq=[
                int(n >= dense and (n - dense + 1) % every == 0) for n in range(4)
            ]
        )
        assert (
            every > 1
            or network(CONFIGS["LLaDA-MoE"] | freq)["experts"]["first_dense"] == dense
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_written_of_a_network_is_read_as_the_same(name):
    """With and without each optional part.

    Biases, plain weights of experts, dense layers, scaled rotations, tied embeddings.
    """
    config, layout = CONFIGS[name], layouts.of(CONFIGS[name], "it")
    k = layout.keys
    linear, slow = (
        dict(rope_scaling=section, rope_parameters=None, rope_theta=9.0)
        for section in (dict(type="linear", factor=3.0), SLOW)
    )
    variants = [{}] + ([linear, slow] if "scaling" in k else [])
    variants += [{k["bias"]: True}] if "bias" in k else []
    variants += (
        [{k["renormalised"]: value} for value in (True, False)]
        if "renormalised" in k
        else []
    )
    variants += [{k["dense"]: [0]}] if "dense" in k else []
    variants += [{k["sparse"]: [0, 1, 1, 1]}] if "sparse" in k else []
    variants += [{k["every"]: 2}] if "every" in k else []
    variants += [{k["shared"]: 48}] if "shared" in k else []
    for variant in [*variants, {k["tied"]: True}]:
        described = (
            config | ({k["ffn"]: 96} if k["ffn"] not in config else {}) | variant
        )
        nn = reading.network(layout, described, "it")
        run = build_run(
            dict(
                steps=1,
                text=dict(name="bytes"),
                nn=nn,
                objective=layout.objective | (dict(size=8) if "block" in k else {}),
            )
        )
        written = writing.described(layout, run, {})
        assert reading.network(layout, written, "it") == nn, variant
        assert writing.misfit(layout, run, written, False, False) == ""
        assert written.get("block_size") == (8 if "block" in k else None)
        other = {k["width"]: 128} | (
            {} if "head_size" in k else {k["heads"]: 16, k["kv_heads"]: 2}
        )
        assert "would make of it" in writing.misfit(
            layout, run, written | other, False, False
        )
    untied = build_run(
        to_plain(run) | dict(nn=to_plain(run.nn) | dict(embeddings="untied"))
    )
    assert (
        writing.misfit(layout, untied, written, True, False)
        == ""
        != writing.misfit(layout, untied, written, False, False)
    )


@pytest.mark.parametrize(
    "name, key, weights",
    [
        ("Qwen3-MoE", "norm_topk_prob", ("plain", "renormalised")),
        ("Mixtral", "", ("renormalised",)),
    ],
)
def test_weights_of_experts_are_those_of_the_layouts_code(name, key, weights):
    said = [
        network(CONFIGS[name] | ({key: value} if key else {}))["experts"]["router"][
            "weights"
        ]
        for value in (False, True)[: len(weights)]
    ]
    assert tuple(said) == weights
    assert network(CONFIGS["LLaDA-MoE"])["experts"]["router"]["weights"] == "plain"


def test_a_layout_is_for_its_objective_unless_another_is_asked_for():
    layout, nn = layouts.LAYOUTS["LlamaForCausalLM"], network(CONFIGS["Llama 3"])
    run = build_run(
        dict(steps=1, text=dict(name="bytes"), nn=nn, objective=dict(name="masked"))
    )
    config = writing.described(layout, run, {})
    assert "is for objectives.ar, not objectives.masked" in writing.misfit(
        layout, run, config, False, False
    )
    assert writing.misfit(layout, run, config, False, True) == ""


def test_a_row_that_was_appended_for_the_mask_is_written_where_the_mask_is_seen():
    layout = layouts.LAYOUTS["LlamaForCausalLM"]
    for visibility, rows in ((Causal(), 300), (Full(), 301), (Block(), 301)):
        text = BPE(path="x", published=Published(rows=300))
        run = SimpleNamespace(
            objective=SimpleNamespace(visibility=visibility), text=text
        )
        run.nn = SimpleNamespace(
            vocab=SimpleNamespace(size=301), attention=None, experts=None
        )
        assert writing.described(layout, run, dict(a=1)) == dict(a=1, vocab_size=rows)


def test_null_is_as_many_heads_as_there_are_and_no_default():
    for name in ("Qwen2", "Qwen3", "Mixtral", "LLaDA"):
        key = layouts.of(CONFIGS[name], "it").keys["kv_heads"]
        assert network(CONFIGS[name] | {key: None})["attention"]["kv_heads"] == 8
    assert (
        network(CONFIGS["Qwen3"] | dict(head_dim=None))["attention"]["head_size"] == 8
    )


def test_the_width_of_experts_is_written_where_a_layout_has_no_other():
    layout, nn = layouts.LAYOUTS["MixtralForCausalLM"], network(CONFIGS["Mixtral"])
    run = build_run(
        dict(
            steps=1,
            text=dict(name="bytes"),
            nn=nn | dict(ffn=dict(width=50)),
            objective=dict(name="ar"),
        )
    )
    config = writing.described(layout, run, {})
    assert (
        config["intermediate_size"] == 96
        and writing.misfit(layout, run, config, False, False) == ""
    )

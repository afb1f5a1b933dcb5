"""A config.json of each layout as published, with the keys that change no prediction."""

_HF = dict(
    attention_dropout=0.0,
    bos_token_id=151643,
    eos_token_id=[151645, 151643],
    hidden_act="silu",
    hidden_size=64,
    initializer_range=0.02,
    intermediate_size=96,
    max_position_embeddings=4096,
    num_attention_heads=8,
    num_hidden_layers=4,
    num_key_value_heads=2,
    rms_norm_eps=1e-6,
    rope_theta=1_000_000.0,
    tie_word_embeddings=False,
    torch_dtype="bfloat16",
    transformers_version="4.51.0",
    use_cache=True,
    vocab_size=152064,
)
_WINDOWS = dict(max_window_layers=28, sliding_window=None, use_sliding_window=False)
_EXPERTS = dict(
    num_experts=16,
    num_experts_per_tok=4,
    output_router_logits=False,
    router_aux_loss_coef=0.001,
)
_SLOW = dict(
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=1024,
    rope_type="llama3",
)
_REMOTE = dict(
    AutoConfig="configuration_x.XConfig",
    AutoModelForCausalLM="modeling_x.XModel",
    AutoModel="modeling_x.XModel",
)

CONFIGS = {
    "Llama 2": _HF
    | dict(
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        _name_or_path="x/y",
        pretraining_tp=1,
        rope_scaling=None,
        max_length=4096,
    )
    | dict(pad_token_id=0, torch_dtype="float16"),
    "Llama 3": _HF
    | dict(
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        attention_bias=False,
        mlp_bias=False,
        pretraining_tp=1,
        head_dim=8,
    )
    | dict(rope_scaling=_SLOW, tie_word_embeddings=True),
    "small Llama": _HF
    | dict(
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        is_llama_config=True,
        rope_interleaved=False,
    )
    | {"transformers.js_config": dict(kv_cache_dtype=dict(q4f16="float16"))},
    "Llama, transformers 5": {
        key: value
        for key, value in _HF.items()
        if key not in ("rope_theta", "torch_dtype")
    }
    | dict(
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        dtype="bfloat16",
        transformers_version="5.2.0",
        attention_bias=False,
    )
    | dict(rope_parameters=_SLOW | dict(rope_theta=500_000.0)),
    "Qwen2": _HF
    | _WINDOWS
    | dict(
        architectures=["Qwen2ForCausalLM"],
        model_type="qwen2",
        sliding_window=131_072,
        use_mrope=False,
    ),
    "Qwen2, transformers 5": _HF
    | _WINDOWS
    | dict(
        architectures=["Qwen2ForCausalLM"],
        model_type="qwen2",
        layer_types=["full_attention"] * 4,
    )
    | dict(
        rope_theta=None,
        rope_parameters=dict(rope_theta=1_000_000.0, rope_type="default"),
    ),
    "Qwen3": _HF
    | _WINDOWS
    | dict(
        architectures=["Qwen3ForCausalLM"],
        model_type="qwen3",
        attention_bias=False,
        head_dim=16,
        rope_scaling=None,
    ),
    "Qwen3-MoE": _HF
    | _WINDOWS
    | _EXPERTS
    | dict(
        architectures=["Qwen3MoeForCausalLM"],
        model_type="qwen3_moe",
        attention_bias=False,
        head_dim=16,
        rope_scaling=None,
    )
    | dict(
        decoder_sparse_step=1,
        mlp_only_layers=[],
        moe_intermediate_size=24,
        norm_topk_prob=True,
    ),
    "Mixtral": _HF
    | dict(
        architectures=["MixtralForCausalLM"],
        model_type="mixtral",
        num_experts_per_tok=2,
        num_local_experts=8,
        sliding_window=None,
    )
    | dict(
        output_router_logits=False, router_aux_loss_coef=0.02, router_jitter_noise=0.0
    ),
    "LLaDA": dict(
        activation_type="silu",
        alibi=False,
        alibi_bias_max=8.0,
        architectures=["LLaDAModelLM"],
        attention_dropout=0.0,
        attention_layer_norm=False,
        attention_layer_norm_with_affine=True,
        auto_map=_REMOTE,
        bias_for_layer_norm=False,
        block_group_size=1,
        block_type="llama",
        d_model=64,
        embedding_dropout=0.0,
        embedding_size=126_464,
        eos_token_id=126_081,
        flash_attention=False,
        include_bias=False,
        include_qkv_bias=False,
        init_cutoff_factor=None,
        init_device="meta",
        init_fn="mitchell",
        init_std=0.02,
        input_emb_norm=False,
        layer_norm_type="rms",
        layer_norm_with_affine=True,
        mask_token_id=126_336,
        max_sequence_length=4096,
        mlp_hidden_size=96,
        mlp_ratio=4,
        model_type="llada",
        multi_query_attention=None,
        n_heads=8,
        n_kv_heads=8,
        n_layers=4,
        pad_token_id=126_081,
        precision="amp_bf16",
        residual_dropout=0.0,
        rms_norm_eps=1e-05,
        rope=True,
        rope_full_precision=True,
        rope_theta=500_000.0,
        scale_logits=False,
        transformers_version="4.46.3",
        use_cache=False,
        vocab_size=126_464,
        weight_tying=False,
    ),
    "LLaDA-MoE": {
        key: value for key, value in _HF.items() if key != "intermediate_size"
    }
    | _EXPERTS
    | dict(
        architectures=["LLaDAMoEModelLM"],
        auto_map=_REMOTE,
        model_type="llada",
        attention_bias=False,
        clip_qkv=None,
        pad_token_id=156_892,
    )
    | dict(
        dense_intermediate_size=96,
        expert_intermediate_size=24,
        shared_expert_intermediate_size=None,
        moe_layer_freq=[1] * 4,
    )
    | dict(
        moe_router_enable_expert_bias=False,
        moe_router_score_function="softmax",
        norm_topk_prob=None,
        partial_rotary_factor=1,
    )
    | dict(
        qk_layernorm=True,
        rope_scaling=None,
        routed_scaling_factor=1,
        router_num_group=None,
        router_topk_group=None,
        vocab_size=157_184,
    ),
    "Dream": _HF
    | _WINDOWS
    | dict(
        architectures=["DreamModel"],
        auto_map=_REMOTE,
        model_type="Dream",
        mask_token_id=151_666,
        rope_scaling=None,
        use_mrope=False,
    ),
    "SDAR": _HF
    | _WINDOWS
    | dict(
        architectures=["SDARForCausalLM"],
        auto_map=_REMOTE,
        model_type="sdar",
        attention_bias=False,
        block_size=4,
        head_dim=16,
    )
    | dict(
        debug=False,
        ep_size=1,
        fuse_cross_entropy=True,
        mask_token_id=151_669,
        micro_forward=False,
        rope_scaling=None,
    )
    | dict(skip_checkpoint=False, use_deepep=False),
    "Pangu Pro MoE": {
        key: value for key, value in _HF.items() if key != "intermediate_size"
    }
    | _EXPERTS
    | dict(
        architectures=["PanguProMoEForCausalLM"],
        auto_map=_REMOTE,
        model_type="PanguProMoE",
        moe_intermediate_size=24,
    )
    | dict(shared_expert_intermediate_size=96, vocab_size=153_600),
}

# Keys that other models read, or might, at values where they change predictions. No layout may
# pass over one of these.
READ_ELSEWHERE = dict(
    alibi=True,
    attention_chunk_size=8,
    attention_multiplier=0.5,
    attention_scale=0.5,
    attn_logit_softcapping=50.0,
    attn_temperature_tuning=True,
    clip_qkv=1.0,
    embedding_multiplier=12.0,
    final_logit_softcapping=30.0,
    first_k_dense_replace=1,
    head_dim=128,
    hidden_act="gelu",
    interleave_moe_layer_step=2,
    kv_lora_rank=4,
    layer_norm_eps=1e-3,
    layer_types=["full_attention", "sliding_attention"] * 2,
    logit_scale=0.0625,
    logits_scaling=8.0,
    mlp_bias=True,
    mrope_section=[16, 24, 24],
    multi_query_attention=True,
    n_group=8,
    n_shared_experts=1,
    no_rope_layers=[1, 1, 1, 0],
    norm_type="layer",
    num_nextn_predict_layers=1,
    original_max_position_embeddings=2048,
    parallel_attn=True,
    partial_rotary_factor=0.5,
    per_layer_config={"0": {"num_attention_heads": 4}},
    q_lora_rank=4,
    qk_layernorm=True,
    quant_method="fp8",
    query_pre_attn_scalar=256,
    residual_multiplier=0.22,
    rope_interleaved=True,
    rotary_pct=0.25,
    routed_scaling_factor=2.5,
    scale_depth=1.4,
    scale_emb=12,
    scoring_func="sigmoid",
    sliding_window_pattern=6,
    softmax_scale=0.5,
    topk_group=4,
    topk_method="noaux_tc",
    use_bidirectional_attention=True,
    use_parallel_residual=True,
    use_qk_norm=True,
    use_sliding_window=True,
    vision_config=dict(hidden_size=8),
)

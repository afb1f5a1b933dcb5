"""Tiny published folders in every layout, made of random numbers, and what their networks say, in plain numpy.

Each forward pass is written from the published description of its model: rows of tokens, heads one by one, no code of ours.
"""

import json

import numpy as np
import safetensors.numpy
from tokenizers import Tokenizer, models, pre_tokenizers

V, D, H, J, K, F, N, E, ACTIVE, FE = 300, 16, 4, 2, 4, 24, 2, 8, 4, 12
EOS, MASK = 270, 280
_HF = dict(
    vocab_size=V,
    hidden_size=D,
    intermediate_size=F,
    num_hidden_layers=N,
    num_attention_heads=H,
    num_key_value_heads=J,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    hidden_act="silu",
    eos_token_id=EOS,
    tie_word_embeddings=False,
    rope_theta=1000.0,
)
_LLADA = dict(
    d_model=D,
    n_heads=H,
    n_kv_heads=J,
    n_layers=N,
    mlp_hidden_size=F,
    vocab_size=V,
    embedding_size=V,
    max_sequence_length=64,
    rms_norm_eps=1e-5,
    rope_theta=1000.0,
    weight_tying=False,
    include_bias=False,
    include_qkv_bias=False,
    block_type="llama",
    activation_type="silu",
    layer_norm_type="rms",
    rope=True,
    alibi=False,
    mask_token_id=MASK,
    eos_token_id=EOS,
)
_MOE = dict(num_experts=E, num_experts_per_tok=ACTIVE)
CONFIGS = {
    "llama": dict(
        _HF, architectures=["LlamaForCausalLM"], model_type="llama", tie_word_embeddings=True
    ),
    "llada": dict(_LLADA, architectures=["LLaDAModelLM"], model_type="llada"),
    "llada_moe": dict(
        _HF,
        architectures=["LLaDAMoEModelLM"],
        model_type="llada",
        **_MOE,
        expert_intermediate_size=FE,
        mask_token_id=MASK,
    )
    | dict(
        dense_intermediate_size=F,
        moe_layer_freq=[0, 1],
        qk_layernorm=True,
        shared_expert_intermediate_size=None,
    ),
    "dream": dict(_HF, architectures=["DreamModel"], model_type="Dream", mask_token_id=MASK),
    "sdar": dict(
        _HF,
        architectures=["SDARForCausalLM"],
        model_type="sdar",
        mask_token_id=MASK,
        block_size=4,
        head_dim=K,
    ),
    "pangu": dict(
        _HF,
        architectures=["PanguProMoEForCausalLM"],
        model_type="PanguProMoE",
        **_MOE,
        moe_intermediate_size=FE,
    )
    | dict(shared_expert_intermediate_size=2 * FE),
}


def weights(kind: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Every tensor of a layout by its published name, float32."""
    rng, found = np.random.default_rng(seed), {}

    def add(name, *shape):
        gain = "norm" in name or "ln_f" in name
        found[name] = (gain + rng.normal(size=shape) * (0.3 if len(shape) > 1 else 0.2)).astype(
            np.float32
        )

    def ffn(before, width, names=("gate_proj", "up_proj", "down_proj")):
        add(f"{before}{names[0]}.weight", width, D)
        add(f"{before}{names[1]}.weight", width, D)
        add(f"{before}{names[2]}.weight", D, width)

    llada = kind == "llada"
    top = "model.transformer." if llada else "model."
    add(top + ("wte.weight" if llada else "embed_tokens.weight"), V, D)
    for n in range(N):
        layer = f"{top}{'blocks' if llada else 'layers'}.{n}."
        add(layer + ("attn_norm.weight" if llada else "input_layernorm.weight"), D)
        add(layer + ("ff_norm.weight" if llada else "post_attention_layernorm.weight"), D)
        attention = layer if llada else layer + "self_attn."
        for name, size in dict(q_proj=H * K, k_proj=J * K, v_proj=J * K).items():
            add(f"{attention}{name}.weight", size, D)
            if kind in ("dream", "pangu"):
                add(f"{attention}{name}.bias", size)
        add(attention + ("attn_out.weight" if llada else "o_proj.weight"), D, H * K)
        if kind == "pangu":
            add(attention + "o_proj.bias", D)
        if kind in ("sdar", "llada_moe"):
            add(attention + "q_norm.weight", K)
            add(attention + "k_norm.weight", K)
        if kind == "pangu" or (kind == "llada_moe" and n == 1):
            add(layer + "mlp.gate.weight", E, D)
            for e in range(E):
                ffn(f"{layer}mlp.experts.{e}.", FE)
            if kind == "pangu":
                add(layer + "mlp.router_scale", 1, E)
                ffn(layer + "mlp.shared_expert.", 2 * FE)
        else:
            ffn(
                layer if llada else layer + "mlp.",
                F,
                ("ff_proj", "up_proj", "ff_out")
                if llada
                else ("gate_proj", "up_proj", "down_proj"),
            )
    add(top + ("ln_f.weight" if llada else "norm.weight"), D)
    if kind != "llama":
        add("model.transformer.ff_out.weight" if llada else "lm_head.weight", V, D)
    return found


def tokenizer(folder) -> None:
    """A byte-level tokenizer.json of 271 ids."""
    vocab = {sign: i for i, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab |= {f"zz{i}": i for i in range(256, EOS)}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(["<|endoftext|>"])
    made.save(str(folder / "tokenizer.json"))


def lookup(kind: str, follows: dict[int, int]) -> dict[str, np.ndarray]:
    """Weights that answer each of these ids with the one that follows it: nothing attends, nothing is fed forward."""
    found = {
        name: np.full_like(x, "norm" in name or "ln_f" in name) for name, x in weights(kind).items()
    }
    found |= {} if kind != "llama" else {"lm_head.weight": np.zeros((V, D), np.float32)}
    embed, head = (
        next(n for n in found if n.endswith(end))
        for end in (("wte.weight", "embed_tokens.weight"), ("ff_out.weight", "lm_head.weight"))
    )
    direction = np.random.default_rng(0).normal(size=(V, D)).astype(np.float32)
    found[embed] = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    for before, after in follows.items():
        found[head][after] += 10 * found[embed][before]
    return found


def publish(folder, kind: str, tensors=None, **changes):
    """A published folder; its tensors."""
    folder.mkdir()
    found = tensors or weights(kind)
    safetensors.numpy.save_file(found, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIGS[kind] | changes))
    tokenizer(folder)
    return found


# ------------------------------------------------------------------------------------------------------- the forward passes


def rms(x, gain):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * gain


def turned(x_LK):
    """Rotary positions: the pair (k, k + K/2) turns by position · 1000^(−2k/K)."""
    out = np.empty_like(x_LK)
    for i, row in enumerate(x_LK):
        for k in range(K // 2):
            angle = i * 1000.0 ** (-2 * k / K)
            a, b = row[k], row[k + K // 2]
            out[i, k], out[i, k + K // 2] = (
                a * np.cos(angle) - b * np.sin(angle),
                b * np.cos(angle) + a * np.sin(angle),
            )
    return out


def swiglu(w, before, x, names=("gate_proj", "up_proj", "down_proj")):
    gate, up, down = (w[f"{before}{name}.weight"] for name in names)
    g = gate @ x
    return down @ (g / (1 + np.exp(-g)) * (up @ x))


def heard(w, before, x_LD, sees, out, normed):
    asked = {}
    for name in ("q_proj", "k_proj", "v_proj"):
        asked[name] = x_LD @ w[f"{before}{name}.weight"].T + w.get(f"{before}{name}.bias", 0)
    heads = []
    for h in range(H):
        j = h // (H // J)
        q, k = asked["q_proj"][:, h * K : (h + 1) * K], asked["k_proj"][:, j * K : (j + 1) * K]
        if normed:
            q, k = rms(q, w[before + "q_norm.weight"]), rms(k, w[before + "k_norm.weight"])
        scores = np.where(sees, turned(q) @ turned(k).T / np.sqrt(K), -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        heads.append(p / p.sum(-1, keepdims=True) @ asked["v_proj"][:, j * K : (j + 1) * K])
    return np.concatenate(heads, -1) @ w[f"{before}{out}.weight"].T + w.get(
        f"{before}{out}.bias", 0
    )


def routed(w, before, x, grouped):
    logits = w[before + "gate.weight"] @ x
    p = np.exp(logits - logits.max())
    p /= p.sum()
    chosen = (
        [g * 2 + int(p[g * 2 : g * 2 + 2].argmax()) for g in range(ACTIVE)]
        if grouped
        else np.argsort(-p)[:ACTIVE]
    )
    scale = w[before + "router_scale"][0] if grouped else np.ones(E)
    y = sum(p[e] * scale[e] * swiglu(w, f"{before}experts.{e}.", x) for e in chosen)
    return y + swiglu(w, before + "shared_expert.", x) if grouped else y


def says(kind: str, w: dict, read_L) -> np.ndarray:
    """Logits at every position of what is read."""
    w, llada, L = (
        {name: x.astype(np.float64) for name, x in w.items()},
        kind == "llada",
        len(read_L),
    )
    top = "model.transformer." if llada else "model."
    embed = w[top + ("wte.weight" if llada else "embed_tokens.weight")]
    i, j = np.arange(L)[:, None], np.arange(L)[None]
    sees = {"llama": j <= i, "pangu": j <= i, "sdar": j // 4 <= i // 4}.get(
        kind, np.ones((L, L), bool)
    )
    h_LD = embed[read_L]
    for n in range(N):
        layer = f"{top}{'blocks' if llada else 'layers'}.{n}."
        x_LD = rms(h_LD, w[layer + ("attn_norm.weight" if llada else "input_layernorm.weight")])
        own = layer if llada else layer + "self_attn."
        h_LD = h_LD + heard(
            w, own, x_LD, sees, "attn_out" if llada else "o_proj", kind in ("sdar", "llada_moe")
        )
        x_LD = rms(
            h_LD, w[layer + ("ff_norm.weight" if llada else "post_attention_layernorm.weight")]
        )
        if layer + "mlp.gate.weight" in w:
            h_LD = h_LD + np.stack([routed(w, layer + "mlp.", x, kind == "pangu") for x in x_LD])
        elif llada:
            h_LD = h_LD + np.stack(
                [swiglu(w, layer, x, ("ff_proj", "up_proj", "ff_out")) for x in x_LD]
            )
        else:
            h_LD = h_LD + np.stack([swiglu(w, layer + "mlp.", x) for x in x_LD])
    h_LD = rms(h_LD, w[top + ("ln_f.weight" if llada else "norm.weight")])
    return h_LD @ w.get("model.transformer.ff_out.weight" if llada else "lm_head.weight", embed).T

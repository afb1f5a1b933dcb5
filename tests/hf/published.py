"""Tiny published folders in every layout, with random numbers, and their networks in plain numpy.

Each forward pass follows the published description of its model: rows of tokens, heads one by one,
no code of ours.
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
        _HF,
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        tie_word_embeddings=True,
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
    "dream": dict(
        _HF, architectures=["DreamModel"], model_type="Dream", mask_token_id=MASK
    ),
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


GATED = ("gate_proj", "up_proj", "down_proj")
LLADA_GATED = ("ff_proj", "up_proj", "ff_out")


def is_gain(name: str) -> bool:
    return "norm" in name or "ln_f" in name


class Names:
    """Names of tensors that differ between LLaDA and all others."""

    def __init__(self, kind: str):
        llada = kind == "llada"
        self.top = "model.transformer." if llada else "model."
        self.layers = self.top + ("blocks." if llada else "layers.")
        self.embed = self.top + ("wte.weight" if llada else "embed_tokens.weight")
        self.head = "model.transformer.ff_out.weight" if llada else "lm_head.weight"
        self.norm = self.top + ("ln_f.weight" if llada else "norm.weight")
        self.attend_norm = "attn_norm.weight" if llada else "input_layernorm.weight"
        self.ffn_norm = "ff_norm.weight" if llada else "post_attention_layernorm.weight"
        self.attention = "" if llada else "self_attn."
        self.out = "attn_out" if llada else "o_proj"
        self.ffn = "" if llada else "mlp."
        self.gated = LLADA_GATED if llada else GATED


def weights(kind: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Every tensor of a layout by its published name, float32."""
    rng = np.random.default_rng(seed)
    tensors = {}
    names = Names(kind)

    def add(name, *shape):
        scale = 0.3 if len(shape) > 1 else 0.2
        x = is_gain(name) + rng.normal(size=shape) * scale
        tensors[name] = x.astype(np.float32)

    def ffn(before, width, names=GATED):
        gate, up, down = names
        add(f"{before}{gate}.weight", width, D)
        add(f"{before}{up}.weight", width, D)
        add(f"{before}{down}.weight", D, width)

    def attention(before):
        for name, size in dict(q_proj=H * K, k_proj=J * K, v_proj=J * K).items():
            add(f"{before}{name}.weight", size, D)
            if kind in ("dream", "pangu"):
                add(f"{before}{name}.bias", size)
        add(f"{before}{names.out}.weight", D, H * K)
        if kind == "pangu":
            add(before + "o_proj.bias", D)
        if kind in ("sdar", "llada_moe"):
            add(before + "q_norm.weight", K)
            add(before + "k_norm.weight", K)

    def experts(before):
        add(before + "gate.weight", E, D)
        for e in range(E):
            ffn(f"{before}experts.{e}.", FE)
        if kind == "pangu":
            add(before + "router_scale", 1, E)
            ffn(before + "shared_expert.", 2 * FE)

    add(names.embed, V, D)
    for n in range(N):
        layer = f"{names.layers}{n}."
        add(layer + names.attend_norm, D)
        add(layer + names.ffn_norm, D)
        attention(layer + names.attention)
        if kind == "pangu" or (kind == "llada_moe" and n == 1):
            experts(layer + "mlp.")
        else:
            ffn(layer + names.ffn, F, names.gated)
    add(names.norm, D)
    if kind != "llama":
        add(names.head, V, D)
    return tensors


def tokenizer(folder) -> None:
    """A byte-level tokenizer.json of 271 ids."""
    vocab = {
        sign: i for i, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    vocab |= {f"zz{i}": i for i in range(256, EOS)}
    library = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.add_special_tokens(["<|endoftext|>"])
    library.save(str(folder / "tokenizer.json"))


def lookup(kind: str, follows: dict[int, int]) -> dict[str, np.ndarray]:
    """Weights that answer each of these ids with its successor, without attention or FFN."""
    names = Names(kind)
    tensors = {}
    for name, x in weights(kind).items():
        tensors[name] = np.full_like(x, is_gain(name))
    if kind == "llama":
        tensors["lm_head.weight"] = np.zeros((V, D), np.float32)
    direction = np.random.default_rng(0).normal(size=(V, D)).astype(np.float32)
    embed = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    tensors[names.embed] = embed
    for before, after in follows.items():
        tensors[names.head][after] += 10 * embed[before]
    return tensors


def publish(folder, kind: str, tensors=None, **changes):
    """Writes a published folder; returns its tensors."""
    folder.mkdir()
    tensors = tensors or weights(kind)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIGS[kind] | changes))
    tokenizer(folder)
    return tensors


# ---------------------------------------------------------------------------------- forward passes


def rms(x, gain):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * gain


def rotated(x_LK):
    """Rotates by position: the pair (k, k + K/2) turns by position · 1000^(−2k/K)."""
    out = np.empty_like(x_LK)
    for i, row in enumerate(x_LK):
        for k in range(K // 2):
            angle = i * 1000.0 ** (-2 * k / K)
            a, b = row[k], row[k + K // 2]
            out[i, k] = a * np.cos(angle) - b * np.sin(angle)
            out[i, k + K // 2] = b * np.cos(angle) + a * np.sin(angle)
    return out


def softmax(scores):
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def swiglu(w, before, x, names=GATED):
    gate, up, down = (w[f"{before}{name}.weight"] for name in names)
    g = gate @ x
    return down @ (g / (1 + np.exp(-g)) * (up @ x))


def linear(w, name, x_LD):
    return x_LD @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)


def attended(kind, w, before, x_LD, sees):
    """Attention with H heads, each pair of which shares keys and values."""
    q_LH = linear(w, f"{before}q_proj", x_LD)
    k_LJ = linear(w, f"{before}k_proj", x_LD)
    v_LJ = linear(w, f"{before}v_proj", x_LD)
    heads = []
    for h in range(H):
        j = h // (H // J)
        own, shared = slice(h * K, (h + 1) * K), slice(j * K, (j + 1) * K)
        q, k = q_LH[:, own], k_LJ[:, shared]
        if kind in ("sdar", "llada_moe"):
            q = rms(q, w[before + "q_norm.weight"])
            k = rms(k, w[before + "k_norm.weight"])
        scores = np.where(sees, rotated(q) @ rotated(k).T / np.sqrt(K), -np.inf)
        heads.append(softmax(scores) @ v_LJ[:, shared])
    return linear(w, before + Names(kind).out, np.concatenate(heads, -1))


def routed(kind, w, before, x):
    """The sum of the experts of one token: the best of each group (pangu), or the best of all."""
    p = softmax(w[before + "gate.weight"] @ x)
    if kind == "pangu":
        chosen = [g * 2 + int(p[g * 2 : g * 2 + 2].argmax()) for g in range(ACTIVE)]
        p = p * w[before + "router_scale"][0]
    else:
        chosen = np.argsort(-p)[:ACTIVE]
    y = sum(p[e] * swiglu(w, f"{before}experts.{e}.", x) for e in chosen)
    if kind == "pangu":
        y = y + swiglu(w, before + "shared_expert.", x)
    return y


def visible(kind, length):
    """[query, key]: causal, by blocks of 4, or everything."""
    i, j = np.arange(length)[:, None], np.arange(length)[None]
    if kind in ("llama", "pangu"):
        return j <= i
    if kind == "sdar":
        return j // 4 <= i // 4
    return np.ones((length, length), bool)


def says(kind: str, w: dict, read_L) -> np.ndarray:
    """Logits at every position of the ids that are read."""
    w = {name: x.astype(np.float64) for name, x in w.items()}
    names = Names(kind)
    sees = visible(kind, len(read_L))
    h_LD = w[names.embed][read_L]
    for n in range(N):
        layer = f"{names.layers}{n}."
        x_LD = rms(h_LD, w[layer + names.attend_norm])
        h_LD = h_LD + attended(kind, w, layer + names.attention, x_LD, sees)
        x_LD = rms(h_LD, w[layer + names.ffn_norm])
        before = layer + names.ffn
        if before + "gate.weight" in w:
            y = [routed(kind, w, before, x) for x in x_LD]
        else:
            y = [swiglu(w, before, x, names.gated) for x in x_LD]
        h_LD = h_LD + np.stack(y)
    h_LD = rms(h_LD, w[names.norm])
    return h_LD @ w.get(names.head, w[names.embed]).T

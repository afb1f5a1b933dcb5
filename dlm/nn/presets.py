"""Four backbones to start from, as plain dictionaries for recipes.

Parameter counts include embeddings of the vocabulary in the table.

    size    layers  width  heads × size  kv  ffn           embeddings  vocabulary  parameters
    tiny         4    128      4 ×  32    4  relu²   512   tied             4,096        1.3M
    small        8    512      4 × 128    4  relu² 2,048   tied             8,192       29.4M
    base        12    768     12 ×  64   12  swiglu 2,048  untied          32,768      135.3M
    1b          20  2,048     16 × 128    4  swiglu 5,632  untied          32,768      1.04B

tiny and small are for CPUs, where exp is slow and memory plentiful: squared ReLU, few heads,
float32, unrolled layers. base (as MDLM and MD4) and 1b are for accelerators: SwiGLU, bfloat16,
one compiled layer, and in 1b activations recomputed in the backward pass.
"""

SIZES = {
    "tiny": dict(
        layers=4,
        width=128,
        attention=dict(heads=4, kv_heads=4, head_size=32),
        ffn=dict(kind="relu2", width=512),
        embeddings="tied",
        compute=dict(dtype="float32", unroll=4),
    ),
    "small": dict(
        layers=8,
        width=512,
        attention=dict(heads=4, kv_heads=4, head_size=128),
        ffn=dict(kind="relu2", width=2048),
        embeddings="tied",
        compute=dict(dtype="float32", unroll=8),
    ),
    "base": dict(
        layers=12,
        width=768,
        attention=dict(heads=12, kv_heads=12, head_size=64),
        ffn=dict(kind="swiglu", width=2048),
        embeddings="untied",
        compute=dict(dtype="bfloat16"),
    ),
    "1b": dict(
        layers=20,
        width=2048,
        attention=dict(heads=16, kv_heads=4, head_size=128),
        ffn=dict(kind="swiglu", width=5632),
        embeddings="untied",
        compute=dict(dtype="bfloat16", remat="block"),
    ),
}
VOCABULARY = dict(tiny=4096, small=8192, base=32768)
VOCABULARY["1b"] = 32768

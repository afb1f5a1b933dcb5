"""From a run's network to the config.json of a layout, and whether that file says all of it."""

from dlm.core.config import list_differences, to_plain
from dlm.core.errors import UserError
from dlm.core.run import Run, build_run
from dlm.hf import reading, rope
from dlm.hf.layouts import Layout


def described(layout: Layout, run: Run, kept: dict) -> dict:
    """The config.json of a run's network in this layout; what was `kept` of the one that it came from stays."""
    k, nn, a, e = layout.keys, run.nn, run.nn.attention, run.nn.experts
    if kept:
        return kept | {k["vocab"]: _rows(run)}
    config = dict(architectures=[layout.architecture], model_type=layout.kind, hidden_act="silu")
    told = dict(
        layers=nn.layers,
        width=nn.width,
        heads=a.heads,
        kv_heads=a.kv_heads,
        head_size=a.head_size,
        epsilon=nn.norm.epsilon,
    )
    told |= dict(
        ffn=nn.ffn.width, vocab=_rows(run), tied=nn.embeddings == "tied", length=run.data.length
    )
    if e.number and layout.router:
        told |= dict(number=e.number, active=e.active, expert=e.width, shared=e.shared * e.width)
        told |= dict(ffn=e.width) if k["ffn"] == k["expert"] else {}
    config |= {key: allowed[0] for key, allowed in layout.demands.items() if allowed[0] is not None}
    config |= {k[name].split("|")[0]: value for name, value in told.items() if name in k}
    config |= {
        f"{kind}_token_id": getattr(nn.vocab, kind) for kind in ("bos", "eos", "pad", "mask")
    }
    config |= dict(eos_token_id=list(nn.vocab.ends)) if nn.vocab.stops else {}
    return config | _more(layout, run)


def _rows(run: Run) -> int:
    """Rows of the embedding that are written: not those that were appended for a mask that an autoregressive model never sees."""
    rows = run.text.published.rows if getattr(run.text, "path", None) else 0
    return rows if rows and run.objective.mask.kind == "causal" else run.nn.vocab.size


def _more(layout: Layout, run: Run) -> dict:
    """What is said under keys of its own."""
    k, nn, e = layout.keys, run.nn, run.nn.experts
    found = rope.written(nn.attention.rope)
    if "bias" in k:
        found[k["bias"]] = nn.attention.bias == layout.bias
    if e.number and "renormalised" in k:
        found[k["renormalised"]] = getattr(e.router, "weights", "") == "renormalised"
    if e.number and "sparse" in k:
        found[k["sparse"]] = [
            int(n >= e.dense and (n - e.dense + 1) % e.every == 0) for n in range(nn.layers)
        ]
    if e.number and "dense" in k:
        found[k["dense"]] = list(range(e.dense))
    if e.number and "every" in k:
        found[k["every"]] = e.every
    if "block" in k:
        found[k["block"]] = run.objective.mask.size
    return found | (dict(vocab_size=nn.vocab.size) if k["vocab"] != "vocab_size" else {})


def misfit(layout: Layout, run: Run, config: dict, came: bool, any_objective: bool) -> str:
    """What this config.json says of the network that is not so; '' where it says all of it. `came`: it is that of the run's own import."""
    try:
        nn = reading.network(layout, config, "it", whole=not came)
        again = build_run(
            dict(steps=1, text=to_plain(run.text), nn=nn, objective=to_plain(run.objective))
        )
    except UserError as error:
        return f"cannot say it: {error}"
    silent = (
        "compute.",
        "ffn.width"
        if not any(not s for stack in run.nn.stacks for s in stack.kinds)
        else "compute.",
    )
    silent += (
        ("experts.backend", "experts.block", "experts.router.balance", "experts.router.z")
        if run.nn.experts.number
        else ("experts.",)
    )
    silent += (
        ("embeddings: tied → untied",) if came else ()
    )  # its file held a head of its own (`weights.own_head`), which says it
    wrong = [
        d
        for d in list_differences(to_plain(again.nn), to_plain(run.nn))
        if not d.startswith(silent)
    ]
    if wrong:
        return f"would make of it nn.{wrong[0].replace(' → ', ', not ')}"
    name = to_plain(run.objective)["name"]
    if not any_objective and name != layout.objective["name"]:
        return f"is for {layout.objective['name']}, not {name}"
    return ""

"""From a run's network to the config.json of a layout, and whether that file describes it all."""

from typing import Any

from dlm.core.config import list_differences, to_plain
from dlm.core.errors import UserError
from dlm.core.run import Run, build_run
from dlm.hf import reading, rope
from dlm.hf.layouts import Layout
from dlm.nn.visibility import is_autoregressive

_TOKENS = ("bos", "eos", "pad", "mask")


def described(layout: Layout, run: Run, original: dict) -> dict:
    """Returns the config.json of a run's network in this layout.

    `original` is the file that the run was imported with, which stays but for the vocabulary's
    size; {} for a run of our own.
    """
    # An imported file says more than we know: it is kept.
    k, vocab = layout.keys, run.nn.vocab
    if original:
        return original | {k["vocab"]: _rows(run)}
    config: dict[str, Any] = dict(
        architectures=[layout.architecture],
        model_type=layout.kind,
        hidden_act="silu",
    )
    # The first allowed value is the one to write; None is an absent key.
    for key, allowed in layout.required.items():
        if allowed[0] is not None:
            config[key] = allowed[0]
    for name, value in _fields(layout, run).items():
        if name in k:
            config[k[name].split("|")[0]] = value
    for token in _TOKENS:
        config[f"{token}_token_id"] = getattr(vocab, token)
    if vocab.stops:
        config["eos_token_id"] = list(vocab.ends)
    return config | _optional(layout, run)


def _fields(layout: Layout, run: Run) -> dict[str, Any]:
    """Returns the values that every layout has, by the names of `Layout.keys`."""
    # Names as in Layout.keys; a layout without one of the keys leaves it out.
    nn, attention, experts = run.nn, run.nn.attention, run.nn.experts
    fields = dict(
        layers=nn.layers,
        width=nn.width,
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_size=attention.head_size,
        epsilon=nn.norm.epsilon,
        ffn=nn.ffn.width,
        vocab=_rows(run),
        tied=nn.embeddings == "tied",
        length=run.data.length,
    )
    if experts.count and layout.router:
        fields |= dict(
            number=experts.count,
            active=experts.per_token,
            expert=experts.width,
            shared=experts.shared * experts.width,
        )
        # One key may be both widths, in layouts without dense layers.
        if layout.keys["ffn"] == layout.keys["expert"]:
            fields["ffn"] = experts.width
    return fields


def _rows(run: Run) -> int:
    """Returns how many rows of the embedding are written.

    An autoregressive model never reads a mask, so a row that was appended for it is left out.
    """
    # 0 for a tokenizer of our own.
    rows = _published_rows(run)
    if rows and is_autoregressive(run.objective.visibility):
        return rows
    return run.nn.vocab.size


def _published_rows(run: Run) -> int:
    """Returns the rows in the files that the run's tokenizer came from; 0 where there are none."""
    # Only a tokenizer that may be a published one has these fields.
    text = to_plain(run.text)
    if not text.get("path"):
        return 0
    return text["published"]["rows"]


def _optional(layout: Layout, run: Run) -> dict:
    """Returns the values of keys that only some layouts have."""
    # Absent keys keep the default of the layout's code.
    k, nn = layout.keys, run.nn
    config = rope.written(nn.attention.rope)
    if "bias" in k:
        config[k["bias"]] = nn.attention.bias == layout.bias
    if nn.experts.count:
        config |= _of_experts(layout, run)
    if "block" in k:
        config[k["block"]] = run.objective.visibility.block
    if k["vocab"] != "vocab_size":
        config["vocab_size"] = nn.vocab.size
    return config


def _of_experts(layout: Layout, run: Run) -> dict[str, Any]:
    k, experts = layout.keys, run.nn.experts
    config: dict[str, Any] = {}
    if "renormalised" in k:
        config[k["renormalised"]] = experts.router.weights == "renormalised"
    # The layers with experts, in the form that the layout has for them.
    if "sparse" in k:
        pattern = reading.sparse_pattern(
            run.nn.layers, experts.first_dense, experts.period
        )
        config[k["sparse"]] = [int(flag) for flag in pattern]
    if "dense" in k:
        config[k["dense"]] = list(range(experts.first_dense))
    if "every" in k:
        config[k["every"]] = experts.period
    return config


def misfit(
    layout: Layout,
    run: Run,
    config: dict,
    imported: bool,
    any_objective: bool,
) -> str:
    """Returns the first statement of a config.json about the network that is wrong, or ''.

    Args:
        layout: the architecture.
        run: the run to be written.
        config: what `described` gave for it.
        imported: whether config.json is the one that the run was imported with.
        any_objective: whether a layout for another objective is acceptable.
    """
    objective = to_plain(run.objective)
    try:
        nn = reading.network(layout, config, "it", whole=not imported)
        recipe = dict(
            steps=1,
            text=to_plain(run.text),
            nn=nn,
            objective=objective,
        )
        again = build_run(recipe)
    except UserError as error:
        return f"cannot say it: {error}"

    # The file must describe the run's network, but for settings that no config.json has.
    silent = _silent(run, imported)
    differences = list_differences(to_plain(again.nn), to_plain(run.nn))
    wrong = [text for text in differences if not text.startswith(silent)]
    if wrong:
        return f"would make of it nn.{wrong[0].replace(' → ', ', not ')}"
    name = objective["name"]
    if not any_objective and name != layout.objective["name"]:
        return f"is for {layout.objective['name']}, not {name}"
    return ""


def _silent(run: Run, imported: bool) -> tuple[str, ...]:
    """Returns beginnings of differences that a config.json need not express."""
    silent = ["compute."]
    # Without dense layers their width has no effect.
    if all(all(stack.kinds) for stack in run.nn.stacks):
        silent.append("ffn.width")
    if run.nn.experts.count:
        silent += ["experts.backend", "experts.block"]
        silent += ["experts.router.balance", "experts.router.z"]
    else:
        silent.append("experts.")
    # An imported file may have an unembedding of its own (`weights.own_head`): the tensor says it.
    if imported:
        silent.append("embeddings: tied → untied")
    return tuple(silent)

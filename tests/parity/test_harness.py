"""lm_eval itself on our runs.

Its own HFLM gives the same numbers on the same weights, and tasks are read from local files, not
run.
"""

import functools
import gzip
import importlib.metadata
import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
import torch
import transformers
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from dlm import evaluate
from dlm.app.context import RunContext
from dlm.app.experiment import Experiment
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.evals.lm_eval import local_tasks, tokenized
from dlm.evals.lm_eval.adapter import HarnessLM
from dlm.evals.lm_eval.scoring import Model
from dlm.hf import layouts, weights
from dlm.machine import isolation
from dlm.text.bytes import Bytes
from tests import tiny

LAYERS, WIDTH, HEADS, KV, HEAD, FFN, LENGTH = 2, 16, 4, 2, 4, 24, 32
EOS, BOS, SIZE = 256, 257, 260  # ids as in text.bytes; HF's vocabulary is as large


def hf_tokenizer(bos: bool):
    """A tokenizer of bytes, with the ids of ours."""
    signs = pre_tokenizers.ByteLevel.alphabet()
    of_byte = {
        ord(s) if ord(s) < 256 else None: s for s in signs
    }  # the bytes that stand for themselves
    rest = sorted(s for s in signs if ord(s) >= 256)
    missing = [b for b in range(256) if b not in of_byte]
    vocab = {s: b for b, s in of_byte.items() if b is not None} | dict(
        zip(rest, missing, strict=True)
    )
    library = Tokenizer(
        models.BPE(vocab=vocab | {"<eos>": EOS, "<bos>": BOS}, merges=[])
    )
    library.pre_tokenizer, library.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        decoders.ByteLevel(),
    )
    special = dict(eos_token="<eos>", pad_token="<eos>") | (
        dict(bos_token="<bos>") if bos else {}
    )
    if bos:
        library.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", BOS)]
        )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=library, **special)


def hf_model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=SIZE,
        hidden_size=WIDTH,
        intermediate_size=FFN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV,
        head_dim=HEAD,
        max_position_embeddings=LENGTH,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        eos_token_id=EOS,
        bos_token_id=BOS,
        pad_token_id=EOS,
    )
    model = transformers.LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.4 + (1.0 if p.ndim == 1 else 0.0))
    never = torch.tensor(
        [BOS, 258, 259]
    )  # what our networks never generate has no part in the normaliser
    model.lm_head.register_forward_hook(
        lambda module, inputs, logits: logits.index_fill(-1, never, -1e30)
    )
    return model


def converted(model, nn) -> dict:
    """HF's weights under our names, by the tables of `dlm.hf`."""
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    tree: dict = {}
    for leaf in weights.leaves(layouts.LAYOUTS["LlamaForCausalLM"], nn):
        whole = np.zeros(leaf.shape, np.float32)
        for name, index in leaf.parts.items():
            whole[index] = leaf.ours(state[name])
        *above, last = leaf.path
        functools.reduce(lambda folder, key: folder.setdefault(key, {}), above, tree)[
            last
        ] = whole
    return tree


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory):
    return tiny.write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt")


def ours(corpus_file, params=None, **changes):
    nn = dict(
        layers=LAYERS,
        width=WIDTH,
        embeddings="untied",
        attention=dict(heads=HEADS, kv_heads=KV, head_size=HEAD, qk_norm="none"),
        ffn=dict(width=FFN, kind="swiglu"),
    )
    run = build_run(tiny.recipe(corpus_file, nn=nn, data__length=LENGTH, **changes))
    experiment = Experiment(run, run.text.fit(()))
    return RunContext(
        experiment,
        tiny.random_params(run.nn, scale=0.3) if params is None else params,
        run.data.source,
    )


@pytest.fixture(scope="module", params=[False, True], ids=["no-bos", "bos"])
def pair(request, corpus_file):
    """(ours, lm_eval's own) on the same weights, with a tokenizer that adds a bos, or none."""
    model = hf_model()
    subject = ours(corpus_file, **tiny.AR)
    params = converted(model, subject.experiment.run.nn)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, subject.params)
    tokenizer = Bytes().fit(())
    tokenizer.adds_bos = request.param
    if not request.param:  # the tokenizer of HF has no bos: its prefix is eos
        tokenizer.bos = -1
    subject.experiment.tokenizer = tokenizer
    mine = HarnessLM(
        Model(RunContext(subject.experiment, params, None)),
        greedy_tasks=frozenset({"t"}),
    )
    theirs = HFLM(
        pretrained=model,
        tokenizer=hf_tokenizer(request.param),
        batch_size=3,
        max_length=LENGTH,
        device="cpu",
    )
    return mine, theirs


def asked(kind, *arguments):
    return [
        Instance(request_type=kind, doc={}, arguments=a, idx=0, metadata=("t", 0, 1))
        for a in arguments
    ]


def test_loglikelihoods_are_those_of_lm_eval(pair):
    mine, theirs = pair
    requests = asked(
        "loglikelihood",
        ("the cat", " sat"), ("the cat ", "sat"), ("a", "b"), ("", "from nothing"),
        ("a context that is longer than " * 3, "the room"),
        ("é and \n", "ü"), ("the cat", " sat on"),
    )  # fmt: skip
    a, b = mine.loglikelihood(requests), theirs.loglikelihood(requests)
    np.testing.assert_allclose([x[0] for x in a], [x[0] for x in b], rtol=2e-5)
    assert [x[1] for x in a] == [x[1] for x in b]
    best = theirs.generate_until(
        asked(
            "generate_until",
            ("the cat", dict(until=["\x00"], max_gen_toks=3, do_sample=False)),
        )
    )[0]
    if best.isascii() and best:
        assert mine.loglikelihood(asked("loglikelihood", ("the cat", best)))[0][1]


JOINED = (
    ("abs", "w"),
    ("the others", "w"),
    ("s", "w"),
    ("x s", "wxyz"),
    ("s  ", "w"),
)  # 's' and 'w' beside each other are one token


def test_a_token_over_the_border_is_scored_as_two_where_lm_eval_fails(
    pair, monkeypatch
):
    """lm_eval asserts that something is left to score, and scores only the part that is left."""
    mine, theirs = pair

    def joined(text):
        return [*text.encode().replace(b"sw", b"\x07")]

    front = [BOS] if pair[0].model.context.tokenizer.adds_bos else []
    monkeypatch.setattr(
        mine.model.context.tokenizer,
        "encode_marked",
        lambda text: np.array(joined(text), np.int32),
    )
    monkeypatch.setattr(
        theirs, "tok_encode", lambda text, *_, **__: front + joined(text)
    )
    for context, continuation in JOINED[:3]:
        with pytest.raises(AssertionError):
            theirs.loglikelihood(asked("loglikelihood", (context, continuation)))
    apart = [
        ((c, y), front + [*c.rstrip().encode()], [*(c[len(c.rstrip()) :] + y).encode()])
        for c, y in JOINED
    ]
    a, b = (
        mine.loglikelihood(asked("loglikelihood", *JOINED)),
        theirs._loglikelihood_tokens(apart, disable_tqdm=True),
    )
    np.testing.assert_allclose([x[0] for x in a], [x[0] for x in b], rtol=2e-5)
    assert [x[1] for x in a] == [x[1] for x in b] and max(x[0] for x in a) < -1e-3, (
        "none of them is certain"
    )


def test_rolling_is_that_of_lm_eval(pair, monkeypatch):
    mine, theirs = pair
    # With a bos that the tokenizer adds, lm_eval scores that bos too, after its prefix, which is
    # the same bos.
    plain = theirs.tokenizer.encode
    monkeypatch.setattr(
        theirs, "tok_encode", lambda text: plain(text, add_special_tokens=False)
    )
    requests = asked(
        "loglikelihood_rolling",
        ("short",),
        ("a text of more than two windows " * 3,),
        ("x" * (LENGTH + 1),),
    )
    np.testing.assert_allclose(
        mine.loglikelihood_rolling(requests),
        theirs.loglikelihood_rolling(requests),
        rtol=2e-5,
    )


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 17, 30])
def test_windows_are_those_of_lm_eval(count):
    tokens = list(range(100, 100 + count))
    theirs = [
        utils.make_disjoint_window(w)
        for w in utils.get_rolling_token_windows(tokens, 99, 8, 1)
    ]
    ids = [99, *tokens]
    mine = [
        (ids[begin:target], ids[target:end])
        for begin, target, end in tokenized.windows(len(ids), 1, 8, 1)
    ]
    assert mine == theirs


def test_a_text_that_was_written_ends_at_any_of_its_ends(pair, monkeypatch):
    tokenizer = pair[0].model.context.tokenizer
    monkeypatch.setattr(tokenizer, "vocab", replace(tokenizer.vocab, stops=(4,)))
    assert (
        pair[0]._text(np.array([*b"ab", 4, *b"c", EOS]), [])
        == "ab"
        == pair[0]._text(np.array([*b"ab", EOS, 4]), [])
    )


def test_generation_is_that_of_lm_eval(pair):
    mine, theirs = pair
    options = dict(until=["\n\n", "qq"], max_gen_toks=9, do_sample=False)
    requests = asked(
        "generate_until",
        ("the cat", dict(options)),
        ("a longer prompt, cut", dict(options)),
        ("q", dict(options)),
        ("too long by far " * 4, dict(options)),
    )
    assert mine.generate_until(requests) == theirs.generate_until(requests)


# -------------------------------------------------------------------------------------- local tasks


CHOICE = """
task: pick
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{q}}"
doc_to_choice: "{{[a, b]}}"
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
CODE = dict(
    prompt="def f():", test="def check(f):\n    assert f() == 1", entry_point="f"
)
ROWS = [
    dict(q=f"the cat {n}", a="sat on a mat", b="mat a on sat", **CODE) for n in range(3)
]


@pytest.fixture
def folder(tmp_path):
    def write(**files):
        (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
        for name, text in files.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path

    return write


def scores(run, folder, capsys, *flags, tasks="pick"):
    evaluate.main(
        [
            f"--workdir={run}",
            f"--harness={tasks}",
            f"--harness_dir={folder}",
            "--json",
            *flags,
        ]
    )
    return {
        f"{r['eval']}.{r['name']}": r
        for r in json.loads(capsys.readouterr().out)["scores"]
    }


def test_scores_are_records_like_all_others(trained, folder, capsys):
    rolling = (
        CHOICE.replace("multiple_choice", "loglikelihood_rolling")
        .replace("pick", "text")
        .replace("doc_to_target: 0", 'doc_to_target: "{{a}}"')
    )
    rolling = (
        rolling[: rolling.index("metric_list")]
        + "metric_list: [{metric: bits_per_byte}]\n"
    )
    where = folder(pick=CHOICE, text=rolling)
    results = scores(
        trained("masked"),
        where,
        capsys,
        "--harness_samples=2",
        "--harness_limit=2",
        tasks="pick,text",
    )
    pick = results["harness.pick.acc,none"]
    assert (
        pick["claims"],
        pick["documents"],
        pick["requests"],
        pick["settings"]["samples"],
    ) == (
        "bound",
        2,
        4,
        2,
    )
    assert (
        pick["text"] is None
        and pick["trials"] == 2
        and pick["interval"] > 0.3
        and pick["task"]["rows"] == 2
    )
    assert list(pick["differs"]) == ["evals.harness.limit", "evals.harness.samples"], (
        "where a task lies is not what is asked"
    )
    assert (
        pick["loglikelihood_mc_se"] > 0
        and pick["mc_se"] >= 0
        and pick["sampler"]["steps"] == 4
    )
    assert results["harness.text.bits_per_byte,none"]["mc_se"] > 0
    again = scores(
        trained("masked"),
        where,
        capsys,
        "--harness_samples=2",
        "--harness_limit=2",
        tasks="text,pick",
    )
    assert all(
        again[name]["value"] == r["value"] and again[name]["mc_se"] == r["mc_se"]
        for name, r in results.items()
    )
    assert (trained("masked") / "evals.jsonl").read_text().count("harness") >= 6
    exact = scores(
        trained("masked"),
        where,
        capsys,
        "--evals.harness.likelihood=exact",
        tasks="text",
    )["harness.text.bits_per_byte,none"]
    assert (
        "trials" not in exact and exact["se"] is None and exact["interval"] is None
    ), "lm_eval knows no error of it"
    assert (
        exact["claims"] == "exact"
        and "mc_se" not in exact
        and exact["sampler"]["rule"]["order"] == "left_to_right"
    )
    assert exact["value"] != results["harness.text.bits_per_byte,none"]["value"]


def test_an_edited_copy_of_a_task_is_another_one(trained, tmp_path, capsys):
    """A task is identified by its settings and rows with prompts, not by its place or name."""
    identities = []
    rows = [json.dumps(row) for row in ROWS]
    edits = [
        dict(),
        dict(),
        dict(rows=[rows[0].replace("sat", "lay"), *rows[1:]]),
        dict(yaml=('"{{q}}"', '"{{q}}!"')),
        dict(yaml=("higher_is_better: true", "higher_is_better: false")),
    ]
    for n, edit in enumerate(edits):
        (tmp_path / str(n)).mkdir()
        (tmp_path / str(n) / "pick.yaml").write_text(
            CHOICE.replace(*edit.get("yaml", ("", "")))
        )
        (tmp_path / str(n) / "rows.jsonl").write_text("\n".join(edit.get("rows", rows)))
        identities.append(
            scores(trained("ar"), tmp_path / str(n), capsys)["harness.pick.acc,none"][
                "task"
            ]
        )
    assert (
        identities[0] == identities[1]
        and len({task["sha256"] for task in identities}) == 4
        and {task["rows"] for task in identities} == {3}
    )


WRITTEN = (
    CHOICE[: CHOICE.index("output_type")]
    + """output_type: generate_until
test_split: test
doc_to_text: "{{prompt}}"
doc_to_target: "{{a}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 8}
"""
)


def test_code_runs_in_the_jail_if_it_may(trained, folder, capsys, monkeypatch):
    where = folder(
        pick=WRITTEN + "unsafe_code: true\nmetric_list: [{metric: code_eval}]\n"
    )
    with pytest.raises(UserError, match="--harness_code"):
        scores(trained("ar"), where, capsys)
    ran = []
    monkeypatch.setattr(
        "dlm.machine.isolation.run",
        lambda program: (
            ran.append(program) or isolation.RunResult(len(ran) == 1, "", "", "", True)
        ),
    )
    result = scores(trained("ar"), where, capsys, "--harness_code")[
        "harness.pick.pass@1,none"
    ]
    assert result["value"] == pytest.approx(1 / 3)
    assert result["claims"] == "samples" and result["nfe"] > 0
    assert all(
        p.startswith("def f():") and p.endswith("assert f() == 1\n\ncheck(f)\n")
        for p in ran
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_data_end_at_line_ends_alone(tmp_path, end):
    rows = [dict(q=f"one{sign}two") for sign in "\x85\u2028\u2029\ufeff"]
    (tmp_path / "rows.jsonl").write_bytes(
        end.join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    )
    assert local_tasks._read(tmp_path / "rows.jsonl") == rows
    (tmp_path / "rows.json.gz").write_bytes(
        gzip.compress(json.dumps(rows).encode("utf-8-sig"))
    )
    assert local_tasks._read(tmp_path / "rows.json.gz") == rows
    for name, content, cause in [
        ("a.jsonl", "[" * 100_000, "line 1: broken JSON"),
        ("b.json", "[1]", "entry 1: not a JSON object"),
    ]:
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=f"{name}, {cause}"):
            local_tasks._read(tmp_path / name)


@pytest.mark.parametrize(
    "changed, cause",
    [
        (("task: pick", "task: pik"), "no task 'pick' .*did you mean 'pik'"),
        (("rows.jsonl", "none.jsonl"), "no file none.jsonl"),
        (("doc_to_target: 0", "doc_to_target: ["), "is no YAML of a task"),
        (
            ("task: pick", "include: none.yaml\ntask: pick"),
            "includes a file that is not there",
        ),
        (('"{{q}}"', "!function evil.text"), "!function evil.text"),
        (
            ('"{{q}}"', "\"{{''.__class__.__mro__[1].__subclasses__()}}\""),
            "cannot be built: .*unsafe",
        ),
        (("dataset_path: json", "dataset_path: gsm8k"), "would be fetched"),
        (("metric: acc,", "metric: code_eval,"), "none of lm_eval's own"),
        (("test_split: test", "test_splitt: test"), "cannot be built: .*test_splitt"),
    ],
)
def test_mistakes_and_what_would_run_are_one_line(
    trained, folder, capsys, changed, cause
):
    where = folder(pick=CHOICE.replace(*changed))
    (where / "evil.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UserError, match=cause) as error:
        scores(trained("masked"), where, capsys)
    assert "\n" not in str(error.value)


def test_what_is_installed_wrong_is_told_as_such(trained, folder, capsys, monkeypatch):
    def broken(*_, **__):
        raise TypeError("Can't pickle <function>:\n it is not found")

    monkeypatch.setattr("datasets.arrow_dataset.InMemoryTable.from_pydict", broken)
    version, owners = (
        importlib.metadata.version("datasets"),
        importlib.metadata.packages_distributions() | dict(dlm=["pytest"]),
    )
    monkeypatch.setattr(
        "importlib.metadata.packages_distributions", lambda: owners
    )  # as if this were installed too
    caller = (
        f"datasets {version}, called by lm_eval .* says .Can't pickle <function>: it"
    )
    cause = f"no task can be built with what is installed: {caller}"
    with pytest.raises(UserError, match=cause) as error:
        scores(trained("masked"), folder(pick=CHOICE), capsys)
    assert (
        "\n" not in str(error.value)
        and "pick in" not in str(error.value)
        and "pytest" not in str(error.value)
    )


def test_a_chat_s_contents_are_text_in_a_harness(
    trained, folder, capsys, monkeypatch, tmp_path
):
    """The run's own template: its eos is one id; in documents and answers the signs are text."""
    run, read = tmp_path / "run", []
    shutil.copytree(trained("ar"), run)
    (run / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}<|eos|>{% endfor %}"
    )
    plain = Bytes().fit(()).__class__.encode_marked
    monkeypatch.setattr(
        "dlm.text.bytes.ByteTokenizer.encode_marked",
        lambda self, text: read.append(plain(self, text)) or read[-1],
    )
    where = folder(
        pick=CHOICE.replace('"{{q}}"', '"{{q}} <|eos|>"').replace(
            "[a, b]", "[a, '<|eos|>']"
        )
    )
    scored = scores(
        run, where, capsys, "--evals.harness.chat=template", "--harness_limit=1"
    )["harness.pick.acc,none"]
    whole = {bytes(ids[ids < 256].tolist()): int((ids == 256).sum()) for ids in read}
    assert whole == {
        b"the cat 0 <|eos|>": 1,
        b"the cat 0 <|eos|>sat on a mat": 1,
        b"the cat 0 <|eos|><|eos|>": 1,
    }
    assert scored["special_names"] == 3


def test_chat_templates_are_plugged_in(trained, folder, capsys, monkeypatch):
    asked_of = []

    def render(messages, generation=True):
        asked_of.append(messages)
        return (
            "".join(f"<{m['role']}>{m['content']}" for m in messages)
            + "<assistant>" * generation
        )

    monkeypatch.setattr("dlm.evals.harness._template", lambda subject: render)
    scores(trained("ar"), folder(pick=CHOICE), capsys, "--evals.harness.chat=template")
    assert asked_of[0] == [dict(role="user", content="the cat 0")]
    monkeypatch.undo()
    with pytest.raises(UserError, match="no chat template"):
        scores(
            trained("ar"), folder(pick=CHOICE), capsys, "--evals.harness.chat=template"
        )

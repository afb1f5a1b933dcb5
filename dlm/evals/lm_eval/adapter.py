"""lm_eval's `LM` over one of our runs (lm-evaluation-harness 0.4, https://github.com/EleutherAI/lm-evaluation-harness).

Equal requests are answered once, so what is said of one hangs neither on its place nor on its neighbours. Beside each answer the variance
of its Monte-Carlo noise is kept: redrawing all answers of a task from normal laws of these variances, and scoring it anew, gives the
noise's part in the error of each metric, whatever the metric is.

Control ids come from the run's chat template alone: the name of a special token in a document, an example or an answer is text, where
lm_eval's own models take it for the token; how many there were is told.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from lm_eval.api.model import LM

from dlm.core.errors import UserError
from dlm.core.named import nearest
from dlm.evals.lm_eval import tokenized
from dlm.evals.lm_eval.scoring import Model
from dlm.text.quoted import Quoted

_REDRAWN = 16  # times; the error so found is itself known to 18 %
_TOKENS = 256  # written where a task does not say how many, as with lm_eval's own models
_KNOWN = ("until", "max_gen_toks", "max_new_tokens", "do_sample", "temperature", "top_p", "top_k")
_NEUTRAL = dict.fromkeys(
    ("num_beams", "num_beam_groups", "num_return_sequences", "n", "best_of"), 1
)  # what changes nothing
_NEUTRAL |= dict.fromkeys(
    ("repetition_penalty", "encoder_repetition_penalty", "typical_p", "guidance_scale"), 1.0
)
_NEUTRAL |= dict.fromkeys(
    ("presence_penalty", "frequency_penalty", "diversity_penalty", "penalty_alpha", "min_p"), 0.0
)
_NEUTRAL |= dict.fromkeys(
    (
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "min_length",
        "min_tokens",
        "min_new_tokens",
    ),
    0,
)
_NEUTRAL |= dict.fromkeys(("epsilon_cutoff", "eta_cutoff"), 0.0)
_BEAMS = (
    "length_penalty",
    "early_stopping",
    "use_cache",
)  # whatever they say, without beams the answer is the same


class ScoreInfo(NamedTuple):
    """What an answer alone does not tell."""

    variance: float = 0.0  # of a log-likelihood's Monte-Carlo noise
    cut: int = 0  # tokens of the context that did not fit
    short: bool = False  # whether there was less room to answer than the task asks for
    names: int = 0  # of special tokens that the texts spell; they are text
    broken: bool = False  # whether the answer is no UTF-8, and so has '�' for what was written


class HarnessLM(LM):
    """`render` turns chat messages into a prompt; None where the run has no template. `judged` names the tasks that ask whether a text is
    what the model would write."""

    def __init__(
        self, model: Model, render: Callable | None = None, judged: frozenset = frozenset()
    ):
        super().__init__()
        self.model, self.render, self.judged = model, render, judged
        self.score_info: dict[str, ScoreInfo] = {}  # by the request's arguments

    # ------------------------------------------------------------------------------------------------------- likelihoods

    def loglikelihood(self, requests) -> list[tuple[float, bool]]:
        greedy = any(r.task_name in self.judged for r in requests)
        return self._scored(
            requests,
            lambda context, continuation: self.model.speller.pair(context, continuation),
            greedy,
        )

    def loglikelihood_rolling(self, requests) -> list[float]:
        return [value for value, _ in self._scored(requests, self.model.speller.whole, False)]

    def _scored(self, requests, spelled: Callable, greedy: bool) -> list[tuple[float, bool]]:
        """(log-likelihood, greedy) of each request, by the pieces that it is spelled in."""
        wanted, pieces = {}, []
        for args in dict.fromkeys(r.args for r in requests):
            texts = [Quoted(text) for text in args]
            per_request, cut = self.model.speller.pieces(*spelled(*texts), "\x1f".join(args))
            wanted[args] = (
                ScoreInfo(cut=cut, names=self._names(*texts)),
                range(len(pieces), len(pieces) + len(per_request)),
            )
            pieces += per_request
        scores = self.model.scores(pieces, greedy)
        answers = {}
        for args, (score_info, which) in wanted.items():
            parts = [scores[i] for i in which]
            self.score_info[str(args)] = score_info._replace(
                variance=sum(s.variance for s in parts)
            )
            answers[args] = (-float(np.sum([s.nats for s in parts])), all(s.greedy for s in parts))
        return [answers[r.args] for r in requests]

    def _names(self, *texts: Quoted) -> int:
        """How many names of special tokens are text in them, one after the other."""
        return len(self.model.context.tokenizer.spelled(functools.reduce(operator.add, texts)))

    # -------------------------------------------------------------------------------------------------------- generation

    def generate_until(self, requests) -> list[str]:
        """Texts up to the first stop string or the end of text. Of equal requests (`repeats`) each draws for itself."""
        groups: dict[Any, list] = {}
        seen: dict[str, int] = {}
        for i, request in enumerate(requests):
            context, options = Quoted(request.args[0]), request.args[1]
            again = seen[str(request.args)] = seen.get(str(request.args), -1) + 1
            sampler, tokens, until = self._asked(options)
            prompt, room, cut = self._prompt(context, tokens)
            self.score_info[str(request.args)] = ScoreInfo(
                cut=cut, short=room < tokens, names=self._names(context)
            )
            groups.setdefault(sampler, []).append(
                (i, until, prompt._replace(number=tokenized.number(context, again)), room)
            )
        texts = [""] * len(requests)
        for sampler, members in groups.items():
            numbers, until, prompts, tokens = zip(*members, strict=True)
            for i, stops, ids in zip(
                numbers, until, self.model.write(prompts, tokens, sampler), strict=True
            ):
                texts[i], asked = self._text(ids, stops), str(requests[i].args)
                broken = self.score_info[asked].broken or not self._bytes(ids).startswith(
                    texts[i].encode()
                )
                self.score_info[asked] = self.score_info[asked]._replace(broken=broken)
        return texts

    def _asked(self, options: dict):
        """(sampler, tokens, stop strings) of a request's options; those that are null are as if they were not there."""
        options = {name: value for name, value in options.items() if value is not None}
        for name in set(options) - set(_KNOWN) - set(_BEAMS):
            if name not in _NEUTRAL:
                raise UserError(
                    f"generation_kwargs.{name} of a task is unknown{nearest(name, _KNOWN)}; known are {', '.join(_KNOWN)}"
                )
            if options[name] != _NEUTRAL[name]:
                option = f"generation_kwargs.{name}={options[name]!r} of a task is not supported"
                raise UserError(
                    f"{option}: take it out, or set {_NEUTRAL[name]!r}, which changes nothing"
                )
        until = options.get("until") or []
        try:
            tokens = int(options.get("max_gen_toks") or options.get("max_new_tokens") or _TOKENS)
            if tokens < 1:
                raise ValueError(f"max_gen_toks={tokens} must be positive")
            temperature = float(options.get("temperature", 1.0))
            drawn = options.get("do_sample", "temperature" in options and temperature > 0)
            sharpness = dict(temperature=temperature if drawn else 0.0)
            sharpness |= dict(top_p=float(options["top_p"])) if drawn and "top_p" in options else {}
            sharpness |= (
                dict(top_k=max(int(options["top_k"]), 0)) if drawn and "top_k" in options else {}
            )  # −1 is off elsewhere
            return (
                replace(self.model.sampler, **sharpness),
                tokens,
                [until] if isinstance(until, str) else until,
            )
        except (TypeError, ValueError) as error:
            raise UserError(
                f"generation_kwargs of a task: {' '.join(str(error).split())}"
            ) from None

    def _prompt(self, context: str, tokens: int):
        """(the prompt, how many tokens may follow, how many it lacks): half of the room may go to the answer, more after a short prompt."""
        speller = self.model.speller
        room = min(tokens, max(speller.room - len(speller.encoded(context)), speller.room // 2))
        prompt, cut = speller.prompt(context, room)
        return prompt, room, cut

    def _text(self, ids: np.ndarray, until: Sequence[str]) -> str:
        return tokenized.stopped(self.model.context.tokenizer.decode(self._written(ids)), until)

    def _bytes(self, ids: np.ndarray) -> bytes:
        """What was written, of which lm_eval is given the text: that has '�' for what is no UTF-8."""
        return self.model.context.tokenizer.bytes_of(self._written(ids))

    def _written(self, ids: np.ndarray) -> np.ndarray:
        ends = np.flatnonzero(self.model.context.tokenizer.vocab.ending(ids))
        return ids[: ends[0]] if len(ends) else ids

    # --------------------------------------------------------------------------------------------------------------- chat

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        if self.render is None:
            raise UserError(
                "this run has no chat template: leave out --evals.harness.chat=template"
            )
        return self.render(chat_history, generation=add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        return self.model.context.tokenizer.fingerprint


def resampled_error(lm: HarnessLM, task, samples: Sequence[dict], seed: int) -> dict[str, float]:
    """{'metric,filter': standard error that the Monte-Carlo noise of the log-likelihoods gives it}; empty where there is no noise."""
    if not any(
        lm.score_info[str(args)].variance for sample in samples for args in sample["arguments"]
    ):
        return {}
    random, resampled = np.random.RandomState(seed % 2**32), {}
    for _ in range(_REDRAWN):
        values: dict[str, list] = {}
        for sample in samples:
            answers = [
                _moved(answer, random.normal() * lm.score_info[str(args)].variance ** 0.5)
                for answer, args in zip(sample["filtered_resps"], sample["arguments"], strict=True)
            ]
            for metric, value in task.process_results(sample["doc"], answers).items():
                values.setdefault(f"{metric},{sample['filter']}", []).append(value)
        for name, each in values.items():
            resampled.setdefault(name, []).append(
                float(task.aggregation()[name.partition(",")[0]](each))
            )
    return {name: float(np.std(each, ddof=1)) for name, each in resampled.items()}


def _moved(answer, by: float):
    return (answer[0] + by, *answer[1:]) if isinstance(answer, tuple) else answer + by

"""lm_eval's `LM` over one of our runs.

lm-evaluation-harness 0.4, https://github.com/EleutherAI/lm-evaluation-harness.

Equal requests are answered once, so an answer depends neither on the request's position nor on
other requests. Beside each answer the variance of its Monte-Carlo noise is stored. Resampling all
answers of a task from normal laws of these variances, and scoring the task again, gives the noise's
part in the error of each metric, whatever the metric is.

Control ids come only from the run's chat template. The name of a special token in a document, an
example or an answer is text, where lm_eval's own models take it for the token; the number of such
names is reported.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from lm_eval.api.model import LM

from dlm.core.errors import UserError
from dlm.core.named import nearest
from dlm.evals.lm_eval import tokenized
from dlm.evals.lm_eval.scoring import Model
from dlm.evals.lm_eval.tokenized import Piece
from dlm.samplers.plan import Sampler
from dlm.text.quoted import Quoted

Answer = tuple[
    float, bool
]  # (log-likelihood, whether it is what the model would write)
Spelled = Callable[..., tuple[np.ndarray, int]]

_RESAMPLES = 16  # the error that they give is itself known to 18 %
_TOKENS = 256  # written where a task does not say how many, as by lm_eval's own models
_KNOWN = (
    "until",
    "max_gen_toks",
    "max_new_tokens",
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
)
# Options that change nothing at these values.
_NEUTRAL: dict[str, float] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "n": 1,
    "best_of": 1,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "typical_p": 1.0,
    "guidance_scale": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "diversity_penalty": 0.0,
    "penalty_alpha": 0.0,
    "min_p": 0.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_tokens": 0,
    "min_new_tokens": 0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
# Without beams these change nothing at any value.
_BEAMS = ("length_penalty", "early_stopping", "use_cache")


class ScoreInfo(NamedTuple):
    """Facts about an answer."""

    variance: float = 0.0  # of a log-likelihood's Monte-Carlo noise
    cut: int = 0  # tokens of the context that did not fit
    short: bool = False  # whether there was less room to answer than the task asks for
    names: int = 0  # of special tokens that the texts spell; they are text
    broken: bool = (
        False  # whether the answer is no UTF-8, and so has '�' for some of it
    )


class Generation(NamedTuple):
    """A request to write text."""

    request: int  # its number
    until: Sequence[str]
    prompt: Piece
    room: int  # tokens to write


class HarnessLM(LM):
    """Answers lm_eval's requests.

    `render` turns chat messages into a prompt; None where the run has no template. `greedy_tasks`
    are those with a metric of whether a text is what the model would write.
    """

    def __init__(
        self,
        model: Model,
        render: Callable | None = None,
        greedy_tasks: frozenset[str] = frozenset(),
    ):
        super().__init__()
        self.model = model
        self.render = render
        self.greedy_tasks = greedy_tasks
        self.score_info: dict[str, ScoreInfo] = {}  # by the request's arguments

    @property
    def _tokenizer(self) -> Any:
        return self.model.context.tokenizer

    def loglikelihood(self, requests: Sequence) -> list[Answer]:
        greedy = any(request.task_name in self.greedy_tasks for request in requests)
        return self._answers(requests, self.model.speller.pair, greedy)

    def loglikelihood_rolling(self, requests: Sequence) -> list[float]:
        answers = self._answers(requests, self.model.speller.whole, greedy=False)
        return [value for value, _ in answers]

    def _answers(
        self, requests: Sequence, spelled: Spelled, greedy: bool
    ) -> list[Answer]:
        """The answer to each request, from the scores of the pieces that it is spelled in."""
        pieces: list[Piece] = []
        ranges = {}
        for args in dict.fromkeys(request.args for request in requests):
            texts = [Quoted(text) for text in args]
            ids, first = spelled(*texts)
            own, cut = self.model.speller.pieces(ids, first, "\x1f".join(args))
            ranges[args] = range(len(pieces), len(pieces) + len(own))
            self.score_info[str(args)] = ScoreInfo(cut=cut, names=self._names(*texts))
            pieces += own
        scores = self.model.scores(pieces, greedy)

        # The pieces of a request are independent, so their variances add up.
        answers = {}
        for args, indices in ranges.items():
            parts = [scores[i] for i in indices]
            variance = sum(part.variance for part in parts)
            self._note(str(args), variance=variance)
            nats = float(np.sum([part.nats for part in parts]))
            answers[args] = (-nats, all(part.greedy for part in parts))
        return [answers[request.args] for request in requests]

    def _note(self, key: str, **facts: Any) -> None:
        self.score_info[key] = self.score_info[key]._replace(**facts)

    def _names(self, *texts: Quoted) -> int:
        """The number of names of special tokens that are text in the joined texts."""
        joined = texts[0]
        for text in texts[1:]:
            joined = joined + text
        return len(self._tokenizer.spelled(joined))

    def generate_until(self, requests: Sequence) -> list[str]:
        """Returns texts up to the first stop string or the end of text.

        Equal requests (`repeats`) are answered independently.
        """
        # Requests with one sampler are written together.
        groups: dict[Sampler, list[Generation]] = {}
        repeats: dict[str, int] = {}
        for i, request in enumerate(requests):
            context, options = request.args
            key = str(request.args)
            repeat = repeats.get(key, 0)
            repeats[key] = repeat + 1
            sampler, generation = self._generation(
                i, Quoted(context), options, repeat, key
            )
            groups.setdefault(sampler, []).append(generation)

        texts = [""] * len(requests)
        for sampler, members in groups.items():
            prompts = [member.prompt for member in members]
            rooms = [member.room for member in members]
            written = self.model.write(prompts, rooms, sampler)
            for member, ids in zip(members, written, strict=True):
                text = self._text(ids, member.until)
                texts[member.request] = text
                # Equal requests share their facts: one broken answer marks all of them.
                key = str(requests[member.request].args)
                intact = self._bytes(ids).startswith(text.encode())
                self._note(key, broken=self.score_info[key].broken or not intact)
        return texts

    def _generation(
        self, index: int, context: Quoted, options: dict, repeat: int, key: str
    ) -> tuple[Sampler, Generation]:
        sampler, tokens, until = self._requested(options)
        prompt, room, cut = self._prompt(context, tokens)
        names = self._names(context)
        self.score_info[key] = ScoreInfo(cut=cut, short=room < tokens, names=names)
        # Each repetition draws noise of its own.
        number = tokenized.number(context, repeat)
        prompt = prompt._replace(number=number)
        return sampler, Generation(index, until, prompt, room)

    def _requested(self, options: dict) -> tuple[Sampler, int, list[str]]:
        """(sampler, tokens, stop strings) of a request's options; null ones are ignored."""
        options = {name: value for name, value in options.items() if value is not None}
        _check_options(options)
        until = options.get("until") or []
        if isinstance(until, str):
            until = [until]
        try:
            limit = options.get("max_gen_toks") or options.get("max_new_tokens")
            tokens = int(limit or _TOKENS)
            if tokens < 1:
                raise ValueError(f"max_gen_toks={tokens} must be positive")
            sampler = replace(self.model.sampler, **_sharpness(options))
        except (TypeError, ValueError) as error:
            message = " ".join(str(error).split())
            raise UserError(f"generation_kwargs of a task: {message}") from None
        return sampler, tokens, until

    def _prompt(self, context: str, tokens: int) -> tuple[Piece, int, int]:
        """(the prompt, how many tokens may follow, how many tokens of it were cut).

        Half of the room may be used for the answer, and more after a short prompt.
        """
        speller = self.model.speller
        # A short prompt leaves more than half of the room.
        free = speller.room - len(speller.encoded(context))
        room = min(tokens, max(free, speller.room // 2))
        prompt, cut = speller.prompt(context, room)
        return prompt, room, cut

    def _text(self, ids: np.ndarray, until: Sequence[str]) -> str:
        text = self._tokenizer.decode(self._before_end(ids))
        return tokenized.stopped(text, until)

    def _bytes(self, ids: np.ndarray) -> bytes:
        """The bytes that were written; the text has '�' for those that are no UTF-8."""
        return self._tokenizer.bytes_of(self._before_end(ids))

    def _before_end(self, ids: np.ndarray) -> np.ndarray:
        ends = np.flatnonzero(self._tokenizer.vocab.ending(ids))
        return ids[: ends[0]] if len(ends) else ids

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
        return self._tokenizer.fingerprint


def _check_options(options: dict) -> None:
    """Raises UserError for an option that would change an answer and is not supported."""
    for name in options.keys() - {*_KNOWN, *_BEAMS}:
        if name not in _NEUTRAL:
            known = ", ".join(_KNOWN)
            raise UserError(
                f"generation_kwargs.{name} of a task is unknown{nearest(name, _KNOWN)}; "
                f"known are {known}"
            )
        neutral = _NEUTRAL[name]
        if options[name] != neutral:
            raise UserError(
                f"generation_kwargs.{name}={options[name]!r} of a task is not supported: "
                f"take it out, or set {neutral!r}, which changes nothing"
            )


def _sharpness(options: dict) -> dict[str, Any]:
    """The sampler's temperature, top_p and top_k; temperature 0 unless the task samples."""
    # As in lm_eval's own models, a temperature alone means sampling.
    temperature = float(options.get("temperature", 1.0))
    samples = options.get("do_sample", "temperature" in options and temperature > 0)
    if not samples:
        return dict(temperature=0.0)
    fields: dict[str, Any] = dict(temperature=temperature)
    if "top_p" in options:
        fields["top_p"] = float(options["top_p"])
    if "top_k" in options:
        # In other libraries −1 means off.
        fields["top_k"] = max(int(options["top_k"]), 0)
    return fields


def resampled_error(
    lm: HarnessLM, task: Any, samples: Sequence[dict], seed: int
) -> dict[str, float]:
    """Returns {'metric,filter': standard error due to the noise of the log-likelihoods}.

    Empty where there is no noise.
    """
    variances = [_variances(lm, sample) for sample in samples]
    if not any(map(any, variances)):
        return {}
    random = np.random.RandomState(seed % 2**32)
    resampled: dict[str, list[float]] = {}
    for _ in range(_RESAMPLES):
        # Every metric is computed again from shifted log-likelihoods.
        values: dict[str, list] = {}
        for sample, own in zip(samples, variances, strict=True):
            answers = []
            for answer, variance in zip(sample["filtered_resps"], own, strict=True):
                answers.append(_shifted(answer, random.normal() * variance**0.5))
            for metric, value in task.process_results(sample["doc"], answers).items():
                values.setdefault(f"{metric},{sample['filter']}", []).append(value)
        for name, each in values.items():
            metric, _, _ = name.partition(",")
            score = float(task.aggregation()[metric](each))
            resampled.setdefault(name, []).append(score)
    errors = {}
    for name, scores in resampled.items():
        errors[name] = float(np.std(scores, ddof=1))
    return errors


def _variances(lm: HarnessLM, sample: dict) -> list[float]:
    return [lm.score_info[str(args)].variance for args in sample["arguments"]]


def _shifted(answer: Any, by: float) -> Any:
    """An answer with its log-likelihood changed."""
    if isinstance(answer, tuple):
        return (answer[0] + by, *answer[1:])
    return answer + by

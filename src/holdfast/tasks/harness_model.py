"""A loaded model as lm-eval's three verbs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor, nn

from holdfast.data import Encoder
from holdfast.errors import UsageError
from holdfast.tasks.batches import context_length, device_of
from holdfast.tasks.generation import write
from holdfast.tasks.likelihood import Ids, score_continuations
from holdfast.tasks.room import BatchSize

_DEFAULT_LENGTH, _DEFAULT_NEW_TOKENS = 2048, 256
_GREEDY_KEYS = {"until", "max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"}

Request = tuple[tuple[str, str] | None, list[int], list[int]]


class LoadedModel(TemplateLM):  # type: ignore[misc]
    """lm-eval's view of a model in memory.

    Tokens, truncation from the left and stop texts are those of lm-eval's own ``hf`` model.
    Requests with the same context share its forward.

    Args:
        model: a transformers causal or image-text model.
        processor: its processor, or its tokenizer.
    """

    def __init__(self, model: nn.Module, processor: Any, batch_size: BatchSize = "auto") -> None:
        super().__init__()
        self.model = model
        self.encoder = Encoder(processor)
        self.tokenizer = self.encoder.tokenizer
        self.batch_size = batch_size
        self._device = device_of(model)

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def max_length(self) -> int:
        """Positions of the model, or else what the tokenizer says."""
        given = self.tokenizer.model_max_length
        told = given if isinstance(given, int) and given < 2**31 else _DEFAULT_LENGTH
        return context_length(self.model) or told

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids, with what the tokenizer itself adds unless the text begins with it."""
        if add_special_tokens is None:
            bos = self.tokenizer.decode(self.prefix_token_id)
            add_special_tokens = not (bos and string.startswith(bos))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as the text that the model is asked with."""
        if not self.encoder.conversation.render.has_template:
            raise UsageError("chat=true: this model has no chat template")
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], **_: Any
    ) -> list[tuple[float, bool]]:
        """Grouped by context: each distinct one is run once for all its continuations."""
        groups: dict[Ids, dict[Ids, None]] = {}
        keys = []
        for _text, context, continuation in requests:
            ids = tuple(continuation)
            kept = tuple((context + continuation)[-(self.max_length + 1) :][: -len(ids)])
            groups.setdefault(kept, {})[ids] = None
            keys.append((kept, ids))
        contexts = list(groups)
        scored = score_continuations(
            self.model,
            lambda i: _encoded(contexts[i]),
            [len(c) for c in contexts],
            [list(groups[c]) for c in contexts],
            pad_id=self.encoder.pad_id,
            batch_size=self.batch_size,
        )
        found = {
            (context, ids): (likelihood.logprob, likelihood.greedy)
            for context, row in zip(contexts, scored, strict=True)
            for ids, likelihood in zip(groups[context], row, strict=True)
        }
        return [found[key] for key in keys]

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """Log-likelihood of whole texts, in windows as long as the model allows."""
        windows: list[Request] = []
        owners: list[int] = []
        for i, request in enumerate(requests):
            (text,) = request.args
            rolled = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for context, continuation in map(make_disjoint_window, rolled):
                windows.append((None, list(context), list(continuation)))
                owners.append(i)
        totals = [0.0] * len(requests)
        for i, (logprob, _greedy) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[i] += logprob
        return totals

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """Greedy replies, each cut at the first of its stop texts."""
        groups: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(_settings(request.args[1]), []).append(i)
        replies = [""] * len(requests)
        for (until, count), members in groups.items():
            room = self.max_length - count
            if room < 1:
                raise UsageError(f"max_gen_toks={count} leaves no room for a prompt")
            prompts = [self.tok_encode(requests[i].args[0])[-room:] for i in members]
            texts = write(
                self.model,
                self.encoder,
                lambda k, prompts=prompts: _encoded(prompts[k]),  # type: ignore[misc]
                [len(p) for p in prompts],
                max_new_tokens=count,
                until=until,
                batch_size=self.batch_size,
            )
            for i, text in zip(members, texts, strict=True):
                replies[i] = text
        return replies


def _encoded(ids: Sequence[int]) -> dict[str, Tensor]:
    tokens = torch.tensor(ids)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def _settings(kwargs: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """Stop texts and the number of new tokens.

    Raises:
        UsageError: the task asks for sampling, which a measurement that repeats does not do.
    """
    if kwargs.get("do_sample") and kwargs.get("temperature", 1.0) != 0:
        raise UsageError(
            f"this lm-eval task asks for sampling ({dict(kwargs)}); Holdfast asks greedily. "
            "Set do_sample: false in the task's generation_kwargs"
        )
    until = kwargs.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(until)
    counts = [int(kwargs[k]) for k in sorted(_GREEDY_KEYS - {"until"}) if kwargs.get(k)]
    return tuple(s for s in stops if s), counts[0] if counts else _DEFAULT_NEW_TOKENS

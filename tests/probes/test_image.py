from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from probe_models import image_pair, noisy, text_pair

from holdfast.data.images import load_image
from holdfast.errors import DataError
from holdfast.probes import image_reliance
from holdfast.probes._image import _views
from holdfast.tasks import choice_logprobs


def test_log_probabilities_are_those_of_the_answers():
    """Against the likelihood scorer, which reads prompts and answers in another way."""
    base, processor, prompts = image_pair()
    result = image_reliance(base, noisy(base), processor, prompts)
    ends = [f"{p.answer()}<|end|>" for p in prompts]
    tokens = [len(processor.tokenizer.encode(e)) for e in ends]
    scored = {
        name: [
            row[0] / n
            for row, n in zip(
                choice_logprobs(base, processor, [r.prompt() for r in view], [[e] for e in ends]),
                tokens,
                strict=True,
            )
        ]
        for name, view in {"right": prompts, **_views(prompts, 0)}.items()
    }
    for name in ("blank", "shuffled", "none"):
        wanted = np.mean(np.array(scored["right"]) - np.array(scored[name]))
        assert result[f"logprob.{name}", "base"].value == pytest.approx(wanted, abs=1e-4)
    assert result["logprob.right", "base"].value == pytest.approx(
        np.mean(scored["right"]), rel=1e-4
    )


def test_a_model_that_cannot_see_relies_on_nothing():
    """The projector gives zeros, so that every image is the same to it."""
    base, processor, prompts = image_pair()
    blind = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in blind.model.multi_modal_projector.parameters():
            parameter.zero_()
    result = image_reliance(base, blind, processor, prompts)
    assert result["logprob.blank", "tuned"].value == pytest.approx(0, abs=1e-6)
    assert result["logprob.shuffled", "tuned"].value == pytest.approx(0, abs=1e-6)
    assert abs(result["logprob.blank", "base"].value) > 1e-3


def test_the_views_are_what_they_say():
    _, _, prompts = image_pair()
    views = _views(prompts, 0)
    for right, blank, shuffled, none in zip(prompts, *views.values(), strict=True):
        assert load_image(blank.images[0]).size == load_image(right.images[0]).size
        assert load_image(blank.images[0]).getcolors() == [(256, (128, 128, 128))]
        assert shuffled.images[0].data in {p.images[0].data for p in prompts} - {
            right.images[0].data
        }
        assert none.images == ()
        assert none.messages[0].text == right.messages[0].text
        assert all(p.kind == "text" for m in none.messages for p in m.parts)


def test_prompts_without_images_or_with_only_one_are_refused():
    base, processor, prompts = image_pair()
    _, _, texts = text_pair()
    with pytest.raises(DataError, match="all have an image"):
        image_reliance(base, base, processor, texts)
    with pytest.raises(DataError, match="nothing to shuffle"):
        image_reliance(base, base, processor, prompts[:1])

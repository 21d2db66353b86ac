"""Policy gradients: answers that were better than their baseline become likelier.

No torch until one is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from holdfast.carried import Ahead, Policy, Question
from holdfast.pieces.own_answers import OwnAnswers, Written, seed_of, several
from holdfast.plan import Outputs

if TYPE_CHECKING:
    from torch import Tensor

Baseline = Literal["group", "others", "greedy"]


@dataclass(kw_only=True)
class PolicyGradient(OwnAnswers):
    """At each token y_t of an answer y with advantage A,

        - min(r_t A, clip(r_t, 1 - clip, 1 + clip) A) + beta * k3_t
        r_t  = p(y_t) / p_old(y_t)
        k3_t = p_ref(y_t) / p(y_t) - 1 - log(p_ref(y_t) / p(y_t))

    p_old is the model that wrote the answer and gets no gradient; where answers are used at once
    r_t is 1 and its gradient that of log p. p_ref is the model as the stage began. k3 is
    Schulman's estimate of the Kullback-Leibler divergence to it.

    Args:
        baseline: ``group``, the advantage is normalised over a question's answers (GRPO);
            ``others``, less the mean of the other answers (RLOO); ``greedy``, less the greedy
            answer's reward (ReMax).
        whole: the loss of an answer is the sum over its tokens, and the mean is over answers;
            without, the mean is over all tokens of the step.
    """

    baseline: Baseline = "group"
    beta: float = 0.01
    clip: float = 0.2
    whole: bool = False
    name: str = "policy-gradient"
    _scale: float = field(default=1.0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.reference = "stage" if self.beta else None

    def answers(
        self, policy: Policy, questions: Mapping[int, Question], step: Ahead
    ) -> dict[int, list[Written]]:
        import torch

        asked = list(questions.values())
        if not asked:
            return {}
        written = several(
            policy, asked, self.samples, temperature=self.temperature,
            most=self.max_new_tokens, seed=seed_of(policy, step.number),
        )  # fmt: skip
        rewards = torch.tensor(
            [
                [policy.score(self.scorer, q, tokens) for tokens in own]
                for q, own in zip(asked, written, strict=True)
            ]
        )
        policy.note("answers/reward", float(rewards.mean()))
        advantages = self._advantages(policy, asked, rewards).tolist()
        return {
            i: [Written(t, a) for t, a in zip(own, each, strict=True)]
            for i, own, each in zip(questions, written, advantages, strict=True)
        }

    def _advantages(self, policy: Policy, asked: Sequence[Question], rewards: Tensor) -> Tensor:
        import torch

        from holdfast.pieces import advantages

        if self.baseline == "group":
            return advantages.group_normalised(rewards)
        if self.baseline == "others":
            return advantages.leave_one_out(rewards)
        greedy = policy.write(asked, temperature=0.0, most=self.max_new_tokens, seed=0)
        pairs = zip(asked, greedy, strict=True)
        known = torch.tensor([policy.score(self.scorer, q, tokens) for q, tokens in pairs])
        return advantages.over_greedy(rewards, known)

    def _remember(self, policy: Policy, questions: Mapping[int, Question]) -> None:
        rows = [(questions[i], w) for i, found in self.held.items() for w in found]
        asked = [policy.answered(q, w.tokens, 0) for q, w in rows]
        for (_, written), logs in zip(rows, policy.log_probs(asked, self.temperature), strict=True):
            written.log_probs = logs

    def look_ahead(self, step: Ahead) -> None:
        super().look_ahead(step)
        tokens = sum(len(w.tokens) for w in self._step)
        self._scale = tokens / len(self._step) if self.whole and self._step else 1.0

    def __call__(self, outputs: Outputs) -> Tensor:
        import torch

        targets = outputs.targets[:, None]
        now = (outputs.logits.float() / self.temperature).log_softmax(-1).gather(1, targets)[:, 0]
        ratio = (now - self._before(outputs, now)).exp()
        advantage = self.of_rows(outputs, [w.value for w in self._step])
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        loss = -torch.minimum(ratio * advantage, clipped * advantage)
        if outputs.reference is not None and self.beta:
            log_ref = (outputs.reference.float() / self.temperature).log_softmax(-1)
            apart = log_ref.gather(1, targets)[:, 0] - now
            loss = loss + self.beta * (apart.exp() - 1 - apart)
        return loss * self._scale

    def _before(self, outputs: Outputs, now: Tensor) -> Tensor:
        """[N]: log p of each token when it was written."""
        import torch

        logs = [self._step[n].log_probs for n in self.numbers(outputs)] if self._step else []
        known = [log for log in logs if log is not None]
        return torch.cat(known).to(now) if known else now.detach()

"""Several wordings of a description side by side: what their adapters answer, and how similar the adapters are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from text2lora.arguments import checked
from text2lora.arithmetic import cosine_matrix
from text2lora.base import context_length
from text2lora.encoder import check_description
from text2lora.errors import EvaluationError, InvalidInputError
from text2lora.evaluation.check import CheckTask
from text2lora.inference import generate_answers
from text2lora.injection import LoraInjector
from text2lora.modeling import Text2LoraModel
from text2lora.novelty import Novelty
from text2lora.scoring import TaskScore, score_examples


@dataclass(frozen=True)
class Wording:
    """One wording, or the base model alone if `description` is None.

    Attributes:
        description: the text of the wording.
        answers: the answer to each prompt.
        exact_match: the share of the tasks' examples that are right, averaged over tasks; None without tasks.
        loss: the loss of an answer token, averaged over tasks; None without tasks.
        novelty: how close the wording is to the training descriptions; None if the checkpoint has no statistics.
    """

    description: str | None
    answers: list[str]
    exact_match: float | None
    loss: float | None
    novelty: Novelty | None


@dataclass(frozen=True)
class Comparison:
    """What `compare_descriptions` found.

    Attributes:
        prompts: the prompts that were answered.
        base: the results of the base model without an adapter.
        wordings: the results of each wording, in the given order.
        cosines: the cosines of the adapters' delta W, as a list for each wording.
    """

    prompts: list[str]
    base: Wording
    wordings: list[Wording]
    cosines: list[list[float]]

    def as_dict(self) -> dict[str, Any]:
        """The results as JSON can hold them."""

        def row(wording: Wording) -> dict[str, Any]:
            novelty = wording.novelty.as_dict() if wording.novelty else None
            return {**vars(wording), "novelty": novelty}

        return {
            "prompts": self.prompts,
            "base": row(self.base),
            "wordings": [row(wording) for wording in self.wordings],
            "cosines": self.cosines,
        }


@torch.no_grad()
@checked(EvaluationError)
def compare_descriptions(
    model: Text2LoraModel,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    descriptions: Sequence[str],
    prompts: Sequence[str] = (),
    tasks: Sequence[CheckTask] = (),
    max_new_tokens: int = 64,
) -> Comparison:
    """Compare several wordings of a description.

    Args:
        model: the checkpoint that makes the adapters.
        base: its base model, without an adapter.
        tokenizer: the base model's tokenizer.
        descriptions: the wordings.
        prompts: the prompts to answer with each wording, greedily.
        tasks: the tasks whose examples are scored with each wording; their own descriptions are not used.
        max_new_tokens: the longest answer, in tokens.

    Raises:
        InvalidDescriptionError: see `generate_lora`.
        InvalidInputError: a prompt is empty.
    """
    texts = [check_description(text) for text in descriptions]
    if not all(prompt.strip() for prompt in prompts):
        raise InvalidInputError("a prompt is empty: pass the text to answer")
    model.eval()
    injector = LoraInjector(base.eval(), model.config)
    examples = [task.examples for task in tasks]
    task_emb = model.encoder.encode(texts)
    novelties: Sequence[Novelty | None] = model.novelty(texts, task_emb) or [None] * len(texts)

    def wording(row: int | None) -> Wording:
        emb = None if row is None else task_emb[row : row + 1]
        each = None if emb is None else emb.expand(len(tasks), *emb.shape[1:])
        scores = score_examples(model, each, examples, injector, base, tokenizer, max_length=context_length(base))
        with injector.inject({} if emb is None else model(emb)):
            answers = generate_answers(base, tokenizer, prompts, max_new_tokens) if prompts else []
        text, novelty = (None, None) if row is None else (texts[row], novelties[row])
        return Wording(text, answers, *_means(scores), novelty)

    return Comparison(
        list(prompts),
        wording(None),
        [wording(row) for row in range(len(texts))],
        cosine_matrix(model.generate_lora(texts, task_emb=task_emb)).tolist(),
    )


def _means(scores: Sequence[TaskScore]) -> tuple[float | None, float | None]:
    if not scores:
        return None, None
    matches = [score.matches.double().mean().item() for score in scores]
    return sum(matches) / len(scores), sum(score.loss for score in scores) / len(scores)

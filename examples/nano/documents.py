"""Documents with marks around their answers, as base models are pretrained on, and what is answered right in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from text2lora.language import AnswerBatch, answer_logits, count_matches
from text2lora.turns import padding_id


class AnswerCollator:
    """Tokenises documents with special tokens in them; the loss is on what is between two marks.

    Args:
        tokenizer: the base model's tokenizer.
        begin: the token before an answer.
        end: the token that ends an answer, which is itself predicted.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, begin: str, end: str):
        self._encode = tokenizer.backend_tokenizer.encode_batch
        self._begin, self._end = tokenizer.convert_tokens_to_ids([begin, end])
        self._pad = padding_id(tokenizer)

    def __call__(self, documents: Sequence[str]) -> AnswerBatch:
        rows = [torch.tensor(e.ids) for e in self._encode(list(documents), add_special_tokens=False)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self._pad)
        depth = (ids == self._begin).cumsum(1) - (ids == self._end).cumsum(1)
        return AnswerBatch(ids, depth[:, :-1] > 0)


@torch.no_grad()
def exact_match(model: PreTrainedModel, batch: AnswerBatch, last_only: bool = False) -> torch.Tensor:
    """Whether a model answers as it should, see `count_matches`; of every answer, or of the last one of each row."""
    found = count_matches(answer_logits(model, batch)[0], batch)
    return found[batch.starts.sum(1).cumsum(0) - 1] if last_only else found

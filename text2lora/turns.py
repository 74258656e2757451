"""How a base model writes a conversation: what it reads before an answer, and where the answer ends.

Training teaches this end, and everything that asks a model for an answer stops at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from text2lora.errors import InvalidInputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MARK = "RESPONSE"


@dataclass(frozen=True)
class AnswerForm:
    """What a tokenizer's chat template writes around an answer; without a template, only the end token after it.

    Attributes:
        opening: the text between the template's generation prompt and an answer, such as an empty thought.
        space: white space in that place, which belongs to the answer.
        end: the text that ends an answer; empty if the tokenizer has no end token either.
        end_text: the part of `end` that is not a special token, if there is one; a stop string.
        end_id: the special token in `end`.
    """

    opening: str
    space: str
    end: str
    end_text: str
    end_id: int | None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> AnswerForm:
        """Find the form from how the template writes an answer, once for each state of a tokenizer."""
        state = (tokenizer.chat_template, tokenizer.eos_token, len(tokenizer.added_tokens_decoder))
        known = _FORMS.get(tokenizer)
        if known is None or known[0] != state:
            known = _FORMS[tokenizer] = (state, cls._find(tokenizer))
        return known[1]

    @classmethod
    def _find(cls, tokenizer: PreTrainedTokenizerBase) -> AnswerForm:
        between, after = "", ""
        if tokenizer.chat_template:
            user = [{"role": "user", "content": "x"}]
            try:
                prompt = _render(tokenizer, user, add_generation_prompt=True)
                whole = _render(tokenizer, [*user, {"role": "assistant", "content": MARK}])
            except InvalidInputError:  # a template may take no answers
                prompt = whole = ""
            before, mark, behind = whole.rpartition(MARK)
            after = behind.strip() if mark else ""
            between = before.removeprefix(prompt) if before.startswith(prompt) else ""
        opening, space = (between, "") if between.strip() else ("", between)
        return cls(opening, space, *_end(tokenizer, after))


_FORMS: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, AnswerForm]] = WeakKeyDictionary()


def _end(tokenizer: PreTrainedTokenizerBase, after: str) -> tuple[str, str, int | None]:
    """The text that a template writes after an answer, up to the first special token; or else the end token."""
    special = set(tokenizer.all_special_tokens)
    tokens = {str(token): (id_, token.special) for id_, token in tokenizer.added_tokens_decoder.items()}
    # an added token may also be an ordinary word, which counts only at the beginning
    places = [
        (after.find(token), -len(token), token)
        for token, (_, is_special) in tokens.items()
        if token and (after.startswith(token) or ((is_special or token in special) and token in after))
    ]
    if places:
        place, _, token = min(places)
        return after[: place + len(token)], after[:place].strip(), tokens[token][0]
    return after + (tokenizer.eos_token or ""), after, tokenizer.eos_token_id


@dataclass(frozen=True)
class Stops:
    """Where a model's answer ends: before the first of these tokens or texts."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, more: Sequence[str] = ()) -> Stops:
        """The ends that the template writes and that the tokenizer and the generation config name, and `more`.

        A base model that ends its turns with another token than its texts may name only one of the two.
        """
        form, config = AnswerForm.of(tokenizer), model.generation_config
        named = config.eos_token_id if config.eos_token_id is not None else []
        ids = [form.end_id, tokenizer.eos_token_id, *([named] if isinstance(named, int) else named)]
        texts = [*([config.stop_strings] if isinstance(config.stop_strings, str) else config.stop_strings or [])]
        texts += [form.end_text, *more]
        return cls(tuple(sorted({int(i) for i in ids if i is not None})), tuple(dict.fromkeys(filter(None, texts))))

    def cut(self, tokens: Sequence[int]) -> list[int]:
        """The tokens before the first one that ends an answer."""
        return list(tokens[: next((i for i, token in enumerate(tokens) if token in self.ids), len(tokens))])

    def read(self, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
        """The answer in the tokens that a model has written."""
        text: str = tokenizer.decode(self.cut(tokens), skip_special_tokens=True)
        return text[: min((at for end in self.texts if (at := text.find(end)) >= 0), default=len(text))]


def keep_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a model's own `generate` stop where answers end, through its generation config."""
    ids = Stops.of(tokenizer, model).ids
    if ids:
        model.generation_config.eos_token_id = list(ids) if len(ids) > 1 else ids[0]


def as_turn(tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[dict[str, str]]) -> str:
    """A prompt, or chat messages, as the tokenizer's chat template writes it before an answer.

    Without a template, a prompt stays as it is, and messages are joined by line breaks. Models that can think before
    they answer are told not to, both in training and in use.

    Raises:
        InvalidInputError: the template does not accept such messages.
    """
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if not tokenizer.chat_template:
        return "\n".join(turn["content"] for turn in turns)
    return _render(tokenizer, turns, add_generation_prompt=True) + AnswerForm.of(tokenizer).opening


def keeps_turns(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template writes a question, its answer and the next question, in this order."""
    if not tokenizer.chat_template:
        return False
    words = ("alpha", "beta", "gamma")
    roles = ("user", "assistant", "user")
    try:
        text = as_turn(tokenizer, [{"role": role, "content": word} for role, word in zip(roles, words, strict=True)])
    except InvalidInputError:
        return False
    places = [text.find(word) for word in words]
    return -1 < places[0] < places[1] < places[2]


class FittedPrompt(NamedTuple):
    """A conversation that leaves room for an answer.

    Attributes:
        turns: the last messages of the conversation.
        text: the messages as the model reads them.
        ids: the tokens of the text.
        room: the number of tokens that the answer may have.
    """

    turns: list[dict[str, str]]
    text: str
    ids: list[int]
    room: int


def fit_turns(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, str]], context: int | None, max_new_tokens: int
) -> FittedPrompt:
    """Leave out the oldest questions, each with its answer, until there is room for the next answer.

    Args:
        tokenizer: the base model's tokenizer.
        turns: messages of user and assistant in turn, the user's last.
        context: the number of tokens that the model can read and write; None for no limit.
        max_new_tokens: the longest answer, in tokens. A quarter of the context always counts as enough.

    Raises:
        InvalidInputError: the last message alone leaves no room, or the template does not accept the messages.
    """
    turns = list(turns)
    while True:
        text = as_turn(tokenizer, turns)
        ids: list[int] = tokenizer(text, add_special_tokens=not tokenizer.chat_template, verbose=False)["input_ids"]
        if context is None:
            return FittedPrompt(turns, text, ids, max_new_tokens)
        longest = context - min(max_new_tokens, context // 4)
        if len(ids) <= longest:
            return FittedPrompt(turns, text, ids, min(max_new_tokens, context - len(ids)))
        if len(turns) == 1:
            raise InvalidInputError(
                f"the input has {len(ids):,} tokens, but this base model reads at most {longest:,}, because the "
                f"answer must fit into its context of {context:,} tokens too"
            )
        turns = turns[2:]


def batches_by_length(texts: Sequence[Sequence[object]], size: int) -> list[list[int]]:
    """The numbers of texts, or of lists of tokens, in batches of similar length, which need little padding."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _render(tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, str]], **options: Any) -> str:
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, enable_thinking=False, **options)
    except (TemplateError, TypeError, KeyError) as error:  # the latter two from filters on what they do not expect
        roles = ", ".join(turn["role"] for turn in turns)
        raise InvalidInputError(
            f"the base model's chat template does not take messages of these roles: {roles} ({error}); "
            "put the system message into the user's message, and let user and assistant alternate"
        ) from error
    return str(text)


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token to pad with; any one does, since padding is masked or comes after the end."""
    found = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in found if token is not None)

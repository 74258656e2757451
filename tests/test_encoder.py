"""TextEncoder: descriptions in, task embeddings out."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from text2lora import CheckpointError, InvalidDescriptionError, TextEncoder
from text2lora.encoder import check_description

TEXTS = ["upper case the city", "a", "the city, then the case. then 12 more words of it, all in a row"]


def make_encoder(encoder_dir: Path, **kwargs: object) -> TextEncoder:
    return TextEncoder(AutoModel.from_pretrained(encoder_dir), AutoTokenizer.from_pretrained(encoder_dir), **kwargs)


@torch.no_grad()
def states_of(encoder_dir: Path, text: str, layer: int = -1) -> torch.Tensor:
    """[tokens, d] of one text alone, without padding."""
    inputs = AutoTokenizer.from_pretrained(encoder_dir)(text, return_tensors="pt")
    return AutoModel.from_pretrained(encoder_dir)(**inputs, output_hidden_states=True).hidden_states[layer][0]


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_pooling_equals_a_plain_reference(encoder_dir: Path, pooling: str) -> None:
    made = make_encoder(encoder_dir, pooling=pooling, normalize=False).encode(TEXTS)
    pool = {"mean": lambda s: s.mean(0), "cls": lambda s: s[0], "last": lambda s: s[-1]}[pooling]
    expected = torch.stack([pool(states_of(encoder_dir, text)) for text in TEXTS])
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)


def test_no_pooling_gives_the_states_of_all_tokens_padded_with_zeros(encoder_dir: Path) -> None:
    made = make_encoder(encoder_dir, pooling="none", normalize=False).encode(TEXTS)
    expected = [states_of(encoder_dir, text) for text in TEXTS]
    assert made.shape[1] == max(map(len, expected))
    for row, states in zip(made, expected, strict=True):
        torch.testing.assert_close(row[: len(states)], states, rtol=1e-5, atol=1e-5)
        assert not row[len(states) :].any()


def test_several_layers_are_concatenated(encoder_dir: Path) -> None:
    made = make_encoder(encoder_dir, pooling="cls", normalize=False, layers=[1, -1]).encode(["the city"])[0]
    expected = torch.cat([states_of(encoder_dir, "the city", 1)[0], states_of(encoder_dir, "the city", -1)[0]])
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_normalised_vectors_have_length_sqrt_d(encoder_dir: Path, pooling: str) -> None:
    raw = make_encoder(encoder_dir, pooling=pooling, normalize=False).encode(TEXTS[:1])
    made = make_encoder(encoder_dir, pooling=pooling).encode(TEXTS[:1])
    torch.testing.assert_close(made.norm(dim=-1), torch.full(made.shape[:-1], math.sqrt(24)))
    torch.testing.assert_close(torch.cosine_similarity(raw, made, -1), torch.ones(made.shape[:-1]))


def test_each_layer_can_be_scaled_by_itself(encoder_dir: Path) -> None:
    options = {"pooling": "mean", "layers": [0, -1]}
    raw = make_encoder(encoder_dir, normalize=False, **options).encode(TEXTS)
    whole = make_encoder(encoder_dir, **options).encode(TEXTS)
    apart = make_encoder(encoder_dir, normalize_layers=True, **options).encode(TEXTS)
    torch.testing.assert_close(whole.norm(dim=-1), torch.full((len(TEXTS),), math.sqrt(48)))
    for made, plain in zip(apart.chunk(2, -1), raw.chunk(2, -1), strict=True):
        torch.testing.assert_close(made, plain / plain.norm(dim=-1, keepdim=True) * math.sqrt(24))


def test_instruction_is_put_around_the_description(encoder_dir: Path) -> None:
    asked = make_encoder(encoder_dir, instruction="the case. {description}!").encode(["a {city}"])
    torch.testing.assert_close(asked, make_encoder(encoder_dir).encode(["the case. a {city}!"]))


@pytest.mark.parametrize(("pooling", "shape"), [("mean", (0, 48)), ("none", (0, 0, 48))])
def test_no_descriptions_have_no_embeddings(encoder_dir: Path, pooling: str, shape: tuple[int, ...]) -> None:
    assert make_encoder(encoder_dir, pooling=pooling, layers=[1, -1]).encode([]).shape == shape


def test_embeddings_can_be_differentiated_through(encoder: TextEncoder, make_model) -> None:
    model = make_model()
    sum(b.sum() for _, b in model(encoder.encode(TEXTS)).values()).backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_order_and_batch_size_do_not_matter(encoder_dir: Path) -> None:
    encoder = make_encoder(encoder_dir)
    together = encoder.encode(TEXTS)
    torch.testing.assert_close(encoder.encode(TEXTS[::-1]).flip(0), together, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoder.encode(TEXTS, batch_size=1), together, rtol=1e-5, atol=1e-5)


def test_a_text_too_long_is_cut_with_a_warning(encoder_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr("text2lora.encoder.logger.warning", lambda text, *args: warnings.append(text % args))
    encoder = make_encoder(encoder_dir, pooling="none", max_length=8)
    assert encoder.encode(["a b c d e f"]).shape[1] == 8  # with [CLS] and [SEP]: exactly as long
    assert warnings == []
    assert encoder.encode(["a b c d e f g h i"]).shape[1] == 8
    assert warnings.pop() == "the description has 11 tokens: the encoder reads 8 and ignores what follows"
    encoder.encode(["a b c d e f g h i", "a", "a b c d e f g h i j"] * 50)
    told = "100 of 150 descriptions are too long, with up to 12 tokens: the encoder reads 8 and ignores what follows"
    assert warnings == [told]  # and not a line for each


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        (None, "must be a string, got NoneType"),
        (3, "must be a string, got int"),
        (b"city", "must be a string, got bytes"),
        ("a\x00b", r"control characters \(U\+0000\)"),
        ("zur\udcfcck", r"bytes that cannot be decoded \(U\+DCFC\): use UTF-8, for example with PYTHONUTF8=1"),
        ("a\x1b[31mb", r"U\+001B"),
        ("a\ud800b", r"U\+D800"),
    ],
)
def test_bad_descriptions_are_refused(encoder: TextEncoder, wrong: object, message: str) -> None:
    with pytest.raises(InvalidDescriptionError, match=message):
        encoder.encode(["fine", wrong])


def test_a_string_is_not_taken_for_a_list_of_letters(encoder: TextEncoder) -> None:
    with pytest.raises(InvalidDescriptionError, match="got str: pass"):
        encoder.encode("upper case")


@given(st.text())
@example("\ufeff\ufeffthe city")
@example(" \ufeff the city")
def test_checked_descriptions_are_stripped_and_pass_again(text: str) -> None:
    try:
        checked = check_description(text)
    except InvalidDescriptionError:
        return
    assert checked
    assert checked == text.strip() or (text.lstrip().startswith("\ufeff") and text.strip().endswith(checked))
    assert not checked.startswith("\ufeff")
    assert check_description(checked) == checked


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_any_writing_is_a_description(text: str) -> None:
    if text.strip():
        assert check_description(text) == text.strip()


def test_digest_holds_what_decides_an_embedding(encoder_dir: Path, tmp_path: Path) -> None:
    def load(folder: Path = encoder_dir, **kwargs: object) -> TextEncoder:
        return TextEncoder(AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), **kwargs)

    encoder = load()
    before = encoder.digest
    encoder.encode(["the city", "a longer text, which is padded and cut" * 9])
    shutil.copytree(encoder_dir, tmp_path / "copy")
    assert before == encoder.digest == load(tmp_path / "copy").digest
    others = [load(pooling="cls"), load(instruction="Do: {description}"), load(), load()]
    with torch.no_grad():
        others[-1].model.encoder.layer[1].output.dense.bias[3] += 1e-6
    others[-2].tokenizer.add_tokens(["wholeword"])
    assert len({before, *(other.digest for other in others)}) == 5


def test_nothing_in_the_encoder_is_trainable(encoder: TextEncoder) -> None:
    assert not encoder.model.training
    assert not any(p.requires_grad for p in encoder.model.parameters())


def test_an_encoder_that_is_not_there_is_one_clear_error(make_config, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"text encoder .* cannot be loaded"):
        TextEncoder.from_config(make_config(), tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="does not name a text encoder: pass one, as a folder or a Hub id"):
        TextEncoder.from_config(make_config(encoder_name_or_path=None))


def test_embeddings_equal_those_of_the_reference(shared: Path) -> None:
    folder = shared / "fixtures" / "text_encoder" / "cls"
    facts = json.loads((folder / "texts.json").read_text())
    expected = next(iter(load_file(folder / "expected_embeddings.safetensors").values()))
    texts = [text.strip() for text in facts["texts"]]
    texts = [text + "." if text[-1].isalpha() else text for text in texts]  # what the reference does before encoding
    encoder = make_encoder(folder, pooling="cls", normalize=False)
    encoder.max_length = 128  # the reference goes by the model's positions, past the tokenizer's 64
    made = torch.nn.functional.normalize(encoder.encode(texts), dim=-1)
    torch.testing.assert_close(made, torch.nn.functional.normalize(expected, dim=-1), rtol=1e-5, atol=1e-5)


def test_the_folder_above_an_encoder_is_told_the_one_in_it(make_config, encoder_dir: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config.json: did you mean '.*'\? Otherwise expected the folder"):
        TextEncoder.from_config(make_config(), encoder_dir.parent)


def test_a_long_description_gets_one_warning_of_ours(t2l, capfd, caplog) -> None:
    with caplog.at_level("WARNING"):
        t2l.encoder.encode(["the city " * 3000])
    assert [record.getMessage() for record in caplog.records if "sequence length" in record.getMessage()] == []
    assert "sequence length" not in capfd.readouterr().err

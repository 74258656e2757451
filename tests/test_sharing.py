"""Two models of `generate_adapter`: one copy of the base in memory, and nothing of one to be seen in the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from test_adapter import logits, make_adapter
from test_attach import pack
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from text2lora import CheckpointError, Text2LoraModel
from text2lora.attach import WRAPPER
from text2lora.functions import Function, Runner
from text2lora.inference import generate_answers
from text2lora.sharing import SharedLoraModel, apply_apart, share

CITY, CASE = "upper case the city", "the case, twice"


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """What a model has of the base: no LoRA, by the base's names."""
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    named = [*plain.named_parameters(), *plain.named_buffers()]
    return {name.replace(".base_layer", ""): tensor for name, tensor in named if "lora_" not in name}


def memory(model: nn.Module) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in weights(model).items()}


def cached_base(t2l: Text2LoraModel) -> PreTrainedModel:
    return t2l._companions._base


@pytest.fixture
def alone(t2l: Text2LoraModel, load_base, ids) -> Callable[[str], torch.Tensor]:
    """The logits of an adapter on a base that nothing else uses."""
    return lambda text: logits(t2l.generate_lora(text).apply_to(load_base()), ids)


def test_two_calls_give_two_models_over_one_base(t2l: Text2LoraModel, alone, load_base, ids) -> None:
    city = t2l.generate_adapter(CITY)
    case = t2l.generate_adapter(CASE)
    assert torch.equal(logits(city, ids), alone(CITY))
    assert torch.equal(logits(case, ids), alone(CASE))
    assert torch.equal(logits(cached_base(t2l), ids), logits(load_base(), ids))
    assert memory(city) == memory(case) == memory(cached_base(t2l))
    with city.disable_adapter():
        assert torch.equal(logits(city, ids), logits(load_base(), ids))


def test_a_model_that_is_passed_gets_the_adapter_in_place(t2l: Text2LoraModel, alone, ids) -> None:
    city, other = t2l.generate_adapter(CITY), t2l.generate_adapter(CITY)
    assert t2l.generate_adapter(CASE, city) is city
    assert torch.equal(logits(city, ids), alone(CASE))
    assert torch.equal(logits(other, ids), alone(CITY))
    assert t2l.generate_adapter(CITY, city, adapter_name="city") is city
    assert list(city.peft_config) == ["default", "city"]
    assert torch.equal(logits(city, ids), alone(CITY))
    city.set_adapter("default", inference_mode=True)
    assert torch.equal(logits(city, ids), alone(CASE))


@pytest.mark.parametrize("source", ["cached", "given"])
@pytest.mark.parametrize("safe", [True, False])
def test_a_merge_is_seen_nowhere_else(t2l: Text2LoraModel, alone, load_base, ids, source: str, safe: bool) -> None:
    base = load_base() if source == "given" else None
    city, case = t2l.generate_adapter(CITY, base), t2l.generate_adapter(CASE, base)
    merged = city.merge_and_unload(safe_merge=safe)
    assert isinstance(merged, LlamaForCausalLM)
    torch.testing.assert_close(logits(merged, ids), alone(CITY), rtol=1e-4, atol=1e-4)
    base = base or cached_base(t2l)
    assert torch.equal(logits(case, ids), alone(CASE))
    assert torch.equal(logits(base, ids), logits(load_base(), ids))
    assert torch.equal(logits(t2l.generate_adapter(CITY), ids), alone(CITY))
    with case.disable_adapter():
        assert torch.equal(logits(case, ids), logits(load_base(), ids))


def test_merging_in_place_and_back_is_seen_nowhere_else(t2l: Text2LoraModel, alone, load_base, ids) -> None:
    city, case = t2l.generate_adapter(CITY), t2l.generate_adapter(CASE)
    city.merge_adapter()
    torch.testing.assert_close(logits(city, ids), alone(CITY), rtol=1e-4, atol=1e-4)
    changed = {name for name, place in memory(city).items() if place != memory(case)[name]}
    assert changed == {f"model.layers.{i}.self_attn.{name}.weight" for i in (0, 1) for name in ("q_proj", "v_proj")}
    assert torch.equal(logits(case, ids), alone(CASE))
    city.unmerge_adapter()
    torch.testing.assert_close(logits(city, ids), alone(CITY), rtol=1e-4, atol=1e-4)
    with pytest.raises(CheckpointError, match="an adapter was merged into this model"):
        t2l.generate_adapter(CASE, city.merge_and_unload())
    assert torch.equal(logits(cached_base(t2l), ids), logits(load_base(), ids))


@pytest.mark.parametrize("leave", ["merge_and_unload", "unload"])
def test_a_plain_model_has_weights_of_its_own(t2l: Text2LoraModel, alone, load_base, ids, leave: str) -> None:
    case = t2l.generate_adapter(CASE)
    plain = getattr(t2l.generate_adapter(CITY), leave)()
    assert not set(memory(plain).values()) & set(memory(case).values())
    plain.requires_grad_(True)
    plain(ids, labels=ids).loss.backward()
    torch.optim.SGD(plain.parameters(), 1.0).step()  # writes in place
    get_peft_model(plain, LoraConfig(target_modules="all-linear", init_lora_weights=False)).merge_and_unload()
    assert torch.equal(logits(case, ids), alone(CASE))
    assert torch.equal(logits(cached_base(t2l), ids), logits(load_base(), ids))


def step_with(optimizer: type[torch.optim.Optimizer], **options: bool) -> Callable[[torch.nn.Module], None]:
    """Takes a step of an optimizer on the weights of a model."""

    def step(model: torch.nn.Module) -> None:
        ids = torch.tensor([[1, 2, 3]])
        model.requires_grad_(True)
        model(ids, labels=ids).loss.backward()
        optimizer(model.parameters(), lr=1.0, **options).step()

    return step


def merge_another(model: torch.nn.Module) -> None:
    config = LoraConfig(target_modules="all-linear", init_lora_weights=False)
    get_peft_model(model, config, "other").merge_and_unload()


def write_through_numpy(model: torch.nn.Module) -> None:
    next(model.parameters()).detach().numpy()[:] = 0


@pytest.mark.parametrize(
    "change",
    [
        step_with(torch.optim.SGD),
        step_with(torch.optim.AdamW, fused=True),
        merge_another,
        write_through_numpy,
        lambda model: [parameter.data.mul_(0.5) for parameter in model.parameters()],
    ],
    ids=["SGD", "fused AdamW", "PEFT merge", "NumPy", "data"],
)
def test_changes_in_place_reach_no_new_model(t2l: Text2LoraModel, alone, ids, caplog, change) -> None:
    function, city = t2l.function(CITY, max_new_tokens=4), t2l.generate_adapter(CITY)
    expected = function("x")
    change(city.get_base_model())
    with pytest.raises(CheckpointError, match=r"changed in place.*make the function again"):
        function("x")
    assert t2l.function(CITY, max_new_tokens=4)("x") == expected
    assert "Make the other earlier models again" in caplog.text
    assert torch.equal(logits(t2l.generate_adapter(CITY), ids), alone(CITY))


def test_moving_one_model_moves_no_other(t2l: Text2LoraModel, alone, ids) -> None:
    city, case = t2l.generate_adapter(CITY), t2l.generate_adapter(CASE)
    city.to(torch.bfloat16)
    assert {tensor.dtype for tensor in weights(case).values()} == {torch.float32}
    assert torch.equal(logits(case, ids), alone(CASE))
    case.config.use_cache = False
    assert cached_base(t2l).config.use_cache


def test_tied_embeddings_stay_tied(ids) -> None:
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=261, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    base = LlamaForCausalLM(config).eval()
    before = logits(base, ids)
    one, two = apply_apart(make_adapter(1), base), apply_apart(make_adapter(2), base)
    for model in (one, two):
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    expected = logits(two, ids)
    one.add_adapter("head", LoraConfig(target_modules=["lm_head"], init_lora_weights=False))
    one.set_adapter("head")
    with pytest.warns(UserWarning, match="tie"):
        merged = one.merge_and_unload()  # into the tied weights
    assert (logits(merged, ids) - before).abs().max() > 0.1
    assert torch.equal(logits(base, ids), before)
    assert torch.equal(logits(two, ids), expected)


@pytest.mark.parametrize("place", ["cpu"])
def test_offloaded_layers_keep_their_hooks_and_share_what_they_load(
    base_dir: Path, load_base, tmp_path: Path, ids, place: str
) -> None:
    devices = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu",
               "lm_head": "cpu", "model.layers.1": place}  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(base_dir, device_map=devices, offload_folder=tmp_path)
    made = [apply_apart(make_adapter(seed), base) for seed in (1, 2)]
    expected = [logits(make_adapter(seed).apply_to(load_base()), ids) for seed in (1, 2)]
    for model, wanted in zip(made, expected, strict=True):
        torch.testing.assert_close(logits(model, ids), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(made[0].merge_and_unload(), ids), expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(made[1], ids), expected[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(base, ids), logits(load_base(), ids), rtol=1e-5, atol=1e-5)


def test_everything_works_on_a_base_that_is_partly_on_a_disk(t2l: Text2LoraModel, base_dir, load_base, tmp_path, ids):
    """Models of its own, a merge, functions with and without labels, and tuning on examples."""
    places = dict.fromkeys(["model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head"], "cpu")
    places["model.layers.1"] = "disk"
    base = AutoModelForCausalLM.from_pretrained(base_dir, device_map=places, offload_folder=tmp_path).eval()
    tokenizer, adapters = AutoTokenizer.from_pretrained(base_dir), [make_adapter(1), make_adapter(2)]
    made = [apply_apart(adapter, base) for adapter in adapters]
    expected = [logits(adapter.apply_to(load_base()), ids) for adapter in adapters]
    for model, wanted in zip(made, expected, strict=True):
        torch.testing.assert_close(logits(model, ids), wanted)
    torch.testing.assert_close(logits(made[0].merge_and_unload(), ids), expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(made[1], ids), expected[1])
    torch.testing.assert_close(logits(base, ids), logits(load_base(), ids))

    runner = Runner(share(base), tokenizer)
    answers = generate_answers(adapters[0].apply_to(load_base()), tokenizer, ["x", "yy"], 6)
    assert Function(runner, adapters[0], max_new_tokens=6).many(["x", "yy"]) == answers
    found, wanted = (
        Function(each, adapters[0], labels=["yes", "no"]).scores("x")
        for each in (runner, Runner(load_base(), tokenizer))
    )
    assert found == pytest.approx(wanted, rel=1e-4)
    pairs = [("x", "y"), ("a", "b")]
    tuned, plain = (t2l.generate_lora(CITY, examples=pairs, base_model=model) for model in (base, load_base()))
    for key, weight in plain.weights.items():
        torch.testing.assert_close(tuned.weights[key], weight, rtol=1e-3, atol=1e-4)


def test_packed_weights_are_shared(load_base, ids) -> None:
    base = pack(load_base())
    before = logits(base, ids)
    one, two = apply_apart(make_adapter(1), base), apply_apart(make_adapter(2), base)
    assert memory(one) == memory(two) == memory(base)
    assert (logits(one, ids) - logits(two, ids)).abs().max() > 0.1
    assert torch.equal(logits(base, ids), before)


def test_copies_and_saved_adapters_of_a_shared_model_work(t2l: Text2LoraModel, alone, load_base, tmp_path, ids) -> None:
    city = t2l.generate_adapter(CITY)
    twin = copy.deepcopy(city)
    t2l.generate_adapter(CASE, city)
    assert torch.equal(logits(twin, ids), alone(CITY))
    assert isinstance(twin.base_model, SharedLoraModel)
    twin.save_pretrained(tmp_path, save_embedding_layers=False)
    assert torch.equal(logits(PeftModel.from_pretrained(load_base(), tmp_path), ids), alone(CITY))


def test_a_base_inside_a_model_is_changed_in_place(t2l: Text2LoraModel, alone, base, ids) -> None:
    model = t2l.generate_lora(CITY).apply_to(base)
    assert t2l.generate_adapter(CASE, base) is model
    assert torch.equal(logits(model, ids), alone(CASE))
    model.unload()
    assert WRAPPER in vars(base)
    again = t2l.generate_adapter(CITY, base)
    assert again is not model
    assert torch.equal(logits(again, ids), alone(CITY))


def test_what_cannot_be_copied_is_one_line(base) -> None:
    def endless() -> Iterator[int]:
        yield 1

    base.stream = endless()
    with pytest.raises(CheckpointError, match=r"cannot be copied .*generate_lora\(...\).apply_to\(base\)"):
        share(base)


def test_a_compiled_model_is_the_model_in_it(make_model, load_base, ids) -> None:
    t2l = make_model()
    expected = logits(t2l.generate_adapter("the city", load_base()), ids)
    assert torch.equal(logits(t2l.generate_adapter("the city", torch.compile(load_base())), ids), expected)
    model = t2l.generate_adapter("lower case", load_base())
    assert t2l.generate_adapter("the city", torch.compile(model)) is model
    assert torch.equal(logits(model, ids), expected)

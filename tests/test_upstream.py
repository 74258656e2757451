"""Checkpoints of the reference implementation: exact where they are whole, refused in one line where they are not."""

from __future__ import annotations

import functools
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config
from upstream_format import ADAPTER, ARGS, EMBEDDING, LAYERS, RANK, SHAPES, tensors, write_checkpoint

from text2lora import CheckpointError, Text2LoraModel
from text2lora.upstream import FILES, SFR_INSTRUCTION, read_upstream

FIXTURES = [
    "all_linear", "enc_softmax", "enc_vq", "gemma2", "large", "large_other_order", "medium", "mt_offset", "one_hot",
    "rankwise_unshared", "recon_delta_w", "recon_zscore", "small", "small_rotary",
]  # fmt: skip


@pytest.fixture
def fixture(shared: Path, request: pytest.FixtureRequest) -> Path:
    return shared / "fixtures" / "t2l_checkpoints" / request.param


def task_embedding(folder: Path) -> torch.Tensor:
    return load_file(folder / "task_emb.safetensors")["task_emb"]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("fixture", FIXTURES, indirect=True)
def test_gives_the_adapter_of_the_reference_from_both_layouts(fixture: Path, tmp_path: Path) -> None:
    model = Text2LoraModel.from_pretrained(fixture)
    model.save_pretrained(tmp_path / fixture.name)
    converted = Text2LoraModel.from_pretrained(tmp_path / fixture.name)
    expected = load_file(fixture / "expected_adapter.safetensors")
    folders = []
    for source in (model, converted):
        adapter = source.generate_lora(task_emb=task_embedding(fixture))[0]
        assert set(adapter.weights) == set(expected)
        assert max((adapter.weights[key] - expected[key]).abs().max() for key in expected) <= 1e-6
        folders.append(bytes_of(adapter.save_pretrained(tmp_path / str(len(folders)))))
    assert folders[0] == folders[1]


@pytest.mark.parametrize("fixture", ["large", "large_other_order", "all_linear"], indirect=True)
def test_module_order_is_that_of_the_heads(fixture: Path) -> None:
    keys = torch.load(fixture / "hypermod.pt", weights_only=True)
    heads = [key.split(".")[1] for key in keys if key.startswith("heads.") and key.endswith(".weight")]
    assert Text2LoraModel.from_pretrained(fixture).config.target_modules == heads


# -- made-up checkpoints of the same format ---------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a whole checkpoint, with changes to its files."""
    return functools.partial(write_checkpoint, tmp_path / "upstream")


def test_reads_the_sizes_and_the_encoder(write: Callable[..., Path]) -> None:
    config = Text2LoraModel.from_pretrained(write()).config
    assert config.target_modules == ["v_proj", "q_proj"]
    assert config.module_shapes == {"v_proj": [8, 4], "q_proj": [8, 6]}
    assert config.module_paths["q_proj"] == "model.layers.{layer}.self_attn.q_proj"
    assert (config.num_layers, config.lora_r, config.lora_alpha, config.use_rslora) == (2, 2, 4.0, True)
    assert (config.encoder_name_or_path, config.encoder_pooling) == ("Alibaba-NLP/gte-large-en-v1.5", "cls")
    assert config.encoder_full_stop
    assert not config.offset  # the zero buffers are left behind


@pytest.mark.parametrize(
    ("args", "name", "pooling", "instruction"),
    [
        ({"emb_model": "Salesforce/SFR-Embedding-2_R"}, "Salesforce/SFR-Embedding-2_R", "last", SFR_INSTRUCTION),
        ({"emb_model": ""}, ARGS["model_dir"], "last", None),
        ({"emb_model": "org/unknown"}, None, "mean", None),
        ({"use_one_hot_task_emb": True}, None, "one-hot", None),
    ],
)
def test_knows_how_each_encoder_is_read(write, args: dict, name: str | None, pooling: str, instruction) -> None:
    model = Text2LoraModel.from_pretrained(write(args=args))
    config = model.config
    assert (config.encoder_name_or_path, config.encoder_pooling, config.encoder_instruction) == (
        name,
        pooling,
        instruction,
    )
    if name is None:
        says = "one-hot tasks and reads no descriptions" if pooling == "one-hot" else "does not name a text encoder"
        with pytest.raises(CheckpointError, match=says):
            model.generate_lora("a task")


def test_discrete_encoders_work_from_their_tensors(write: Callable[..., Path]) -> None:
    """Layers and modules are one-hot there, and so the trunk is 64 + layers + modules wide."""
    mlp = {"mlp.0.weight": (256, EMBEDDING), "mlp.0.bias": (256,), "mlp.3.weight": (64, 256), "mlp.3.bias": (64,)}
    state = tensors(64 + LAYERS + len(SHAPES), {f"task_encoder.{name}": shape for name, shape in mlp.items()})
    model = Text2LoraModel.from_pretrained(write(state, {"encoder_type": "discrete", "hypernet_latent_size": 128}))
    task_emb = torch.randn(1, EMBEDDING)

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return state[f"{name}.weight"] @ x + state[f"{name}.bias"]

    def mlp_of(prefix: str, x: torch.Tensor, first: int = 1, second: int = 4) -> torch.Tensor:
        return torch.nn.functional.silu(
            linear(f"{prefix}.{second}", torch.nn.functional.silu(linear(f"{prefix}.{first}", x)))
        )

    def block(prefix: str, x: torch.Tensor) -> torch.Tensor:
        normed = torch.nn.functional.layer_norm(x, x.shape, state[f"{prefix}.0.weight"], state[f"{prefix}.0.bias"])
        return mlp_of(prefix, normed)

    hidden = torch.nn.functional.silu(linear("task_encoder.mlp.0", task_emb[0]))
    code = torch.nn.functional.one_hot(linear("task_encoder.mlp.3", hidden).argmax(), 64)
    weights = model.generate_lora(task_emb=task_emb)[0].weights
    for layer in range(LAYERS):
        for module, (name, (d_in, _)) in enumerate(SHAPES.items()):
            places = (
                torch.nn.functional.one_hot(torch.tensor(layer), LAYERS),
                torch.nn.functional.one_hot(torch.tensor(module), len(SHAPES)),
            )
            x = mlp_of("mixer", torch.cat([code, *places]).float())
            for prefix in ("mlp1.mlp", "mlp2.mlp"):
                x = x + block(prefix, x)
            out = linear(f"heads.{name}", block("mlp3", x))
            key = f"base_model.model.model.layers.{layer}.self_attn.{name}.lora"
            torch.testing.assert_close(weights[f"{key}_A.weight"], out[: RANK * d_in].view(RANK, d_in))
            torch.testing.assert_close(weights[f"{key}_B.weight"], out[RANK * d_in :].view(RANK, -1).T)


def without(*names: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in tensors().items() if key not in names}


def changed(name: str, value: object) -> dict[str, object]:
    return {key: value if key == name else old for key, old in tensors().items()}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (without("mlp2.mlp.1.bias", "mixer.1.bias"), r"hypermod\.pt lacks: mixer\.1\.bias, mlp2\.mlp\.1\.bias"),
        (without("std_recon_target.A.q_proj"), r"lacks: std_recon_target\.A\.q_proj"),
        (without("task_encoder.mlp.0.weight"), r"lacks task_encoder\.mlp\.0\.weight"),
        (without(*(k for k in tensors() if k.startswith("heads."))), r"has no heads\.\* tensors"),
        (tensors() | {"extra.weight": torch.zeros(1)}, r"has unknown tensors: extra\.weight"),
        (changed("mlp1.mlp.1.bias", torch.zeros(3)), r"wrong shape: mlp1\.mlp\.1\.bias \[3\] instead of \[64\]"),
        (changed("heads.q_proj.bias", torch.zeros(1)), r"wrong shape: heads\.q_proj\.bias \[1\] instead of \[28\]"),
        (changed("AB_offset.A.q_proj", torch.zeros(8)), r"AB_offset\.A\.q_proj has the shape \[8\]"),
        (changed("mixer.1.bias", torch.full((64,), torch.nan)), r"'mixer\.1\.bias' has NaN or infinite entries"),
        (changed("mixer.1.bias", torch.full((64,), torch.inf)), r"'mixer\.1\.bias' has NaN or infinite entries"),
        (changed("mixer.1.bias", torch.zeros(64, dtype=torch.long)), r"'mixer\.1\.bias' is not a tensor of floating"),
        (changed("mixer.1.bias", "text"), r"'mixer\.1\.bias' is not a tensor"),
        ({}, "contains a dict, expected a dict of tensors"),
        ([torch.zeros(1)], "contains a list, expected a dict of tensors"),
        (dict(sorted(tensors().items())), "sorted by name, so the order of its target modules is lost"),
    ],
)
def test_wrong_tensors_are_listed(write: Callable[..., Path], state: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Text2LoraModel.from_pretrained(write(state))


@pytest.mark.parametrize(
    ("args", "adapter", "message"),
    [
        ({"encoder_type": "transformer"}, {}, r"encoder_type is 'transformer', expected one of linear, softmax, vq"),
        ({"training_task": "rl"}, {}, "training_task is 'rl', expected one of sft, recon"),
        ({"shared_AB_head": "yes"}, {}, "shared_AB_head is 'yes', expected bool"),
        ({"hypernet_latent_size": True}, {}, "hypernet_latent_size is True, expected int"),
        ({"hypernet_latent_size": 32}, {}, "says hypernet_latent_size 32 and head_in_size 12, but .* has 16 and 12"),
        ({"shared_AB_head": True}, {}, r"lacks: out_emb|lacks: factor|lacks"),
        ({"autoreg_gen": True}, {}, r"wrong shape: heads\.v_proj\.weight \[24, 12\] instead of \[12, 12\]"),
        ({"autoreg_gen": True, "learnable_pos_emb": True}, {}, r"lacks: pos_emb\.0\.weight"),
        ({"training_task": "recon", "pred_z_score": True}, {}, "pred_z_score needs factorized"),
        ({"delta_w_scaling": 0}, {}, "delta_w_scaling is 0, expected a number above zero"),
        ({}, {"r": 4}, r"adapter_config\.json says r 4, but .*hypermod\.pt is for r 2"),
        ({}, {"target_modules": ["q_proj"]}, r"lists the target modules \['q_proj'\], but .* has heads for"),
        ({"target_modules": ["k_proj"]}, {}, r"args\.yaml lists the target modules \['k_proj'\], but .* has heads for"),
        ({"target_modules": ["q_proj", 1]}, {}, r"target_modules is \['q_proj', 1\], expected a list of names"),
        ({}, {"target_modules": "q_proj"}, "target_modules is 'q_proj': expected a list of names"),
        ({}, {"use_dora": True}, "not a plain LoRA adapter .use_dora is True"),
        ({}, {"peft_type": "VERA"}, "not a LoRA adapter of PEFT .peft_type 'VERA'"),
    ],
)
def test_contradictions_are_refused(write, args: dict, adapter: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Text2LoraModel.from_pretrained(write(args=args, adapter=adapter))


def test_a_pickle_that_runs_code_is_refused_and_not_run(write: Callable[..., Path], tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.write_text, (tmp_path / "ran", "x"))

    folder = write(tensors() | {"evil": Evil()})
    with pytest.raises(CheckpointError, match="would run code on loading: refused"):
        Text2LoraModel.from_pretrained(folder)
    (folder / "hypermod.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match=r"not a file of torch.save"):
        Text2LoraModel.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


def test_yaml_with_python_tags_is_refused_and_not_run(write: Callable[..., Path], tmp_path: Path) -> None:
    folder = write()
    (folder / "args.yaml").write_text(f"model_dir: !!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']\n")
    with pytest.raises(CheckpointError, match=r"args\.yaml cannot be read as plain YAML"):
        Text2LoraModel.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_weights_are_refused(write: Callable[..., Path], share: float) -> None:
    path = write() / "hypermod.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"hypermod\.pt is truncated, or not a file of torch\.save"):
        Text2LoraModel.from_pretrained(path.parent)


def test_weights_that_are_a_pointer_are_called_one(write: Callable[..., Path]) -> None:
    path = write() / "hypermod.pt"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError, match=r"hypermod\.pt is a Git LFS pointer instead of the file"):
        Text2LoraModel.from_pretrained(path.parent)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(write: Callable[..., Path], name: str) -> None:
    folder = write()
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}" if name != "args.yaml" else "args.yaml"):
        Text2LoraModel.from_pretrained(folder)


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_is_noticed_or_harmless(write: Callable[..., Path], place: float, bit: int) -> None:
    """Tensor bytes are under a checksum; a flip elsewhere in the archive may leave every tensor as it was."""
    path = write() / "hypermod.pt"
    whole = Text2LoraModel.from_pretrained(path.parent).state_dict()
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(bytes(data))
    try:
        state = Text2LoraModel.from_pretrained(path.parent).state_dict()
    except CheckpointError as error:
        message = str(error)
    else:
        message = "hypermod.pt"
        assert all(torch.equal(value, state[key]) for key, value in whole.items())
    assert "hypermod.pt" in message
    assert "\n" not in message


def test_a_base_of_another_shape_is_refused(write: Callable[..., Path], base) -> None:
    model = Text2LoraModel.from_pretrained(write())
    adapter = model.generate_lora(task_emb=torch.randn(1, EMBEDDING))[0]
    with pytest.raises(CheckpointError, match=r"8 features for \S*v_proj, but the given model has"):
        adapter.apply_to(base)


def test_module_names_outside_the_known_families_need_the_base_config(write: Callable[..., Path]) -> None:
    state = {key.replace("v_proj", "query_key_value"): value for key, value in tensors().items()}
    folder = write(state, adapter={"target_modules": ["q_proj", "query_key_value"]})
    with pytest.raises(CheckpointError, match="place of query_key_value in the base model"):
        read_upstream({name: folder / name for name in FILES})
    with pytest.raises(CheckpointError, match=r"the config of the base model meta-llama/Llama.* cannot be loaded"):
        Text2LoraModel.from_pretrained(folder)


def test_a_base_in_a_folder_is_held_against_the_tensors(write: Callable[..., Path], base_dir: Path) -> None:
    with pytest.raises(CheckpointError, match="the checkpoint is for 2 layers with the shapes"):
        Text2LoraModel.from_pretrained(write(args={"model_dir": str(base_dir)}))


def test_discrete_encoders_of_another_width_are_refused(write: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match="fits a hypernet_latent_size of 128, not of 16"):
        Text2LoraModel.from_pretrained(write(args={"encoder_type": "discrete"}))


def test_paths_of_other_families_come_from_the_base_config(write: Callable[..., Path]) -> None:
    folder = write(args={"model_dir": "org/base"})
    files = {name: folder / name for name in FILES}
    names = {key: key.replace("q_proj", "qkv") for key in tensors()}
    state = {names[key]: value for key, value in tensors().items()}
    torch.save(state, folder / "hypermod.pt")
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER | {"target_modules": ["qkv", "v_proj"]}))
    asked = []

    def load(base: str) -> Qwen3Config:
        asked.append(base)
        sizes = {"hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 8, "vocab_size": 9}
        return Qwen3Config(num_attention_heads=3, head_dim=2, num_key_value_heads=2, **sizes)

    with pytest.raises(CheckpointError, match=r"target modules \['qkv'\] are not linear modules"):
        read_upstream(files, load)
    assert asked == ["org/base"]
    write(args={"model_dir": "org/base"})
    read_upstream(files, load)
    assert asked == ["org/base"]  # known names do not ask


def test_the_converted_folder_holds_no_dead_weights(write: Callable[..., Path], tmp_path: Path) -> None:
    Text2LoraModel.from_pretrained(write()).save_pretrained(tmp_path / "out")
    kept = load_file(tmp_path / "out" / "model.safetensors")
    dead = sum(v.numel() for k, v in tensors().items() if "recon_target" in k or "AB_offset" in k)
    assert sum(v.numel() for v in kept.values()) == sum(v.numel() for v in tensors().values()) - dead


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "float16"])
def test_loads_in_another_dtype(write: Callable[..., Path], dtype: object) -> None:
    model = Text2LoraModel.from_pretrained(write(), dtype=dtype)
    assert str(model.dtype).endswith(str(dtype).removeprefix("torch."))
    plain = Text2LoraModel.from_pretrained(write()).generate_lora(task_emb=torch.ones(1, EMBEDDING))[0]
    adapter = model.generate_lora(task_emb=torch.ones(1, EMBEDDING))[0]
    for key, value in adapter.weights.items():
        torch.testing.assert_close(value.float(), plain.weights[key], rtol=0.1, atol=0.05)


def test_a_checkpoint_saved_as_safetensors_is_refused(write: Callable[..., Path]) -> None:
    folder = write()
    (folder / "hypermod.pt").unlink()
    save_file(tensors(), folder / "hypermod.safetensors")
    with pytest.raises(CheckpointError, match=r"has no hypermod\.pt"):
        Text2LoraModel.from_pretrained(folder)


def test_a_file_of_an_old_pytorch_is_called_one(write: Callable[..., Path]) -> None:
    folder = write()
    state = torch.load(folder / "hypermod.pt", weights_only=True)
    torch.save(state, folder / "hypermod.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"is in the format of PyTorch before 1\.6: load it and save it again"):
        Text2LoraModel.from_pretrained(folder)


def test_a_base_in_a_folder_is_found_from_anywhere(write, tmp_path: Path, monkeypatch) -> None:
    heads = {"num_attention_heads": 3, "num_key_value_heads": 2, "head_dim": 2}
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "vocab_size": 8}
    Qwen3Config(**sizes, **heads).save_pretrained(tmp_path / "models" / "mine")
    monkeypatch.chdir(tmp_path)
    config = Text2LoraModel.from_pretrained(write(args={"model_dir": "models/mine"})).config
    assert config.base_model_name_or_path == str(tmp_path / "models" / "mine")

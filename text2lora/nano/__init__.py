"""The bundled model: a tiny base language model, the tasks it knows, and the hypernetwork trained on them."""

from text2lora.nano.records import KINDS, sample_record

__all__ = ["KINDS", "sample_record"]

"""The bundled model, as data: a tiny base language model, a hypernetwork for it, and the records that they read."""

from text2lora.nano.records import KINDS, sample_record

__all__ = ["KINDS", "sample_record"]

"""Adapters in the forms that other engines read: a GGUF file, one merged model, a zip."""

from text2lora.export.gguf import ARCHITECTURES, export_gguf, write_modelfile
from text2lora.export.merged import export_merged
from text2lora.export.zip import export_zip, zip_adapter

__all__ = ["ARCHITECTURES", "export_gguf", "export_merged", "export_zip", "write_modelfile", "zip_adapter"]

"""text2lora inside other programs: adapters on demand for servers."""

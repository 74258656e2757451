"""The web app of text2lora as a Hugging Face Space."""

import threading

from text2lora.ui.app import running
from text2lora.ui.service import Service

MODELS = ["smol", "nano"]  # "SakanaAI/text-to-lora/trained_t2l/gemma_2b_t2l" needs a GPU and HF_TOKEN
DEVICE = "cpu"

if __name__ == "__main__":
    with running(Service(MODELS, DEVICE), host="0.0.0.0", port=7860):
        threading.Event().wait()

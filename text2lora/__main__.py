"""`python -m text2lora` is `t2l`, for launchers such as torchrun."""

from text2lora.cli import main

if __name__ == "__main__":
    main()

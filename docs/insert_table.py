"""Puts the table that `t2l eval nano --output` wrote into the pages that show it, between their two marks."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = (ROOT / "text2lora/nano/results/table.md").read_text(encoding="utf-8")

for page in (ROOT / "README.md", ROOT / "text2lora/nano/README.md"):
    text = page.read_text(encoding="utf-8")
    page.write_text(
        re.sub(r"(<!-- table -->\n).*?(<!-- /table -->)", lambda m: f"{m[1]}\n{TABLE}\n{m[2]}", text, flags=re.S),
        encoding="utf-8",
    )

"""Puts the tables that the evaluations of the bundled models wrote into the pages that show them, between two marks."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = {
    "nano": ["README.md", "text2lora/nano/README.md"],
    "smol": ["docs/concepts/smol.md", "text2lora/smol/README.md"],
}


def insert_tables(root: Path = ROOT) -> None:
    """Write the table of each model into its pages."""
    for model, pages in PAGES.items():
        table = (root / f"text2lora/{model}/results/table.md").read_text(encoding="utf-8")
        for page in pages:
            before, begin, rest = (root / page).read_text(encoding="utf-8").partition("<!-- table -->\n")
            _, end, after = rest.partition("<!-- /table -->")
            (root / page).write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    insert_tables()

"""The settings reference is made from the fields, and up to date."""

from pathlib import Path

import pytest

from lora_loop.core.config.docs import FILES, settings_markdown

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("language", list(FILES))
def test_reference_is_up_to_date(language):
    written = (DOCS / FILES[language]).read_text(encoding="utf-8")
    assert written == settings_markdown(language), (
        "write it anew: python -m lora_loop.core.config.docs"
    )


def test_a_row_says_all():
    rows = settings_markdown("en").splitlines()
    rank = next(row for row in rows if row.startswith("| `rank`"))
    assert "| `16` | whole number, 1 – 1,024 | **Rank**<br>" in rank
    assert all(row.count(" | ") >= 3 for row in rows if row.startswith("| `"))

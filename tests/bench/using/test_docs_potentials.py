"""The snippets of docs/potentials.md run as they stand, on a toy study."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "potentials.md"


def test_the_page_of_potentials_runs(toy_potentials, monkeypatch, capsys):
    monkeypatch.chdir(toy_potentials.parent)
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    assert len(snippets) >= 4
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(snippet.replace("my-study", toy_potentials.name), names)
    assert "[" in capsys.readouterr().out

"""Make the tables of docs/benchmarks.md again, each by the command that stands above it.

    python benchmarks/tables.py DATA             # all of them
    python benchmarks/tables.py DATA design      # those whose command has the word

A table lies between `<!-- output -->` and `<!-- end -->` below a bash block; the block is run from
the root of the repository with DATA for its DATA, and what it prints is what the page says from
then on. Commands that take hours resume from a file of their own. The others on the page need a
peer, a GPU or a quiet machine, and are without the marks.
"""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/benchmarks.md"
BLOCK = re.compile(r"```bash\n(?P<command>[^`]*)\n```\n\n<!-- output -->\n.*?<!-- end -->", re.S)


def made(block: re.Match[str], data: Path) -> str:
    """The block with what its command prints now."""
    command = block["command"].replace("DATA", str(data.resolve()))
    told = subprocess.run(
        ["bash", "-euc", command],
        cwd=PAGE.parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.strip()
    return (
        f"```bash\n{block['command']}\n```\n\n"
        f"<!-- output -->\nMade {date.today()}:\n\n{told}\n<!-- end -->"
    )


def main(data: Path, *words: str) -> None:
    """Run the commands in the order of the page, and write it after each."""
    for command in [block["command"] for block in BLOCK.finditer(PAGE.read_text())]:
        if words and not any(word in command for word in words):
            continue
        print(command, file=sys.stderr, flush=True)
        text = PAGE.read_text()  # anew: the one before may have taken hours
        block = next(one for one in BLOCK.finditer(text) if one["command"] == command)
        PAGE.write_text(text[: block.start()] + made(block, data) + text[block.end() :])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

"""`chemscale prepare` on enumerated molecules: its memory as they grow in number, and its kills.

    python benchmarks/prepare.py memory --rows 1000000 10000000
    python benchmarks/prepare.py kills --rows 30000 --kills 5

`memory`: the peak of the command with all its workers, summed over processes (shared pages counted
in each), four times a second. Exit code 1 where the largest needs 150 MB more than the smallest.
With `--without-chemistry` the rows are not encoded but given made-up symbols and hashes, a
twentieth of them repeated: the memory of the store's side alone, many times faster.
`kills`: SIGKILL at random moments, the same command again; exit code 1 where the store differs from
that of an undisturbed one in any byte. Runs hold 1,000 rows there, so that there are many to lose.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PARTS = ("C", "O", "N", "S", "C(C)", "C(=O)", "C(F)", "C(O)", "C(N)", "C1CC1", "C(Cl)", "C(C#N)")
LENGTH = 8  # 12^8 = 4·10⁸ texts; some are one molecule, read from either end
STEP = 257_885_161  # prime to 12: neighbours differ in every part


def enumerated(rows: int) -> Iterator[str]:
    """SMILES; each twentieth row repeats an earlier one, each thousandth is none."""
    for row in range(rows):
        number = (row // 2 if row % 20 == 19 else row) * STEP % len(PARTS) ** LENGTH
        parts = []
        for _ in range(LENGTH):
            number, digit = divmod(number, len(PARTS))
            parts.append(PARTS[digit])
        yield "C(" if row % 1000 == 999 else "".join(parts)


def write(path: Path, rows: int) -> Path:
    """A file of enumerated molecules."""
    with path.open("w") as stream:
        stream.writelines(f"{text}\n" for text in enumerated(rows))
    return path


SMALL = (
    "from chemscale.bench.data import prepare, sorting; "
    "prepare.RUN_ROWS = sorting.RANGE_ITEMS = 1000; sorting.JOURNAL_SECONDS = 0.0; "
    "from chemscale.cli import main; main()"
)


WITHOUT_CHEMISTRY = """
import numpy as np
from chemscale.bench.data import prepare
from chemscale.bench.data.base import hash_items
from chemscale.bench.data.encoding import Encoded

def made_up(chunks, choices, workers=None):
    for chunk in chunks:
        number = np.arange(chunk.start, chunk.start + len(chunk.rows))
        number[19::20] //= 2
        lengths = (20 + number % 40).astype(np.int32)
        content = hash_items(n.tobytes() for n in number)
        yield chunk, Encoded(
            alphabet=[f"[{n}]" for n in range(40)],
            symbols=(np.arange(lengths.sum()) % 40).astype(np.uint16),
            lengths=lengths,
            heavy_atoms=lengths,
            content=content,
            group=content[:, 1] / 2.0**64,
            rows=np.arange(len(number)),
        )

prepare.encode_all = made_up
from chemscale.cli import main
main()
"""


def command(source: Path, store: Path, code: str = "") -> list[str]:
    """The command line, or what a piece of code makes of it."""
    how = ["-c", code] if code else ["-m", "chemscale.cli"]
    return [sys.executable, *how, "prepare", str(source), "--to", str(store)]


def resident(pid: int) -> int:
    """Bytes that a process and its children hold."""
    try:
        status = Path(f"/proc/{pid}/statm").read_text().split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(status[1]) * 4096 + sum(resident(int(child)) for child in children)


def memory(folder: Path, sizes: list[int], code: str) -> bool:
    """Peak of each size, smallest first."""
    peaks = []
    for rows in sorted(sizes):
        source, store = write(folder / f"{rows}.smi", rows), folder / f"store-{rows}"
        start, peak = time.perf_counter(), 0
        process = subprocess.Popen(command(source, store, code), stdout=subprocess.PIPE, text=True)
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(0.25)
        assert process.stdout is not None
        told = process.stdout.read().splitlines()
        seconds = time.perf_counter() - start
        disk = sum(path.stat().st_size for path in store.iterdir())
        print(
            f"{rows:>12,} rows: peak {peak / 1e6:,.0f} MB, {rows / seconds:,.0f} rows/s, "
            f"{disk / 1e6:,.0f} MB on disk; {told[0].partition(': ')[2]}",
            flush=True,
        )
        peaks.append(peak)
        shutil.rmtree(store)
        source.unlink()
    return peaks[-1] <= peaks[0] + 150e6


def contents(store: Path) -> dict[str, bytes]:
    """What is in a store, but for the lock."""
    return {path.name: path.read_bytes() for path in store.iterdir() if path.name != ".lock"}


def kills(folder: Path, rows: int, count: int, seed: int) -> bool:
    """Whether a store killed and resumed is the store of one go."""
    source, chance = write(folder / "molecules.smi", rows), random.Random(seed)
    start = time.perf_counter()
    subprocess.run(command(source, folder / "whole", SMALL), check=True, capture_output=True)
    needed = time.perf_counter() - start
    done = 0
    while done < count:
        process = subprocess.Popen(
            command(source, folder / "killed", SMALL),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        delay = chance.uniform(0.1, 1.0) * needed
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
            print(f"killed after {delay:.1f} of {needed:.1f} s", flush=True)
            continue
        shutil.rmtree(folder / "killed")  # it came through: from the beginning again
        print("came through; again from the beginning", flush=True)
    subprocess.run(command(source, folder / "killed", SMALL), check=True, capture_output=True)
    same = contents(folder / "whole") == contents(folder / "killed")
    print(f"{done} kills, the stores are {'the same to the byte' if same else 'DIFFERENT'}")
    return same


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("memory", "kills"))
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--without-chemistry", action="store_true")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where there is room: about 150 bytes a row")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        if asked.what == "memory":
            code = WITHOUT_CHEMISTRY if asked.without_chemistry else ""
            good = memory(Path(name), asked.rows, code)
        else:
            good = kills(Path(name), asked.rows[0], asked.kills, asked.seed)
    sys.exit(not good)


if __name__ == "__main__":
    main()

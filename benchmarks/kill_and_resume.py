"""Kill a study at random moments until it was killed often enough, and compare with one left alone.

    python benchmarks/kill_and_resume.py --kills 20 --seed 0

Two studies on the data of the package, one of each world, are trained with `chemscale train`; at
random moments a random process (a worker, the parent, all) gets SIGKILL, every third time in the
middle of writing. The same command goes on each time. At the end all columns but `seconds`,
`joules` and `flops_spent` are compared bit for bit with studies that were left alone, and the exit
code is 1 on any difference. Last, where a small disk in memory can be mounted (Linux, root), a
study is trained on one that is full again and again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from chemscale.table.results import CURVE_COLUMNS
from chemscale.table.run_folder import RunFolder
from chemscale.table.store import StudyFolder

STUDIES = {
    "molecules": """\
name = "molecules"
families = { chemgpt = ["w16", "w32"] }
dataset = { name = "example-molecules", max_evaluated = 100 }
num_train = [300, 1000]
recipe = { name = "molecules", warmup = 500 }
search = { learning_rate = [3e-3, 1e-2], fraction = 0.5, finish = 2 }
budget = { items = 4_000 }
""",
    "structures": """\
name = "structures"
families = { schnet = ["w16"], painn = ["w16"] }
dataset = { name = "example-structures", max_evaluated = 40 }
num_train = [30, 150]
recipe = { name = "energy-and-forces", warmup = 500 }
budget = { items = 25_000, patience = 1.0 }
""",
}
CLOCKS = ("seconds", "joules", "flops_spent")
ACCOUNT_SECONDS = 1.5  # `flops_spent` is written down once a second


def main() -> int:
    """Kill, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where; default a temporary folder")
    options = parser.parse_args()
    dice = random.Random(options.seed)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = options.folder or Path(temporary)
        for number, (name, text) in enumerate(STUDIES.items()):
            kills = options.kills // 2 + (options.kills % 2 if number == 0 else 0)
            start = time.monotonic()
            whole, killed = (make(root / f"{name}-{kind}", text) for kind in ("whole", "killed"))
            finish(whole)
            print(f"\n{name}: {time.monotonic() - start:.0f} s undisturbed", flush=True)
            wrong += [f"{name}: {line}" for line in Hunt(killed, dice, whole).go(kills)]
            wrong += [f"{name}: {line}" for line in differences(whole, killed)]
        wrong += full_disk(root)
    for line in wrong:
        print(f"WRONG: {line}")
    print("no difference" if not wrong else f"{len(wrong)} differences")
    return bool(wrong)


def make(place: Path, text: str) -> StudyFolder:
    """A study in a folder of its own."""
    place.mkdir(parents=True)
    (place / "study.toml").write_text(text)
    return StudyFolder(place)


def train(folder: StudyFolder) -> subprocess.Popen[str]:
    """Start `chemscale train` with two workers."""
    words = [sys.executable, "-m", "chemscale.cli", "train", str(folder.path), "--workers", "2"]
    with (folder.path / "told.txt").open("a") as told:
        return subprocess.Popen(words, stdout=told, stderr=told, text=True, start_new_session=True)


def finish(folder: StudyFolder) -> None:
    """Train to the end."""
    code = train(folder).wait()
    if code:
        raise SystemExit(f"{folder.path}: exit {code}\n{(folder.path / 'told.txt').read_text()}")


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Ids of the workers that a command has started."""
    found = []
    with suppress(OSError):
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        for child in map(int, listed.split()):
            with suppress(OSError):
                if b"executors.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
    return found


class Hunt:
    """Kills one study again and again, and looks at what is left each time."""

    def __init__(self, folder: StudyFolder, dice: random.Random, whole: StudyFolder):
        self.folder, self.dice = folder, dice
        self.alone = {one.run.id: one.outcome for one in whole.trained()}
        self.pace = 0.0  # seconds of training between kills, on average
        self.rows: list[tuple[Any, ...]] = []
        self.ended: dict[str, bytes] = {}
        self.wrong: list[str] = []

    def go(self, kills: int) -> list[str]:
        """Kill that often, then let it finish; what went wrong."""
        # Two workers share the work, and some is left for the last command.
        self.pace = sum(outcome.seconds for outcome in self.alone.values()) / 2 / (kills + 2)
        while len(self.rows) < kills:
            before = len(self.rows)
            self.once(writing=len(self.rows) % 3 == 2)
            if len(self.rows) == before and self.done():
                self.wrong.append(f"finished after {before} of {kills} kills")
                break
        finish(self.folder)
        self.look()
        for place in self.places():
            log = (place.path / "log.txt").read_text().splitlines()
            kinds = [line.split(":")[0] for line in log]
            if kinds.count("finished") != 1 or kinds[-1] != "finished":
                self.wrong.append(f"{place.path.name} was not finished once and last: {kinds}")
        header = ("kill", "of", "while", "last left", "runs ended", "lost s", "saved s ago")
        for row in (header, *self.rows):
            print("  " + "  ".join(str(cell).ljust(12) for cell in row).rstrip())
        spent = sum(one.outcome.flops_spent for one in self.folder.trained())
        alone = sum(outcome.flops_spent for outcome in self.alone.values())
        print(f"  {spent / alone - 1:+.1%} FLOPs spent beside the undisturbed study")
        return self.wrong

    def once(self, writing: bool) -> None:
        """Start the command and kill something of it at a random moment."""
        began, process = time.time(), train(self.folder)
        worker_at = self.until(lambda: bool(workers_of(process)) or process.poll() is not None)
        # Workers import for some seconds; the mean of the square is a third.
        wait = self.dice.uniform(0.0, 1.0) ** 2 * 3 * self.pace + self.dice.choice((0.0, 4.0))
        seen = ""
        if self.dice.random() < 0.1:
            wait = 0.0  # while the workers start
        end = time.monotonic() + wait
        while worker_at and time.monotonic() < end and process.poll() is None:
            time.sleep(0.002)
        if writing:
            seen = self.a_part(process)
        crew = workers_of(process)
        victim = self.dice.choice(("worker", "parent", "all"))
        if victim == "worker" and not crew:
            victim = "parent"
        targets = {"worker": crew[:1], "parent": [process.pid], "all": [process.pid, *crew]}[victim]
        at = time.time()
        for target in targets:
            with suppress(ProcessLookupError):
                os.kill(target, signal.SIGKILL)
        if process.poll() == 0:
            return
        lost = f"{self.losses(began, at)[0]:.1f}", f"{self.losses(began, at)[1]:.1f}"
        if victim == "parent":  # its workers notice and save
            lost = ("0.0", "")
        if victim == "worker":  # the parent goes on with another; give it a moment, then stop it
            time.sleep(self.dice.uniform(0, 6))
            process.kill()
        process.wait()
        gone = time.monotonic()
        self.until(lambda: not any(alive(worker) for worker in crew))
        self.look()
        self.rows.append(
            (
                len(self.rows) + 1,
                victim,
                f"writing {seen}" if seen else "",
                f"{time.monotonic() - gone:.1f} s" if victim != "all" else "at once",
                len(self.ended),
                *lost,
            )
        )
        if time.monotonic() - gone > 30:
            self.wrong.append(f"kill {len(self.rows)}: workers lived on for over 30 s")

    def a_part(self, process: subprocess.Popen[str]) -> str:
        """Wait until something is half written, for some seconds; what it is."""
        end = time.monotonic() + 20
        runs = str(self.folder.path / "runs")
        while time.monotonic() < end and process.poll() is None:
            for _, folders, files in os.walk(runs):
                for name in (*folders, *files):
                    if name.startswith((".part-", ".drop-")) or (name[0] == "." and "-" in name):
                        return "part" if name.startswith(".part") else name[1:5]
        return ""

    def losses(self, began: float, at: float) -> tuple[float, float]:
        """Most seconds of work lost by a run, and how long ago that run was saved or begun."""
        worst = (0.0, at - began)
        for place in self.places():
            spent = place.spent()
            if place.outcome() is not None or not spent:
                continue
            saved, kept = began, 0.0
            for path in place.checkpoints().values():
                if path.stat().st_mtime > saved or not kept:
                    saved = max(began, path.stat().st_mtime)
                    kept = json.loads((path / "state.json").read_text())["flops_spent"]
            alone = self.alone[place.run().id]
            lost = (spent - kept) * alone.seconds / alone.flops if spent > kept else 0.0
            if lost > 2 * (at - saved) + ACCOUNT_SECONDS:  # twice: speeds vary under load
                self.wrong.append(
                    f"{place.path.name} lost {lost:.1f} s, saved {at - saved:.1f} s ago"
                )
            worst = max(worst, (lost, at - saved))
        return worst

    def look(self) -> None:
        """What has ended must stay as it was; all that is there must be whole."""
        for name, outcome in self.ended.items():
            if (self.folder.path / "runs" / name / "outcome.json").read_bytes() != outcome:
                self.wrong.append(f"{name} had ended and was trained again")
        for place in self.places():
            with suppress(FileNotFoundError):
                data = (place.path / "outcome.json").read_bytes()
                self.ended.setdefault(place.path.name, data)
        self.wrong += torn(self.folder)

    def places(self) -> list[RunFolder]:
        """All runs so far."""
        return [RunFolder(path) for path in self.folder.run_folders().values()]

    def done(self) -> bool:
        """Whether nothing is left to train."""
        index = self.folder.index()
        asked = {run_id for ids in index.values() for run_id in ids}
        return "sweep" in index and asked <= self.folder.ended()

    @staticmethod
    def until(true: Any, seconds: float = 120.0) -> bool:
        """Wait for something; whether it came."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if true():
                return True
            time.sleep(0.005)
        return False


def alive(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except OSError:
        return False


def torn(folder: StudyFolder) -> list[str]:
    """Files that cannot be read; what is hidden was never moved into place and does not count."""
    found = []
    for path in folder.path.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(folder.path).parts):
            continue
        try:
            match path.suffix:
                case ".json":
                    json.loads(path.read_text())
                case ".npy":
                    np.load(path)
                case ".csv":
                    assert path.read_bytes()[-1:] in (b"\n", b"")
        except (ValueError, AssertionError, EOFError) as error:
            found.append(f"{path} is torn: {error}")
        except OSError:
            continue  # moved away meanwhile
    return found


def differences(one: StudyFolder, other: StudyFolder) -> list[str]:
    """Columns of curves and outcomes that are not bit for bit the same."""
    wrong = []
    runs = {run.run.id: run for run in one.trained()}
    others = {run.run.id: run for run in other.trained()}
    if runs.keys() != others.keys():
        wrong.append(f"other runs: {sorted(runs.keys() ^ others.keys())}")
    cells = 0
    for run_id in runs.keys() & others.keys():
        a, b = runs[run_id], others[run_id]
        ends = [r.outcome.model_dump(exclude=set(CLOCKS)) for r in (a, b)]
        wrong += [f"{run_id} {key}" for key in ends[0] if repr(ends[0][key]) != repr(ends[1][key])]
        for column in (name for name in CURVE_COLUMNS if name not in CLOCKS):
            cells += len(a.curve[column])
            if a.curve[column].tobytes() != b.curve[column].tobytes():
                wrong.append(f"{run_id} curve {column}")
        if a.curve.step_losses.tobytes() != b.curve.step_losses.tobytes():
            wrong.append(f"{run_id} steps")
    print(f"  {len(runs)} runs, {cells:,} cells of curves and all of the outcomes: compared")
    return wrong


# --- a disk that is full ---


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[bool]:
    """A disk of that size, in memory; False where none can be mounted."""
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=False)


def full_disk(root: Path) -> list[str]:
    """Train on a disk that is full, that is freed a little each time, until the study is done."""
    text = STUDIES["structures"].replace(', painn = ["w16"]', "")
    wrong, codes = [], Counter[int]()
    with small_disk(root / "disk", "3m") as mounted:
        if not mounted:
            print("\na full disk: skipped, no small disk can be mounted here")
            return []
        whole = make(root / "roomy", text)
        finish(whole)
        folder = make(root / "disk" / "study", text)
        ballast = root / "disk" / "ballast"
        free = 0.05
        for _ in range(40):
            room = shutil.disk_usage(root / "disk")
            with suppress(OSError), ballast.open("wb") as stream:
                taken = ballast.stat().st_size
                stream.write(b"\0" * max(0, int(room.free + taken - free * 1e6)))
            process = train_quietly(folder)
            codes[process.returncode] += 1
            wrong += torn(folder)
            if process.returncode == 0:
                break
            told = process.stderr.strip().splitlines()[-1]
            if process.returncode != 1 or "No space left on device" not in told:
                wrong.append(f"a full disk: exit {process.returncode}: {told}")
            free += 0.04
            ballast.unlink(missing_ok=True)
        counts = ", ".join(f"exit {code}: {times} times" for code, times in sorted(codes.items()))
        print(f"\na full disk of 3 MB, freed by 40 kB each time: {counts}")
        wrong += [f"a full disk: {line}" for line in differences(whole, folder)]
    return wrong


def train_quietly(folder: StudyFolder) -> subprocess.CompletedProcess[str]:
    """Train with one worker, and keep what is told away from the full disk."""
    words = [sys.executable, "-m", "chemscale.cli", "train", str(folder.path), "--workers", "1"]
    return subprocess.run(words, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())

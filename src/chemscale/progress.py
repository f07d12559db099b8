"""What is going on, on standard error: bars on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Watch = Callable[[dict[str, Any]], None]

LINE_SECONDS = 15.0  # between plain lines
QUIET_SECONDS = 2.0  # work that takes no longer is not counted aloud


def quiet(event: dict[str, Any]) -> None:
    """Show nothing."""


@contextmanager
def preparing(watch: Watch) -> Iterator[Callable[[str, int, int], None]]:
    """What tells a watch of what, how much is done, and of how much, while the block runs."""

    def tell(what: str, done: int, total: int) -> None:
        watch({"event": "prepare", "what": what, "done": done, "total": total})

    try:
        yield tell
    finally:
        watch({"event": "prepared"})


@contextmanager
def counting(watch: Watch, total: int, about: str = "") -> Iterator[Callable[[str, int], None]]:
    """What adds up how much more is done and tells it, with what it is about."""
    done, quiet_until = 0, time.monotonic() + QUIET_SECONDS
    with preparing(watch) as tell:

        def count(what: str, more: int) -> None:
            nonlocal done
            done += more
            if time.monotonic() > quiet_until:
                tell(f"{about}: {what}" if about else what, min(done, total), total)

        yield count


@contextmanager
def watching() -> Iterator[Watch]:
    """Show the events of the verbs while the block runs."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Bars(progress)


class _Chapter:
    """How far a chapter is, weighing each run by what it can cost."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.total = self.done = 0
        self.cost: dict[str, float] = {}
        self.share: dict[str, float] = {}

    def take(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "chapter":
                self.names, self.total = event["names"], event["total"]
                self.done, self.cost, self.share = event["done"], event["cost"], {}
            case "progress":
                self.share[event["run"]] = event["share"]
            case "end":
                self.share[event["run"]] = 1.0
                self.done += 1
            case "held":
                self.share[event["run"]] = 1.0

    @property
    def fraction(self) -> float:
        whole = sum(self.cost.values())
        if not whole:
            return 1.0
        return sum(self.cost.get(run, 0) * share for run, share in self.share.items()) / whole

    @property
    def label(self) -> str:
        return f"{' + '.join(self.names)}: {self.done} of {self.total} runs"


class _Lines:
    """A line when something begins or ends, and now and then between."""

    def __init__(self) -> None:
        self.chapter = _Chapter()
        self.last = 0.0
        self.named: dict[str, str] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        self.chapter.take(event)
        kind = event["event"]
        if kind == "prepare":
            if time.monotonic() - self.last > LINE_SECONDS:
                self._say(f"{event['what']}: {event['done']:,} of {event['total']:,}")
        elif kind == "note":
            self._say(event["text"])
        elif kind == "start":
            self.named[event["run"]] = event["name"]
        elif kind == "end" and event["status"] != "finished":
            self._say(f"{self._name(event)} {event['status']}: {event['sentence']}")
        elif kind == "lost":
            self._say(f"{self._name(event)}: its worker died (code {event['code']}), trying again")
        elif kind in ("chapter", "chapter-end"):
            self._say(self.chapter.label)
        elif kind == "progress" and time.monotonic() - self.last > LINE_SECONDS:
            self._say(f"{self.chapter.label}, {self.chapter.fraction:.0%} of the work")

    def _name(self, event: dict[str, Any]) -> str:
        return self.named.get(event["run"], str(event["run"]))

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        self.last = time.monotonic()


class _Bars:
    """A bar for the chapter, and one for each worker."""

    def __init__(self, progress: Any):
        self.progress = progress
        self.chapter = _Chapter()
        self.whole: Any = None
        self.prepare: Any = None
        self.workers: dict[int, Any] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        self.chapter.take(event)
        match event["event"]:
            case "prepare":
                if self.prepare is None:
                    self.prepare = self.progress.add_task(event["what"], total=1, note="")
                self.progress.update(
                    self.prepare,
                    description=event["what"],
                    completed=event["done"],
                    total=max(event["total"], 1),
                )
            case "prepared":
                if self.prepare is not None:
                    self.progress.remove_task(self.prepare)
                    self.prepare = None
            case "note":
                self.progress.console.print(event["text"])
            case "chapter":
                self.whole = self.progress.add_task(self.chapter.label, total=1, note="")
            case "chapter-end":
                for task in (self.whole, *self.workers.values()):
                    self.progress.remove_task(task)
                self.workers = {}
                self.progress.console.print(self.chapter.label)
            case "start":
                self._worker(event, description=f"  {event['name']}", completed=0, note="")
            case "progress":
                loss = event["val_loss"]
                note = "" if loss is None else f"validation {loss:.4g}"
                self._worker(event, completed=event["share"], note=note)
            case "end" if event["status"] != "finished":
                self.progress.console.print(f"{event['status']}: {event['sentence']}")
            case "lost":
                self.progress.console.print(f"a worker died (code {event['code']}), trying again")
        if self.whole is not None and self.chapter.names:
            fraction = self.chapter.fraction
            if self.whole in self.progress.task_ids:
                label = self.chapter.label
                self.progress.update(self.whole, description=label, completed=fraction)

    def _worker(self, event: dict[str, Any], **fields: Any) -> None:
        number = event.get("worker", 0)
        if number not in self.workers:
            self.workers[number] = self.progress.add_task("", total=1, note="")
        self.progress.update(self.workers[number], **fields)

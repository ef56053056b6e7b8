"""Results of `capeserve bench gpu`, handed out after every step."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]


@dataclass
class Results:
    """What has been measured so far.

    Attributes:
        gpu: its name.
        seconds: time that may be spent.
        rows: results by section, in the order in which they came.
        write: called after every row.
    """

    gpu: str
    seconds: float
    write: Callable[[Results], None]
    rows: dict[str, list[Row]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.seconds - (time.monotonic() - self.started)

    def add(self, section: str, **row: Any) -> None:
        """Adds a result and hands everything out."""
        row["at_seconds"] = round(time.monotonic() - self.started, 1)
        self.rows.setdefault(section, []).append(row)
        print(section, row, flush=True)
        self.write(self)

    @contextlib.contextmanager
    def step(self, name: str, needs: float) -> Iterator[None]:
        """A step that is left out where less time than it `needs` is left; the body must check `open`."""
        self.open = self.left >= needs
        if not self.open:
            self.add("left out", step=name, needs_seconds=needs, left_seconds=round(self.left))
        began = time.monotonic()
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.add("failed", step=name, error=f"{type(error).__name__}: {error}"[:600])
        finally:
            if self.open:
                self.add("steps", step=name, seconds=round(time.monotonic() - began, 1))

    open: bool = True


def milliseconds(seconds: float) -> float:
    """Converts seconds to milliseconds with three decimals."""
    return round(1000 * seconds, 3)

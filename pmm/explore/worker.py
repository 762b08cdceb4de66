"""The newest wish counts: one thread computes, and a wish that is overtaken before its turn is dropped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

_NOTHING = object()


class LatestWins:
    """Calls `work(wish, is_stale)` for the newest wish, in one thread at a time.

    A slider makes wishes faster than pictures can be drawn. None of them is queued: while one is worked on,
    only the newest of those that arrive is kept. `is_stale()` tells the work that a newer one waits, so that it
    can leave out what would take long. The thread ends when there is nothing to do.

    Args:
        work: what to do with a wish.
        failed: called with what `work` raised; the next wish is served all the same.
    """

    def __init__(self, work: Callable[[Any, Callable[[], bool]], None], failed: Callable[[Exception], None]):
        self._work, self._failed = work, failed
        self._state = threading.Condition()
        self._next: Any = _NOTHING
        self._thread: threading.Thread | None = None
        self.asked = self.begun = 0

    def ask(self, wish: Any) -> None:
        """Take a wish; returns at once."""
        with self._state:
            self._next = wish
            self.asked += 1
            self._state.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="pmm-explorer", daemon=True)
                self._thread.start()

    def is_stale(self) -> bool:
        """Return whether a newer wish waits."""
        return self._next is not _NOTHING

    def rests(self, seconds: float) -> bool:
        """Wait so long for a newer wish; False as soon as there is one. For `work`, before it begins what is long."""
        with self._state:
            return not self._state.wait_for(self.is_stale, seconds)

    def wait(self, timeout: float = 60.0) -> bool:
        """Wait until nothing is left to do; False if that takes longer than `timeout` seconds."""
        with self._state:
            return self._state.wait_for(lambda: self._thread is None, timeout)

    def _serve(self) -> None:
        while True:
            with self._state:
                wish, self._next = self._next, _NOTHING
                if wish is _NOTHING:
                    self._thread = None
                    self._state.notify_all()
                    return
                self.begun += 1
            try:
                self._work(wish, self.is_stale)
            except Exception as error:
                self._failed(error)

"""Processes that draw lessons ahead of the training, without a GPU."""

from __future__ import annotations

import multiprocessing
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch

from foveate.recipe.smollm2.lessons import begin

Order = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function that draws, with its arguments."""


def warm() -> None:
    """Start the process that all drawers are forked from, which imports what they need while this one does other things."""
    multiprocessing.set_forkserver_preload(["foveate.recipe.smollm2.lessons"])
    forkserver.ensure_running()


def _begin_apart(tokenizer: Path, pictures: Path) -> None:
    """Prepare a process that does nothing but draw."""
    torch.set_num_threads(1)
    begin(tokenizer, pictures)


class Drawers:
    """Draws in other processes, or in this one if there are none.

    Args:
        count: of processes.
        tokenizer, pictures: see `lessons.begin`.
    """

    def __init__(self, count: int, tokenizer: Path, pictures: Path) -> None:
        self._files = tokenizer, pictures
        self._pool: ProcessPoolExecutor | None = None
        if count:
            context = multiprocessing.get_context("forkserver")
            self._pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin_apart, initargs=self._files)
        else:
            begin(*self._files)

    def submit(self, order: Order) -> Callable[[], Any]:
        """Draw in the background; the result is drawn or waited for when it is called for."""
        draw, arguments = order
        if self._pool is None:
            return lambda: draw(*arguments)
        try:
            future: Future[Any] = self._pool.submit(draw, *arguments)
        except BrokenProcessPool:
            self._alone()
            return lambda: draw(*arguments)

        def result() -> Any:
            try:
                return future.result()
            except BrokenProcessPool:
                self._alone()
                return draw(*arguments)

        return result

    def _alone(self) -> None:
        """Draw in this process from now on, because the others died: slower, but a run on borrowed time goes on."""
        if self._pool is not None:
            warnings.warn("the processes that draw scenes died; this one draws from now on", RuntimeWarning, stacklevel=3)
            self._pool = None
            begin(*self._files)

    def stream(self, orders: Iterator[Order], ahead: int) -> Iterator[Any]:
        """What the orders draw, one after the other; `ahead` of them are under way, and so are chosen early."""
        waiting: deque[Callable[[], Any]] = deque()
        for order in orders:
            waiting.append(self.submit(order))
            if len(waiting) > (ahead if self._pool is not None else 0):
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()

    def close(self) -> None:
        """End the processes, without waiting for what they draw."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

"""Work in threads, so that the event loop stays free, with a bound on how much of it there may be at once."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from refusal import RefusalError

Read = TypeVar("Read")
Result = TypeVar("Result")


class Worker:
    """Some threads, and places for those who wait for them."""

    def __init__(self, threads: int, places: int, timeout_s: float) -> None:
        """`places` counts the requests that are read, wait or run."""
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="classify")
        self._places = threading.BoundedSemaphore(places)
        self._timeout_s = timeout_s

    async def run(self, read: Callable[[], Awaitable[Read]], work: Callable[[Read], Result]) -> Result:
        """``work(await read())``, with `work` in a thread.

        The place is taken before anything is read, so that a full house costs no memory, and given back when the work
        has really ended: a thread cannot be stopped, so after a time-out its place is not free yet.

        Raises:
            RefusalError: If there is no place, or it takes too long.
        """
        if not self._places.acquire(blocking=False):
            headers = {"Retry-After": "1", "Connection": "close"}
            raise RefusalError(503, "busy", "too many requests at once; try again", headers)
        job: Future[Result] | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                job = self._threads.submit(work, await read())
                return await asyncio.wrap_future(job)
        except TimeoutError:
            if job is None:
                raise RefusalError(408, "slow", "the body took too long to arrive", {"Connection": "close"}) from None
            raise RefusalError(504, "slow", "the classification took too long") from None
        finally:
            if job is None:
                self._places.release()
            else:
                job.add_done_callback(lambda _: self._places.release())

    def close(self) -> None:
        """Drops what waits."""
        self._threads.shutdown(wait=False, cancel_futures=True)

"""What a program that is checked strictly sees: `mypy --strict`. Each line that is ignored must be an error."""

import asyncio
from typing import List, Optional

import sidelock


def sync() -> int:
    with sidelock.lock("orders", "customers", wait=0.5, shared=True, on_lost=lambda loss: print(loss.reason)) as lock:
        token: int = lock.token
        valid: Optional[float] = lock.valid
        wrong: str = lock.token  # type: ignore[assignment]
        lock.no_such_member  # type: ignore[attr-defined]
    print(valid, wrong)
    try:
        lock.acquire(0).release()
    except sidelock.Busy as busy:
        holders: List[str] = [str(holder["command"]) for holder in busy.holders]
        print(holders, busy.reason.upper())
    except sidelock.Lost as lost:
        print(lost.loss.token + 1)
    sidelock.lock(5)  # type: ignore[arg-type]
    return token


async def tasks() -> int:
    async with sidelock.aio.lock("orders", cancel_on_loss=False) as lock:
        return lock.token


@sidelock.single_run("nightly-{0}")
def nightly(shop: str) -> int:
    return len(shop)


def bindings() -> bool:
    count: int = nightly("north")
    nightly(5)  # type: ignore[arg-type]
    with sidelock.FileLock("/tmp/x", timeout=1) as file, sidelock.Lock("x", timeout=3, blocking_timeout=1):
        return file.is_locked and count > 0


if __name__ == "__main__":
    sync()
    asyncio.run(tasks())
    bindings()

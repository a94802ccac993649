import os, time
import sidelock

lock = sidelock.lock("cycles")
end, count = time.monotonic() + float(os.environ["CYCLES_SECONDS"]), 0
while time.monotonic() < end:
    lock.acquire()
    lock.release()
    count += 1
print(count)

#include <sidelock.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void) {
    struct timespec time;
    timespec_get(&time, TIME_UTC);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(void) {
    double end = now() + atof(getenv("CYCLES_SECONDS"));
    long count = 0;
    for (; now() < end; count++) {
        sidelock_lock *lock;
        if (sidelock_acquire(NULL, "cycles", SIDELOCK_FOREVER, NULL, &lock, NULL) != SIDELOCK_OK) return 1;
        if (sidelock_release(lock, NULL) != SIDELOCK_OK) return 1;
        sidelock_free(lock);
    }
    printf("%ld\n", count);
    return 0;
}

#define _GNU_SOURCE
#include "CLinux.h"

#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>

_Static_assert(sizeof(struct peer_credentials) == sizeof(struct ucred), "struct ucred has another size");

int boot_timer_create(void) { return timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC); }

int boot_timer_set(int timer, int64_t nanoseconds) {
  struct itimerspec setting = {0};
  setting.it_value.tv_sec = nanoseconds / 1000000000;
  setting.it_value.tv_nsec = nanoseconds % 1000000000;
  return timerfd_settime(timer, TFD_TIMER_ABSTIME, &setting, NULL);
}

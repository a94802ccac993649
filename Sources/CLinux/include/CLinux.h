#pragma once
// What Linux has and Swift's Glibc module does not show.

#include <stdint.h>
#include <sys/types.h>

/// The process at the other end of a Unix socket, as the kernel knew it when it connected (struct ucred).
struct peer_credentials {
  pid_t pid;
  uid_t uid;
  gid_t gid;
};

/// A timer on CLOCK_BOOTTIME that can be polled; -1 and errno on failure.
int boot_timer_create(void);

/// Fires once at this moment of the boot clock, in nanoseconds; 0 on success, -1 and errno on failure.
int boot_timer_set(int timer, int64_t nanoseconds);

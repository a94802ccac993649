#define _GNU_SOURCE
#include "CLinux.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

// What the headers of an older C library lack.
#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

_Static_assert(sizeof(struct peer_credentials) == sizeof(struct ucred), "struct ucred has another size");

int boot_timer_create(void) { return timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC); }

int boot_timer_set(int timer, int64_t nanoseconds) {
  struct itimerspec setting = {0};
  setting.it_value.tv_sec = nanoseconds / 1000000000;
  setting.it_value.tv_nsec = nanoseconds % 1000000000;
  return timerfd_settime(timer, TFD_TIMER_ABSTIME, &setting, NULL);
}

int datagram_send(int socket, const char *path, const void *bytes, size_t count, int descriptor) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  size_t length = strlen(path);
  if (length == 0 || length >= sizeof(address.sun_path)) {
    errno = EINVAL;
    return -1;
  }
  memcpy(address.sun_path, path, length);
  socklen_t address_length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
  if (path[0] == '@') {
    address.sun_path[0] = 0;
  } else {
    address_length += 1;
  }
  struct iovec part = {.iov_base = (void *)bytes, .iov_len = count};
  union {
    char room[CMSG_SPACE(sizeof(int))];
    struct cmsghdr aligned;
  } control = {0};
  struct msghdr message = {
      .msg_name = &address, .msg_namelen = address_length, .msg_iov = &part, .msg_iovlen = 1};
  if (descriptor >= 0) {
    message.msg_control = control.room;
    message.msg_controllen = sizeof(control.room);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &descriptor, sizeof(int));
  }
  ssize_t sent;
  do {
    sent = sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  return sent < 0 ? -1 : 0;
}

static const int fixed_size = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

int memory_file_create(const char *name, int64_t size) {
  int descriptor = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (descriptor < 0) return -1;
  if (ftruncate(descriptor, size) != 0 || fcntl(descriptor, F_ADD_SEALS, fixed_size) != 0) {
    int failure = errno;
    close(descriptor);
    errno = failure;
    return -1;
  }
  return descriptor;
}

int64_t memory_file_size(int descriptor) {
  struct stat status;
  int seals = fcntl(descriptor, F_GET_SEALS);
  if (seals < 0 || (seals & fixed_size) != fixed_size || fstat(descriptor, &status) != 0) return -1;
  return status.st_size;
}

void store_in_order(void *address, uint64_t value) { __atomic_store_n((uint64_t *)address, value, __ATOMIC_RELEASE); }

int spawn_in_directory(posix_spawn_file_actions_t *actions, const char *path) {
  return posix_spawn_file_actions_addchdir_np(actions, path);
}

char **process_environment(void) { return environ; }

uint64_t socket_cookie(int descriptor) {
  uint64_t cookie = 0;
  socklen_t length = sizeof(cookie);
  if (getsockopt(descriptor, SOL_SOCKET, SO_COOKIE, &cookie, &length) != 0) return 0;
  return cookie;
}

void *memory_file_map(int descriptor, int64_t size) {
  void *address = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, descriptor, 0);
  if (address == MAP_FAILED) return NULL;
  // A core dump would read every page, even those never written, and delay the end of the process.
  madvise(address, (size_t)size, MADV_DONTDUMP);
  return address;
}

void memory_file_unmap(void *address, int64_t size) { munmap(address, (size_t)size); }

void memory_give_back(void *address, int64_t size) { madvise(address, (size_t)size, MADV_REMOVE); }
int peer_groups(int socket, gid_t *groups, int max) {
  socklen_t length = (socklen_t)max * sizeof(gid_t);
  // With too little room (ERANGE) the kernel returns the length it needs, and writes nothing.
  if (getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups, &length) != 0 && errno != ERANGE) return -1;
  return (int)(length / sizeof(gid_t));
}

int peer_process(int socket) {
  int process = -1;
  socklen_t length = sizeof process;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &process, &length) != 0) return -1;
  return process;
}

int process_open(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }

int process_signal(int process, int signal) { return (int)syscall(SYS_pidfd_send_signal, process, signal, NULL, 0); }

// The beginning of struct pidfd_info, which not every system's headers have.
struct process_info {
  uint64_t mask, cgroup;
  uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid, spare;
};
_Static_assert(sizeof(struct process_info) == 64, "the size is a part of the request's number");
#define PROCESS_INFO _IOWR(0xFF, 11, struct process_info)
#define PROCESS_INFO_CREDENTIALS 2

// The line "Uid:" of /proc/PID/status: real, effective, saved.
static int users_in_status(pid_t pid, uid_t *real, uid_t *saved) {
  char path[64], text[4096];
  snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return -1;
  ssize_t count = read(file, text, sizeof text - 1);
  int failure = errno;
  close(file);
  if (count < 0) {
    errno = failure;
    return -1;
  }
  text[count] = 0;
  const char *line = strstr(text, "\nUid:");
  unsigned found[3];
  if (line == NULL || sscanf(line, "\nUid: %u %u %u", &found[0], &found[1], &found[2]) != 3) {
    errno = EIO;
    return -1;
  }
  *real = found[0];
  *saved = found[2];
  return 0;
}

int process_users(int process, pid_t pid, uid_t *real, uid_t *saved) {
  struct process_info info = {.mask = PROCESS_INFO_CREDENTIALS};
  if (ioctl(process, PROCESS_INFO, &info) == 0 && info.mask & PROCESS_INFO_CREDENTIALS) {
    *real = info.ruid;
    *saved = info.suid;
    return 0;
  }
  // The kernel also fails, as if it had ended, for a process whose parent is in another pid namespace.
  int result = users_in_status(pid, real, saved), failure = errno;
  // The number was its own only if it has not ended by now.
  if (process_has_ended(process) != 0) {
    errno = ESRCH;
    return -1;
  }
  errno = failure;
  return result;
}

int process_has_ended(int process) {
  struct pollfd poller = {.fd = process, .events = POLLIN};
  int ready = poll(&poller, 1, 0);
  return ready < 0 ? -1 : ready > 0;
}

int process_watcher_create(void) { return epoll_create1(EPOLL_CLOEXEC); }

int process_watcher_add(int watcher, int process, uint64_t id) {
  struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = id};
  if (epoll_ctl(watcher, EPOLL_CTL_ADD, process, &event) == 0) return 0;
  // A process that it watches already gets the new id.
  return errno == EEXIST ? epoll_ctl(watcher, EPOLL_CTL_MOD, process, &event) : -1;
}

int process_watcher_wait(int watcher, uint64_t *ids, int max) {
  enum { batch = 64 };
  struct epoll_event events[batch];
  int count;
  do {
    count = epoll_wait(watcher, events, max < batch ? max : batch, -1);
  } while (count < 0 && errno == EINTR);
  for (int i = 0; i < count; i++) ids[i] = events[i].data.u64;
  return count;
}

int socket_unread_bytes(int socket) {
  int count = 0;
  return ioctl(socket, FIONREAD, &count) == 0 ? count : -1;
}

int standard_descriptors_open(int as_if_closed) {
  int closed = 0;
  for (int descriptor = 0; descriptor <= 2; descriptor++) {
    if (fcntl(descriptor, F_GETFD) >= 0) continue;
    // Opened in the direction that nobody uses: the other one fails.
    int flags = descriptor == 0 ? O_WRONLY : O_RDONLY;
    // The lowest free number is this one, because those below it are open.
    int opened = open("/dev/null", as_if_closed ? flags | O_CLOEXEC : O_RDWR);
    if (opened < 0) return -1;
    closed |= 1 << descriptor;
  }
  return closed;
}

int open_descriptors(int below) {
  int count = 0;
  for (int descriptor = 0; descriptor < below; descriptor++) count += fcntl(descriptor, F_GETFD) >= 0;
  return count;
}

int file_is_in_memory(int descriptor) {
  struct statfs status;
  if (fstatfs(descriptor, &status) != 0) return -1;
  return status.f_type == TMPFS_MAGIC || status.f_type == RAMFS_MAGIC;
}

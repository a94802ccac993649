// NIO asks epoll_wait for as many events as it has room for, doubles that room whenever it was full, and deals with all
// of them before it does anything else. So when a process with 12,000 connections ends, timers wait until thousands of
// them are closed, and whoever asks for something stands behind all of them in the kernel's list, which is first in,
// first out. NIO offers no way to bound either.
//
// This epoll_wait takes the place of the C library's for all that is linked into the program. It gives the loop few
// events at a time, and each user a share of them: timers are looked at between two times, and one user's events do not
// wait for those of another one's thousands of connections. Of a connection whose other side has ended NIO reads all that
// is unread, however little it reads of others at a time: of these it is given as many as have some bytes together.

#define _GNU_SOURCE
#include "CEventLoop.h"

#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum {
  // Times without a look at the crowd behind the first events, once it was seen whole. A look costs about 0.1 µs for
  // each event; so few times take less than 10 ms.
  TIMES_BETWEEN_LOOKS = 7,
  USERS_KNOWN = 1 << 16,
};

static _Thread_local int has_shares;

// One loop has shares, so one thread uses these.
static struct {
  uint64_t data;
  uint16_t user;
} known[USERS_KNOWN];
static struct epoll_event seen[EVENTS_SEEN_MAX];
static uint16_t users[EVENTS_SEEN_MAX];
static int times_until_look;

void event_shares_begin(void) { has_shares = 1; }

// Whose an event is: the user at the other end of a Unix socket. Two users may share a number, and then a share; what
// is no Unix socket has one, too. NIO's data of an event ends with the descriptor, and is another one for each
// connection.
static uint16_t user_of(uint64_t data) {
  unsigned index = (uint32_t)data % USERS_KNOWN;
  if (known[index].data != data) {
    struct ucred peer = {.uid = (uid_t)-1};
    socklen_t length = sizeof(peer);
    getsockopt((int)(uint32_t)data, SOL_SOCKET, SO_PEERCRED, &peer, &length);
    known[index].data = data;
    known[index].user = peer.uid % EVENT_USERS;
  }
  return known[index].user;
}

void events_take(
    const struct epoll_event *seen, const uint16_t *users, int count, struct epoll_event *taken, int room) {
  uint16_t counts[EVENT_USERS] = {0};
  int present = 0;
  for (int i = 0; i < count; i++) {
    if (counts[users[i]]++ == 0) present++;
  }
  int share = present < room ? room / present : 1;
  uint8_t is_taken[EVENTS_SEEN_MAX] = {0};
  memset(counts, 0, sizeof(counts));
  for (int i = 0; i < count && room > 0; i++) {
    if (counts[users[i]] == share) continue;
    counts[users[i]]++;
    is_taken[i] = 1;
    *taken++ = seen[i];
    room--;
  }
  for (int i = 0; i < count && room > 0; i++) {
    if (is_taken[i]) continue;
    *taken++ = seen[i];
    room--;
  }
}

int events_bound_bytes(struct epoll_event *events, int count) {
  long bytes = 0;
  int left = 0;
  for (int i = 0; i < count; i++) {
    if (events[i].events & EPOLLRDHUP) {
      int unread = 0;
      ioctl((int)(uint32_t)events[i].data.u64, FIONREAD, &unread);
      if (bytes > EVENTS_ENDED_BYTES_MAX && unread > EVENTS_ENDED_BYTES_FEW) continue;
      bytes += unread;
    }
    events[left++] = events[i];
  }
  return left;
}

// Events in their order of arrival, or where there is a crowd, by shares.
static int wait_for_events(int watcher, struct epoll_event *events, int max, int timeout) {
  if (times_until_look > 0) {
    times_until_look--;
    return epoll_pwait(watcher, events, max, timeout, NULL);
  }
  int count = epoll_pwait(watcher, seen, EVENTS_SEEN_MAX, timeout, NULL);
  if (count <= max) {
    if (count > 0) memcpy(events, seen, (size_t)count * sizeof(*events));
    return count;
  }
  if (count < EVENTS_SEEN_MAX) times_until_look = TIMES_BETWEEN_LOOKS;
  for (int i = 0; i < count; i++) users[i] = user_of(seen[i].data.u64);
  // Those that are not taken keep their order; the kernel moves them behind those that it has not shown, and behind one
  // that comes while it shows them.
  events_take(seen, users, count, events, max);
  return max;
}

int epoll_wait(int watcher, struct epoll_event *events, int max, int timeout) {
  if (!has_shares) return epoll_pwait(watcher, events, max, timeout, NULL);
  int count = wait_for_events(watcher, events, max > EVENTS_TAKEN_MAX ? EVENTS_TAKEN_MAX : max, timeout);
  return count > 0 ? events_bound_bytes(events, count) : count;
}

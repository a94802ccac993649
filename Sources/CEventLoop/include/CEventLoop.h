#pragma once
// Which of the events that are ready the event loop is given, and how many at a time.

#include <stdint.h>
#include <sys/epoll.h>

/// The most events that a loop with shares is given at a time.
#define EVENTS_TAKEN_MAX 64

/// The most events that are looked at for those.
#define EVENTS_SEEN_MAX 2048

/// The most unread bytes of connections that the other side has ended, in the events that the loop is given at a time.
/// NIO reads all of them before it does anything else. The last of these connections may have more.
#define EVENTS_ENDED_BYTES_MAX (256 << 10)

/// An ended connection with up to so many unread bytes does not wait for those with more.
#define EVENTS_ENDED_BYTES_FEW 1024

/// How many users are told apart; more share the shares.
#define EVENT_USERS 4096

/// From now on epoll_wait gives this thread at most EVENTS_TAKEN_MAX events at a time, and each user a share of them.
/// For a loop of NIO whose descriptors are registered level-triggered: what it is not given it is told of again.
void event_shares_begin(void);

/// Takes `room` of `count` events (at most EVENTS_SEEN_MAX; more than `room`), each user's share first. The events of a
/// user are taken in their order: whoever asked first is served first. Only who asks in the very moment in which the
/// kernel shows a crowd may come before those of it that are not taken yet.
///
/// - Parameter users: whose each event is, below EVENT_USERS.
void events_take(
    const struct epoll_event *seen, const uint16_t *users, int count, struct epoll_event *taken, int room);

/// Leaves out ended connections that have more unread bytes than one time has room for: they are told of again.
///
/// - Returns: how many events are left, at the beginning of `events` and in their order.
int events_bound_bytes(struct epoll_event *events, int count);

#pragma once
// Which of the events that are ready the event loop is given, and how many at a time.

#include <stdint.h>
#include <sys/epoll.h>

/// The most events that a loop with shares is given at a time.
#define EVENTS_TAKEN_MAX 64

/// The most events that are looked at for those.
#define EVENTS_SEEN_MAX 2048

/// How many users are told apart; more share the shares.
#define EVENT_USERS 4096

/// From now on epoll_wait gives this thread at most EVENTS_TAKEN_MAX events at a time, and each user a share of them.
/// For a loop of NIO whose descriptors are registered level-triggered: what it is not given it is told of again.
void event_shares_begin(void);

/// Takes `room` of `count` events (at most EVENTS_SEEN_MAX; more than `room`), each user's share first. The events of a
/// user are taken in their order: whoever asked first is served first.
///
/// - Parameter users: whose each event is, below EVENT_USERS.
void events_take(
    const struct epoll_event *seen, const uint16_t *users, int count, struct epoll_event *taken, int room);

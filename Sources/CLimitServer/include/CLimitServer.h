#pragma once
// The fastest lock service there could be behind a socket: it speaks the daemon's protocol for the lines that the
// benchmark sends, and parses, checks and stores nothing. What the daemon needs beyond it is the daemon's own.

/// A socket that listens at `path`; -1 with errno when there is none.
int limit_server_listen(const char *path);

/// Serves two listening sockets until there is something to read at `end`. At `each` every acquire is granted at once;
/// the clients of `one` have one lock in common and are served in their order.
///
/// - Returns: 0, or -1 with errno when it cannot go on.
int limit_server_run(int each, int one, int end);

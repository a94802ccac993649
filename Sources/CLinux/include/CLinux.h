#pragma once
// What Linux has and Swift's Glibc module does not show.

#include <spawn.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/// The process at the other end of a Unix socket, as the kernel knew it when it connected (struct ucred).
struct peer_credentials {
  pid_t pid;
  uid_t uid;
  gid_t gid;
};

/// Has a process that is spawned with these actions begin in that directory.
int spawn_in_directory(posix_spawn_file_actions_t *actions, const char *path);

/// The environment of this process, NULL-terminated.
char **process_environment(void);

/// A timer on CLOCK_BOOTTIME that can be polled; -1 and errno on failure.
int boot_timer_create(void);

/// Fires once at this moment of the boot clock, in nanoseconds; 0 on success, -1 and errno on failure.
int boot_timer_set(int timer, int64_t nanoseconds);

/// Sends a datagram with a descriptor (-1 for none) to the Unix socket at a path, or to an abstract one if that begins
/// with `@`, without waiting; 0 on success, -1 and errno on failure.
int datagram_send(int socket, const char *path, const void *bytes, size_t count, int descriptor);

/// A memfd of that size, sealed against shrinking and growing; -1 and errno on failure.
int memory_file_create(const char *name, int64_t size);

/// The size of a memory file with those seals; -1 when it is anything else.
int64_t memory_file_size(int descriptor);

/// Stores `value` after everything that was stored before (a release store).
void store_in_order(void *address, uint64_t value);

/// SO_COOKIE: a number that no other socket has, the same in every process; 0 when the descriptor is no socket.
uint64_t socket_cookie(int descriptor);

/// Maps a memory file, to be read and written; NULL and errno on failure.
void *memory_file_map(int descriptor, int64_t size);

/// Removes the mapping.
void memory_file_unmap(void *address, int64_t size);

/// Gives the whole pages among these bytes of a mapped memory file back to the kernel; they then read as zero.
void memory_give_back(void *address, int64_t size);
/// The supplementary groups of the process at the other end of a Unix socket, as they were when it connected: how many
/// there are, of which at most `max` are written to `groups`; -1 and errno on failure.
int peer_groups(int socket, gid_t *groups, int max);

/// A pidfd of the process at the other end of a Unix socket (Linux 6.5); -1 and errno on failure, ENOPROTOOPT on a
/// kernel that does not offer it.
int peer_process(int socket);

/// A pidfd of the process that has this number now; -1 and errno on failure.
int process_open(pid_t pid);

/// Sends a signal to the process of a pidfd, which no other process can be mistaken for; with 0 only asks whether that
/// would be allowed. 0 on success, -1 and errno on failure.
int process_signal(int process, int signal);

/// The real and the saved user that a process has now, by its pidfd, or by its number where the kernel cannot be asked
/// that way (before Linux 6.13). 0 on success; -1 and errno on failure, ESRCH: it has ended.
int process_users(int process, pid_t pid, uid_t *real, uid_t *saved);

/// Whether the process of a pidfd has ended: 1 or 0; -1 and errno on failure.
int process_has_ended(int process);

/// A watcher (epoll) that waits for the end of processes; -1 and errno on failure.
int process_watcher_create(void);

/// Has a watcher report the end of a process once, as `id`, unless its pidfd is closed before. 0 on success, -1 and
/// errno on failure.
int process_watcher_add(int watcher, int process, uint64_t id);

/// Waits until a process has ended: how many have, of which at most `max` are written to `ids`; -1 and errno on
/// failure.
int process_watcher_wait(int watcher, uint64_t *ids, int max);

/// Bytes that have come on a socket and have not been read; -1 and errno on failure.
int socket_unread_bytes(int socket);

/// How many descriptors with a number below that one are open.
int open_descriptors(int below);

/// Opens /dev/null as each of the descriptors 0, 1 and 2 that is closed, so that no socket or file gets a number that
/// programs use without having opened it. With `as_if_closed` reading 0 and writing 1 and 2 fail with EBADF as before,
/// and an executed program finds them closed again; without it they take and give nothing. Call it before anything
/// opens a descriptor. Returns a bit (1 << descriptor) for each that was closed, or -1 with errno.
int standard_descriptors_open(int as_if_closed);

/// Has a crash, and a signal that stands for one, end this process at once. The Swift runtime would first stop every
/// thread by a signal, start a program that draws a backtrace, and wait for it: for seconds the sockets of a dead
/// process would look alive.
///
/// - Parameter ignored_too: whether a signal that was ignored at the start, as SIGQUIT is in the background of some
///   shells, ends the process as well.
void crashes_end_at_once(int ignored_too);

/// What the process is busy with, for ``aborts_tell_work``: words that last as long as the process, or NULL for nothing.
void work_begins(const char *words);

/// Has SIGABRT, by which a service manager ends a process that does not answer, write to standard error what the
/// process was busy with, and then end it as always. To be called after ``crashes_end_at_once``.
void aborts_tell_work(void);

/// Has SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1 and SIGUSR2 end process 1, with a status of 128 plus the signal: the
/// kernel does not deliver a signal with its default action to that process. Does nothing in other processes, and for
/// ignored signals.
void process_1_ends_by_signals(void);

/// Has the kernel reap each child of this process that has ended or will, such as the orphans of process 1. For a
/// program that waits for no child; SIGCHLD set to its default action ends it.
void orphans_bury_themselves(void);

/// Has process 1 do nothing but reap orphans, and go on in a child, whose exit status becomes its own: for a program
/// that waits for some children itself. Does nothing in other processes. The caller must have a single thread.
void process_1_stays_behind(void);

/// The first signal that neither the system nor the C library uses (SIGRTMIN).
int first_realtime_signal(void);

/// Ignores SIGXFSZ: a write beyond the limit of file sizes (RLIMIT_FSIZE) fails with EFBIG instead.
void file_size_limit_is_an_error(void);

/// Whether a file is kept in memory, and gone after a reboot: 1 or 0; -1 and errno on failure.
int file_is_in_memory(int descriptor);

/// Takes a blocked signal if it is pending; returns whether it was.
int take_pending_signal(int number);

/// How a program that was run has ended.
enum program_end_kind {
  /// By itself, or by a signal; ``program_end/status`` says how.
  PROGRAM_HAS_ENDED,
  /// It was never there; ``program_end/status`` is the error.
  PROGRAM_DID_NOT_START,
  /// It was killed when its time was over.
  PROGRAM_WAS_SLOW,
  /// It was killed when it had written more than was to be taken.
  PROGRAM_WROTE_TOO_MUCH,
};

/// What came of running a program.
struct program_end {
  enum program_end_kind kind;
  /// Its exit status, or 128 and the number of the signal; -1 where that is unknown.
  int status;
  size_t output_count;
  size_t words_count;
};

/// Runs the program at an absolute path, without arguments and input, in a process group of its own, whose processes are
/// killed afterwards. Blocks for up to `milliseconds_max`, and while another thread runs one. Takes up to `output_max` bytes
/// of its output, and the first `words_max` of its errors. No other thread may wait for children meanwhile.
void program_run(
    const char *path, char *const environment[], int64_t milliseconds_max, uint8_t *output, size_t output_max,
    uint8_t *words, size_t words_max, struct program_end *end);

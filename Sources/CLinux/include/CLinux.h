#pragma once
// What Linux has and Swift's Glibc module does not show.

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/// The process at the other end of a Unix socket, as the kernel knew it when it connected (struct ucred).
struct peer_credentials {
  pid_t pid;
  uid_t uid;
  gid_t gid;
};

/// The environment of this process, NULL-terminated.
char **process_environment(void);

/// A timer on CLOCK_BOOTTIME that can be polled; -1 and errno on failure.
int boot_timer_create(void);

/// Fires once at this moment of the boot clock, in nanoseconds; 0 on success, -1 and errno on failure.
int boot_timer_set(int timer, int64_t nanoseconds);

/// Sends a datagram with a descriptor (or none: -1) to the Unix socket of that path, `@` at its beginning standing for an
/// abstract one, without waiting; 0 on success, -1 and errno on failure.
int datagram_send(int socket, const char *path, const void *bytes, size_t count, int descriptor);

/// A memory file of that size that can neither shrink nor grow; -1 and errno on failure.
int memory_file_create(const char *name, int64_t size);

/// The size of a memory file that can neither shrink nor grow; -1 when it is anything else.
int64_t memory_file_size(int descriptor);

/// Stores `value`, not before everything that was stored earlier.
void store_in_order(void *address, uint64_t value);

/// A number that no other socket has, the same in every process; 0 when the descriptor is no socket.
uint64_t socket_cookie(int descriptor);

/// Maps a memory file, to be read and written; NULL and errno on failure.
void *memory_file_map(int descriptor, int64_t size);

/// Removes the mapping.
void memory_file_unmap(void *address, int64_t size);

/// Gives the whole pages among these bytes of a mapped memory file back to the kernel: they read as zero.
void memory_give_back(void *address, int64_t size);
/// The supplementary groups of the process at the other end of a Unix socket, as they were when it connected: how many
/// there are, of which at most `max` are written to `groups`; -1 and errno on failure.
int peer_groups(int socket, gid_t *groups, int max);

/// A descriptor of the process at the other end of a Unix socket (Linux 6.5); -1 and errno on failure, ENOPROTOOPT on
/// a kernel that does not offer it.
int peer_process(int socket);

/// A descriptor of the process that has this number now; -1 and errno on failure.
int process_open(pid_t pid);

/// Sends a signal to the process of a descriptor, which no other process can be mistaken for; with 0 only asks whether
/// that would be allowed. 0 on success, -1 and errno on failure.
int process_signal(int process, int signal);

/// The users that a process has now as its real and its saved one, by its descriptor, and where the kernel cannot be asked
/// like that (before Linux 6.13) by its number. 0 on success; -1 and errno on failure, ESRCH: it has ended.
int process_users(int process, pid_t pid, uid_t *real, uid_t *saved);

/// Whether the process of a descriptor has ended: 1 or 0; -1 and errno on failure.
int process_has_ended(int process);

/// Something that waits for the end of processes; -1 and errno on failure.
int process_watcher_create(void);

/// Has a watcher wait for the end of a process, told once under `id`, until the descriptor is closed. 0 on success, -1
/// and errno on failure.
int process_watcher_add(int watcher, int process, uint64_t id);

/// Waits until a process has ended: how many have, of which at most `max` are written to `ids`; -1 and errno on
/// failure.
int process_watcher_wait(int watcher, uint64_t *ids, int max);

/// Bytes that have come on a socket and have not been read; -1 and errno on failure.
int socket_unread_bytes(int socket);

/// How many descriptors with a number below that one are open.
int open_descriptors(int below);

/// Opens each of the descriptors 0, 1 and 2 that is closed on /dev/null, so that no socket and no file gets a number that
/// programs read from and write to without having opened it. With `as_if_closed` reading 0 and writing 1 and 2 fail with
/// EBADF as before, and they are closed again in a program that is executed; without it they take and give nothing. Call
/// it before anything opens a descriptor. Returns a bit (1 << descriptor) for each that was closed, or -1 with errno.
int standard_descriptors_open(int as_if_closed);

/// Has a crash, and a signal that stands for one, end this process at once. The Swift runtime would first stop every
/// thread by a signal, start a program that draws a backtrace, and wait for it: for seconds the sockets of a process that
/// is dead would look alive.
///
/// - Parameter ignored_too: whether a signal that was ignored at the start, as SIGQUIT is in the background of some
///   shells, ends the process as well.
void crashes_end_at_once(int ignored_too);

/// What the process is busy with, for ``aborts_tell_work``: words that last as long as the process, or NULL for nothing.
void work_begins(const char *words);

/// Has SIGABRT, by which a service manager ends a process that does not answer, write to the standard error output what
/// the process was busy with, before it ends as it always does. To be called after ``crashes_end_at_once``.
void aborts_tell_work(void);

/// Has SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1 and SIGUSR2 end process 1, with a status of 128 and the signal, as they
/// end any other: from that one the kernel keeps a signal that has only its default action. In other processes, and for
/// signals that are ignored, it does nothing.
void process_1_ends_by_signals(void);

/// Has the kernel bury each child of this process that has ended or will, as all orphans are that of process 1. For a
/// program that waits for no child; SIGCHLD set to its default action ends it.
void orphans_bury_themselves(void);

/// Has process 1 do nothing but bury orphans, and go on in a child, whose exit status becomes its own: for a program that
/// waits for some children itself. In other processes it does nothing. Whoever calls it must have a single thread.
void process_1_stays_behind(void);

/// The first signal that neither the system nor the C library has a use for (SIGRTMIN).
int first_realtime_signal(void);

/// Has a write beyond the limit of file sizes (RLIMIT_FSIZE) fail with EFBIG, as one to a full disk fails, and not end the
/// process by SIGXFSZ.
void file_size_limit_is_an_error(void);

/// Takes a blocked signal that has come already; whether it had.
int take_pending_signal(int number);

#ifndef SIDELOCK_CSUPERVISE_H
#define SIDELOCK_CSUPERVISE_H

// What `sidelock run` needs around fork(2), which Swift cannot express, and a few headers that Swift's module of the C
// library leaves out. A caller of a function that forks must have a single thread.

#include <spawn.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/types.h>

/// Starts a guard: a process that outlives a SIGKILL of the caller. When the caller ends without
/// `supervise_guard_dismiss`, the guard sends SIGKILL to the command's process group and ends when that is empty. Until
/// then it keeps `lock_socket` open, and with it the lock.
///
/// `channel` is set to the descriptor that ties the caller to the guard (close-on-exec).
/// Returns the guard's process id, or -1 with errno.
pid_t supervise_guard_start(int lock_socket, int *channel);

/// Tells the guard to end without killing anything, and waits for its end.
void supervise_guard_dismiss(pid_t guard, int channel);

/// Starts `arguments` (NULL-terminated, looked up in PATH) as the leader of a process group of its own, with the
/// signal mask `mask` and the dispositions that the caller inherited (SIGCHLD: the default). The kernel kills it when
/// the caller dies. It reports itself to the guard behind `channel` (-1 for none) before the command begins. With
/// `terminal` >= 0 its group becomes the foreground group of that terminal.
///
/// Returns the process id, or -1: then `*failed_exec` says whether errno comes from execvp.
pid_t supervise_spawn(
    char *const arguments[], const sigset_t *mask, int channel, int terminal, int *failed_exec);

/// Blocks the signals that `sidelock run` handles, and stores the mask that was in force before in `previous`.
/// Returns a signalfd (non-blocking, close-on-exec) that reports them, or -1 with errno.
int supervise_signals(sigset_t *previous);

/// Blocks SIGTSTP, SIGTTIN and SIGTTOU, and stores the mask that was in force before in `previous`. Returns a signalfd
/// (non-blocking, close-on-exec) that reports them, or -1 with errno.
int supervise_stop_signals(sigset_t *previous);

/// Whether this process was started with that signal ignored. One that is blocked is reported all the same.
int supervise_is_ignored(int signal);

/// Whether SIGTSTP, SIGTTIN and SIGTTOU stop the caller at all. They do not where nobody could continue it: in an
/// orphaned process group, and as process 1. A child tries it out.
int supervise_can_be_stopped(void);

/// Stops the caller by `signal` (SIGTSTP, SIGTTIN or SIGTTOU) with its default action, or with `whole_group` its process
/// group, as the terminal would. Returns when continued, or at once when it cannot be stopped or a SIGCONT is pending.
void supervise_stop(int signal, int whole_group);

/// Has a process that is spawned with these actions inherit no descriptor but the standard three.
void supervise_close_others(posix_spawn_file_actions_t *actions);

/// Ignores SIGXFSZ: a write beyond the limit of file sizes (RLIMIT_FSIZE) fails with EFBIG. `supervise_spawn` gives the
/// command the disposition that the caller inherited.
void supervise_ignore_file_size_signal(void);

/// Ends the caller by `signal`, with its default action and without a core file. Returns only if that was impossible.
void supervise_die_of(int signal);

/// The parent of a process; 0 where it has none here, or is not known.
pid_t supervise_parent(pid_t process);

/// Closes every descriptor but the standard three and `kept`; -1 for none. To be called before anything is opened.
void supervise_keep_only(int kept);

/// Splits the caller. Returns the child's id, 0 in the child, -1 with errno. The child leads a session of its own, which no
/// terminal reaches; the null device is its standard input and output. It is killed when the caller ends before
/// `supervise_stay_behind`.
pid_t supervise_split(void);

/// Lets such a child live on when its parent ends.
void supervise_stay_behind(void);

/// What became of a process.
enum supervise_change {
  supervise_unchanged = 0,
  /// It ended by itself; the status is its exit status.
  supervise_exited = 1,
  /// A signal ended it; the status is the signal.
  supervise_killed = 2,
  /// A signal stopped it; the status is the signal.
  supervise_stopped = 3
};

/// What became of the child `process` since the last call. The end is reported again and again: the child is not
/// reaped, so that neither its id nor that of its group can be used anew.
enum supervise_change supervise_child_change(pid_t process, int *status);

/// Reaps every child of the caller that has ended, except `command`. `*guard` becomes -1 when it is among them.
void supervise_reap_others(pid_t command, pid_t *guard);

/// Whether a process of `group` is left that is no zombie; 1 also when that cannot be found out.
int supervise_group_alive(pid_t group);

/// Milliseconds on CLOCK_BOOTTIME, which goes on while the host is suspended.
int64_t supervise_boot_milliseconds(void);

#endif

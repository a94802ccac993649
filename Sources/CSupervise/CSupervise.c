#define _GNU_SOURCE
#include "CSupervise.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// Messages to the guard are one 32-bit number each: a process group to guard, or this farewell.
static const int32_t guard_farewell = 0;

static void close_range_or_each(unsigned first, unsigned last) {
  if (first > last) return;
  if (syscall(SYS_close_range, first, last, 0) == 0) return;
  // A kernel before 5.9, or a sandbox without the call.
  struct rlimit limit;
  unsigned bound = 65536;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < bound) bound = (unsigned)limit.rlim_cur;
  for (unsigned fd = first; fd <= last && fd < bound; fd++) close((int)fd);
}

static void close_all_but(int a, int b) {
  unsigned low = (unsigned)(a < b ? a : b), high = (unsigned)(a < b ? b : a);
  if (low > 0) close_range_or_each(0, low - 1);
  if (low + 1 < high) close_range_or_each(low + 1, high - 1);
  close_range_or_each(high + 1, ~0U);
}

static void sleep_milliseconds(long milliseconds) {
  struct timespec time = {.tv_sec = milliseconds / 1000, .tv_nsec = (milliseconds % 1000) * 1000000};
  nanosleep(&time, NULL);
}

static void guard_main(int channel) {
  int32_t group = 0, message = 0;
  for (;;) {
    ssize_t count = read(channel, &message, sizeof message);
    if (count < 0 && errno == EINTR) continue;
    if (count != (ssize_t)sizeof message) break;
    if (message == guard_farewell) _exit(0);
    group = message;
  }
  if (group <= 1) _exit(0);
  // The lock is kept while a process of the group is left, but not for ever: one may hang in the kernel.
  for (int round = 0; round < 1000; round++) {
    if (kill(-group, SIGKILL) != 0 && errno == ESRCH) break;
    if (!supervise_group_alive(group)) break;
    sleep_milliseconds(round < 50 ? 1 : 10);
  }
  _exit(0);
}

pid_t supervise_guard_start(int lock_socket, int *channel) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return -1;
  pid_t guard = fork();
  if (guard < 0) {
    int reason = errno;
    close(ends[0]);
    close(ends[1]);
    errno = reason;
    return -1;
  }
  if (guard == 0) {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    // Out of reach of a kill of the caller's process group.
    setsid();
    prctl(PR_SET_NAME, "sidelock-guard");
    close_all_but(ends[0], lock_socket);
    guard_main(ends[0]);
  }
  close(ends[0]);
  *channel = ends[1];
  return guard;
}

void supervise_guard_dismiss(pid_t guard, int channel) {
  ssize_t count;
  do count = write(channel, &guard_farewell, sizeof guard_farewell);
  while (count < 0 && errno == EINTR);
  while (waitpid(guard, NULL, 0) < 0 && errno == EINTR) {
  }
}

static const int handled_signals[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGTERM, SIGUSR1,  SIGUSR2,
                                      SIGCONT, SIGTSTP, SIGTTIN, SIGTTOU, SIGWINCH, SIGCHLD};
enum { handled_count = sizeof handled_signals / sizeof handled_signals[0] };
// The dispositions of SIGPIPE and SIGXFSZ that this process inherited, for the command.
static void (*inherited_sigpipe)(int) = SIG_DFL;
static void (*inherited_sigxfsz)(int) = SIG_DFL;

void supervise_ignore_file_size_signal(void) { inherited_sigxfsz = signal(SIGXFSZ, SIG_IGN); }

static void exec_command(char *const arguments[], const sigset_t *mask, int channel, int terminal, pid_t parent) {
  pid_t self = getpid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(125);
  setpgid(0, 0);
  if (channel >= 0) {
    int32_t message = self;
    ssize_t count;
    do count = write(channel, &message, sizeof message);
    while (count < 0 && errno == EINTR);
  }
  // SIGTTOU is still blocked here, as it must be for tcsetpgrp from the background.
  if (terminal >= 0) tcsetpgrp(terminal, self);
  if (inherited_sigpipe != SIG_ERR) signal(SIGPIPE, inherited_sigpipe);
  if (inherited_sigxfsz != SIG_ERR) signal(SIGXFSZ, inherited_sigxfsz);
  sigprocmask(SIG_SETMASK, mask, NULL);
  execvp(arguments[0], arguments);
}

pid_t supervise_spawn(
    char *const arguments[], const sigset_t *mask, int channel, int terminal, int *failed_exec) {
  *failed_exec = 0;
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) return -1;
  pid_t parent = getpid();
  pid_t child = fork();
  if (child == 0) {
    exec_command(arguments, mask, channel, terminal, parent);
    int reason = errno;
    ssize_t count;
    do count = write(report[1], &reason, sizeof reason);
    while (count < 0 && errno == EINTR);
    _exit(reason == ENOENT ? 127 : 126);
  }
  int reason = errno;
  close(report[1]);
  if (child > 0) {
    // Parent and child both do it: either may run first.
    setpgid(child, child);
    ssize_t count;
    do count = read(report[0], &reason, sizeof reason);
    while (count < 0 && errno == EINTR);
    if (count == (ssize_t)sizeof reason) {
      *failed_exec = 1;
      // Not reaped, so that the guard, which was told of it, cannot meet another process of this id.
      child = -1;
    }
  }
  close(report[0]);
  errno = reason;
  return child;
}

int supervise_signals(sigset_t *previous) {
  sigset_t mask;
  sigemptyset(&mask);
  for (int i = 0; i < handled_count; i++) sigaddset(&mask, handled_signals[i]);
  // SIGTTOU among them: while it is blocked, the kernel lets this process hand the terminal over from the background.
  int fd = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
  if (fd < 0) return -1;
  if (sigprocmask(SIG_BLOCK, &mask, previous) != 0) {
    close(fd);
    return -1;
  }
  inherited_sigpipe = signal(SIGPIPE, SIG_IGN);
  // An ignored SIGCHLD, as some parents leave it, would lose the command's exit status.
  signal(SIGCHLD, SIG_DFL);
  return fd;
}

int supervise_stop_signals(sigset_t *previous) {
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGTSTP);
  sigaddset(&mask, SIGTTIN);
  sigaddset(&mask, SIGTTOU);
  int fd = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
  if (fd < 0) return -1;
  if (sigprocmask(SIG_BLOCK, &mask, previous) != 0) {
    close(fd);
    return -1;
  }
  return fd;
}

static void take_default_action(int number) {
  sigset_t only, previous;
  sigemptyset(&only);
  sigaddset(&only, number);
  sigprocmask(SIG_UNBLOCK, &only, &previous);
  sigprocmask(SIG_SETMASK, &previous, NULL);
}

int supervise_is_ignored(int number) {
  struct sigaction found;
  return sigaction(number, NULL, &found) == 0 && found.sa_handler == SIG_IGN;
}

int supervise_can_be_stopped(void) {
  // The kernel keeps such signals from process 1.
  if (getpid() == 1) return 0;
  pid_t parent = getpid();
  pid_t probe = fork();
  if (probe < 0) return 0;
  if (probe == 0) {
    // It has a copy of the connection, which must not outlive the parent.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(0);
    signal(SIGTSTP, SIG_DFL);
    kill(getpid(), SIGTSTP);
    take_default_action(SIGTSTP);
    _exit(0);
  }
  int status = 0;
  pid_t found;
  do found = waitpid(probe, &status, WUNTRACED);
  while (found < 0 && errno == EINTR);
  if (found != probe || !WIFSTOPPED(status)) return 0;
  kill(probe, SIGKILL);
  while (waitpid(probe, NULL, 0) < 0 && errno == EINTR) {
  }
  return 1;
}

void supervise_keep_only(int kept) {
  if (kept > STDERR_FILENO) close_range_or_each(STDERR_FILENO + 1, (unsigned)kept - 1);
  close_range_or_each((unsigned)(kept > STDERR_FILENO ? kept : STDERR_FILENO) + 1, ~0U);
}

void supervise_close_others(posix_spawn_file_actions_t *actions) {
  posix_spawn_file_actions_addclosefrom_np(actions, STDERR_FILENO + 1);
}

void supervise_stop(int number, int whole_group) {
  sigset_t pending;
  signal(number, SIG_DFL);
  // SIGCONT came after the signal to stop; sending that again would discard it.
  if (sigpending(&pending) == 0 && sigismember(&pending, SIGCONT) == 1) return;
  kill(whole_group ? 0 : getpid(), number);
  take_default_action(number);
}

void supervise_die_of(int number) {
  struct rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
  sigset_t only;
  sigemptyset(&only);
  sigaddset(&only, number);
  signal(number, SIG_DFL);
  kill(getpid(), number);
  sigprocmask(SIG_UNBLOCK, &only, NULL);
}

int64_t supervise_boot_milliseconds(void) {
  struct timespec time = {0, 0};
  clock_gettime(CLOCK_BOOTTIME, &time);
  return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

enum supervise_change supervise_child_change(pid_t process, int *status) {
  siginfo_t info;
  memset(&info, 0, sizeof info);
  if (waitid(P_PID, (id_t)process, &info, WEXITED | WNOWAIT | WNOHANG) == 0 && info.si_pid == process) {
    *status = info.si_status;
    return info.si_code == CLD_EXITED ? supervise_exited : supervise_killed;
  }
  memset(&info, 0, sizeof info);
  if (waitid(P_PID, (id_t)process, &info, WSTOPPED | WNOHANG) == 0 && info.si_pid == process) {
    *status = info.si_status;
    return supervise_stopped;
  }
  return supervise_unchanged;
}

// The fields of /proc/<process>/stat that are used here.
struct process_stat {
  char state;
  pid_t parent, group;
};

// Whether it could be read.
static int read_stat(const char *process, struct process_stat *found) {
  char path[64], text[512];
  snprintf(path, sizeof path, "/proc/%.20s/stat", process);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  ssize_t count = read(fd, text, sizeof text - 1);
  close(fd);
  if (count <= 0) return 0;
  text[count] = 0;
  // The name stands in parentheses and may hold any character.
  const char *rest = strrchr(text, ')');
  return rest != NULL && sscanf(rest + 1, " %c %d %d", &found->state, &found->parent, &found->group) == 3;
}

pid_t supervise_parent(pid_t process) {
  char name[16];
  struct process_stat found;
  snprintf(name, sizeof name, "%d", (int)process);
  return read_stat(name, &found) ? found.parent : 0;
}

static int is_process(const struct dirent *entry) { return entry->d_name[0] >= '1' && entry->d_name[0] <= '9'; }

// Whether /proc is that of this pid namespace: a new namespace may still see the old /proc, with other numbers.
static int proc_is_ours(void) {
  char text[32];
  ssize_t count = readlink("/proc/self", text, sizeof text - 1);
  if (count <= 0) return 0;
  text[count] = 0;
  return atol(text) == (long)getpid();
}

int supervise_group_alive(pid_t group) {
  // Zombies count as alive here.
  if (!proc_is_ours()) return kill(-group, 0) == 0 || errno != ESRCH;
  DIR *directory = opendir("/proc");
  if (directory == NULL) return 1;
  int alive = 0;
  struct dirent *entry;
  struct process_stat found;
  while (!alive && (entry = readdir(directory)) != NULL) {
    alive = is_process(entry) && read_stat(entry->d_name, &found) && found.group == group && found.state != 'Z' &&
            found.state != 'X';
  }
  closedir(directory);
  return alive;
}

static void bury(pid_t process, pid_t *guard) {
  if (waitpid(process, NULL, WNOHANG) == process && process == *guard) *guard = -1;
}

// Finds further zombies in /proc: waitid reports only the first child that has ended, which is the command until it is
// reaped.
static void bury_behind(pid_t command, pid_t *guard) {
  if (!proc_is_ours()) return;
  DIR *directory = opendir("/proc");
  if (directory == NULL) return;
  struct dirent *entry;
  struct process_stat found;
  while ((entry = readdir(directory)) != NULL) {
    pid_t process = is_process(entry) ? (pid_t)atol(entry->d_name) : 0;
    if (process <= 0 || process == command || !read_stat(entry->d_name, &found)) continue;
    if (found.parent == getpid() && found.state == 'Z') bury(process, guard);
  }
  closedir(directory);
}

void supervise_reap_others(pid_t command, pid_t *guard) {
  for (;;) {
    siginfo_t info;
    memset(&info, 0, sizeof info);
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) return;
    if (info.si_pid == command) return bury_behind(command, guard);
    bury(info.si_pid, guard);
  }
}

pid_t supervise_split(void) {
  pid_t parent = getpid();
  pid_t child = fork();
  if (child != 0) return child;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  setsid();
  int null = open("/dev/null", O_RDWR);
  if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0) _exit(1);
  if (null > STDERR_FILENO) close(null);
  return 0;
}

void supervise_stay_behind(void) {
  prctl(PR_SET_PDEATHSIG, 0);
  // A file system can be taken away meanwhile.
  if (chdir("/") != 0) return;
}

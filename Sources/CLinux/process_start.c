#define _GNU_SOURCE
#include "CLinux.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

void crashes_end_at_once(int ignored_too) {
  // The signals of a fault, and those that are sent to see where a program stands.
  static const int crashes[] = {SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS};
  sigset_t set;
  sigemptyset(&set);
  for (unsigned i = 0; i < sizeof crashes / sizeof crashes[0]; i++) {
    struct sigaction found;
    int is_ignored = sigaction(crashes[i], NULL, &found) == 0 && found.sa_handler == SIG_IGN;
    if (is_ignored && !ignored_too) continue;
    sigaddset(&set, crashes[i]);
    signal(crashes[i], SIG_DFL);
  }
  sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static const char *volatile work_under_way;

void work_begins(const char *words) { work_under_way = words; }

static void tell_work(int number) {
  static const char begin[] = "sidelockd: ended by SIGABRT, as by a watchdog; its event loop was busy with: ";
  const char *words = work_under_way ? work_under_way : "nothing, it was waiting";
  struct iovec parts[] = {{(void *)begin, sizeof begin - 1}, {(void *)words, strlen(words)}, {"\n", 1}};
  // Nobody may be reading; what matters is to die.
  struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
  if (poll(&out, 1, 0) == 1 && (out.revents & POLLOUT)) (void)!writev(STDERR_FILENO, parts, 3);
  signal(number, SIG_DFL);
  raise(number);
}

void aborts_tell_work(void) {
  struct sigaction action = {.sa_handler = tell_work, .sa_flags = SA_NODEFER};
  sigemptyset(&action.sa_mask);
  sigaction(SIGABRT, &action, NULL);
}

static void end_by_signal(int number) { _exit(128 + number); }

void process_1_ends_by_signals(void) {
  static const int ends[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
  if (getpid() != 1) return;
  for (unsigned i = 0; i < sizeof ends / sizeof ends[0]; i++) {
    struct sigaction found;
    if (sigaction(ends[i], NULL, &found) == 0 && found.sa_handler == SIG_DFL) signal(ends[i], end_by_signal);
  }
}

void orphans_bury_themselves(void) {
  signal(SIGCHLD, SIG_IGN);
  // Children that ended before the signal was ignored.
  while (waitpid(-1, NULL, WNOHANG) > 0) {
  }
}

void process_1_stays_behind(void) {
  if (getpid() != 1) return;
  pid_t child = fork();
  // If fork fails the process goes on by itself, and orphans stay zombies.
  if (child <= 0) return;
  for (;;) {
    int status;
    pid_t found = waitpid(-1, &status, 0);
    if (found < 0 && errno != EINTR) _exit(1);
    if (found == child) _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  }
}

void file_size_limit_is_an_error(void) { signal(SIGXFSZ, SIG_IGN); }

int first_realtime_signal(void) { return SIGRTMIN; }

int take_pending_signal(int number) {
  sigset_t only;
  sigemptyset(&only);
  sigaddset(&only, number);
  static const struct timespec at_once = {0, 0};
  int found;
  do {
    found = sigtimedwait(&only, NULL, &at_once);
  } while (found < 0 && errno == EINTR);
  return found == number;
}

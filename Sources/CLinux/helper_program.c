#define _GNU_SOURCE
#include "CLinux.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// The disposition of SIGCHLD belongs to the process, so one program runs at a time.
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
// The one that runs; 0: none does.
static _Atomic pid_t running = 0;

// Ends what the program has started, too, when this process exits.
__attribute__((destructor)) static void end_with_this_process(void) {
  pid_t child = running;
  if (child > 0) kill(-child, SIGKILL);
}

static int64_t now_milliseconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

// In the child: writes to `report` why the program cannot be started. It closes when the program has been.
static void become(const char *path, char *const environment[], int out, int err, int report, pid_t parent) {
  // Nobody else would end a program that hangs when this process is killed. It is the thread that counts, and it waits for the program.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
  // A group of its own can be ended whole.
  setpgid(0, 0);
  // The daemon ignores and blocks signals that a program expects to end by.
  for (int number = 1; number < _NSIG; number++) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  int in = open("/dev/null", O_RDONLY);
  if (in >= 0 && dup2(in, STDIN_FILENO) >= 0 && dup2(out, STDOUT_FILENO) >= 0 && dup2(err, STDERR_FILENO) >= 0) {
    const int kept = STDERR_FILENO + 1;
    if (report != kept && dup3(report, kept, O_CLOEXEC) == kept) report = kept;
    // What a service manager has handed over is not for it.
    if (report == kept) closefrom(kept + 1);
    char *const arguments[] = {(char *)path, NULL};
    if (report == kept) execve(path, arguments, environment);
  }
  int error = errno;
  ssize_t written = write(report, &error, sizeof error);
  (void)written;
}

static int start(pid_t *child, const char *path, char *const environment[], int out, int err) {
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) return errno;
  sigset_t all, before;
  sigfillset(&all);
  // No handler of this process runs in its child, which has its memory.
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pid_t parent = getpid();
  pid_t found = vfork();
  if (found == 0) {
    become(path, environment, out, err, report[1], parent);
    _exit(127);
  }
  int error = found < 0 ? errno : 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  close(report[1]);
  if (found > 0) {
    ssize_t got;
    // Not by its memory: a sanitizer makes a fork of a vfork.
    do got = read(report[0], &error, sizeof error);
    while (got < 0 && errno == EINTR);
    if (got > 0) waitpid(found, NULL, 0);
  }
  close(report[0]);
  *child = found;
  return error;
}

// Takes what has come: 0 at the end of the stream, 1 if there may be more, 2 if there is more than fits.
static int take(int descriptor, uint8_t *bytes, size_t max, size_t *count, int may_overflow) {
  uint8_t spare[512];
  for (;;) {
    int is_full = *count == max;
    ssize_t got = read(descriptor, is_full ? spare : bytes + *count, is_full ? sizeof spare : max - *count);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno == EAGAIN;
    if (got == 0) return 0;
    if (is_full && !may_overflow) return 2;
    if (!is_full) *count += (size_t)got;
    if (is_full) return 1;
  }
}

static void follow(
    pid_t child, int out, int err, int64_t milliseconds_max, uint8_t *output, size_t output_max, uint8_t *words,
    size_t words_max, struct program_end *end) {
  int64_t deadline = now_milliseconds() + milliseconds_max;
  struct pollfd streams[3] = {
      {.fd = out, .events = POLLIN}, {.fd = err, .events = POLLIN}, {.fd = process_open(child), .events = POLLIN}};
  end->kind = PROGRAM_HAS_ENDED;
  // The end of the program counts, not that of what it has left behind with the same streams.
  while (streams[0].fd >= 0 || streams[1].fd >= 0 || streams[2].fd >= 0) {
    int64_t left = deadline - now_milliseconds();
    if (left <= 0) {
      end->kind = PROGRAM_WAS_SLOW;
      break;
    }
    if (poll(streams, 3, (int)left) < 0 && errno != EINTR) break;
    int has_ended = streams[2].fd >= 0 && (streams[2].revents & POLLIN);
    int state = streams[0].fd < 0 ? 0 : take(out, output, output_max, &end->output_count, 0);
    if (state == 2) {
      end->kind = PROGRAM_WROTE_TOO_MUCH;
      break;
    }
    if (state == 0) streams[0].fd = -1;
    if (streams[1].fd >= 0 && take(err, words, words_max, &end->words_count, 1) == 0) streams[1].fd = -1;
    if (has_ended) break;
  }
  // Without a pidfd (before Linux 5.3) it may have closed its streams and go on.
  siginfo_t state = {.si_pid = 0};
  while (streams[2].fd < 0 && end->kind == PROGRAM_HAS_ENDED) {
    if (waitid(P_PID, (id_t)child, &state, WEXITED | WNOHANG | WNOWAIT) != 0 || state.si_pid == child) break;
    if (now_milliseconds() >= deadline) end->kind = PROGRAM_WAS_SLOW;
    poll(NULL, 0, 10);
  }
  // Its group is not another one's before it is reaped.
  kill(-child, SIGKILL);
  running = 0;
  if (streams[2].fd >= 0) close(streams[2].fd);
  int status = 0;
  pid_t found;
  do found = waitpid(child, &status, 0);
  while (found < 0 && errno == EINTR);
  end->status = found == child ? (WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)) : -1;
}

void program_run(
    const char *path, char *const environment[], int64_t milliseconds_max, uint8_t *output, size_t output_max,
    uint8_t *words, size_t words_max, struct program_end *end) {
  *end = (struct program_end){.kind = PROGRAM_DID_NOT_START};
  pthread_mutex_lock(&one_at_a_time);
  int out[2], err[2];
  if (pipe2(out, O_CLOEXEC) != 0) {
    end->status = errno;
  } else if (pipe2(err, O_CLOEXEC) != 0) {
    end->status = errno;
    close(out[0]);
    close(out[1]);
  } else {
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    fcntl(err[0], F_SETFL, O_NONBLOCK);
    // Where children are not waited for (orphans_bury_themselves), their status is lost.
    struct sigaction waited = {.sa_handler = SIG_DFL}, before;
    sigaction(SIGCHLD, &waited, &before);
    pid_t child = 0;
    int error = start(&child, path, environment, out[1], err[1]);
    close(out[1]);
    close(err[1]);
    if (error == 0) {
      running = child;
      follow(child, out[0], err[0], milliseconds_max, output, output_max, words, words_max, end);
    } else {
      end->status = error;
    }
    sigaction(SIGCHLD, &before, NULL);
    if (before.sa_handler == SIG_IGN) {
      while (waitpid(-1, NULL, WNOHANG) > 0) {
      }
    }
    close(out[0]);
    close(err[0]);
  }
  pthread_mutex_unlock(&one_at_a_time);
}

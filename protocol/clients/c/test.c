/* What a C program can do to the client that no other language can: test, with SIDELOCK_SOCKET. Run under the sanitizers, too. */

#define _GNU_SOURCE
#include "sidelock.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SECONDS_MAX = 300 };

static _Thread_local int line_of_check;
#define CHECK(what) (line_of_check = __LINE__, (what) ? (void)0 : failed(#what))

static void failed(const char *what) {
    fprintf(stderr, "test.c:%d: not so: %s\n", line_of_check, what);
    _exit(1);
}

/* Waits until another client sees so many who wait for the lock. */
static void wait_for_waiters(const char *name, int64_t count) {
    sidelock_client *witness = sidelock_client_new(NULL, 0);
    char params[80];
    snprintf(params, sizeof params, "{\"name\":\"%s\"}", name);
    for (int64_t found = -1; found != count;) {
        sidelock_value *told = NULL;
        CHECK(sidelock_call(witness, "inspect", params, &told, NULL) == SIDELOCK_OK);
        found = sidelock_integer(sidelock_member(told, "waiting"), 0);
        sidelock_value_free(told);
        if (found != count) usleep(5000);
    }
    sidelock_client_free(witness);
}

static void *wait_and_be_cancelled(void *ticket) {
    sidelock_lock *lock;
    CHECK(sidelock_acquire(NULL, "cancelled", SIDELOCK_FOREVER, &(sidelock_options){.ticket = ticket}, &lock, NULL) == SIDELOCK_CANCELLED);
    pthread_testcancel();
    return NULL;
}

/* A thread that is cancelled takes nothing of the client's with it. */
static void test_cancelled_threads(void) {
    SIDELOCK_SCOPED sidelock_lock *lock = NULL, *other = NULL;
    CHECK(sidelock_acquire(NULL, "cancelled", 0, NULL, &lock, NULL) == SIDELOCK_OK);
    sidelock_ticket *ticket = sidelock_ticket_new();
    pthread_t thread;
    pthread_create(&thread, NULL, wait_and_be_cancelled, ticket);
    wait_for_waiters("cancelled", 1);
    pthread_cancel(thread);
    CHECK(sidelock_acquire(NULL, "free", 0, NULL, &other, NULL) == SIDELOCK_OK);
    sidelock_cancel(ticket);
    void *result = NULL;
    pthread_join(thread, &result);
    CHECK(result == PTHREAD_CANCELED);
    sidelock_ticket_free(ticket);
    CHECK(sidelock_release(lock, NULL) == SIDELOCK_OK);
}

/* What is not there is not held, and an error and no crash. */
static void test_nothing(void) {
    sidelock_error error = SIDELOCK_ERROR_INIT;
    sidelock_lock *lock = NULL;
    const char *names[] = {"a", NULL};
    CHECK(sidelock_acquire(NULL, NULL, 0, NULL, &lock, &error) == SIDELOCK_ERROR && !lock);
    CHECK(strcmp(error.reason, "invalid_params") == 0);
    CHECK(sidelock_acquire_all(NULL, names, 2, 0, NULL, &lock, &error) == SIDELOCK_ERROR && !lock);
    CHECK(sidelock_acquire_all(NULL, NULL, 0, 0, NULL, &lock, &error) == SIDELOCK_ERROR && !lock);
    CHECK(sidelock_acquire(NULL, "\xff", 0, NULL, &lock, &error) == SIDELOCK_ERROR && !lock);
    CHECK(sidelock_release(NULL, &error) == SIDELOCK_NOT_HELD);
    CHECK(sidelock_check(NULL, NULL) == SIDELOCK_NOT_HELD && sidelock_extend(NULL, 1, NULL) == SIDELOCK_NOT_HELD);
    CHECK(sidelock_downgrade(NULL, NULL) == SIDELOCK_NOT_HELD && sidelock_transfer(NULL, "1", NULL) == SIDELOCK_NOT_HELD);
    CHECK(!sidelock_held(NULL) && sidelock_token(NULL) == 0 && sidelock_valid_ms(NULL) == 0 && !sidelock_loss_of(NULL));
    CHECK(strcmp(sidelock_mode_of(NULL), "") == 0 && !sidelock_name_of(NULL, 0));
    CHECK(sidelock_call(NULL, "ping", "no object", NULL, &error) == SIDELOCK_ERROR);
    CHECK(sidelock_call(NULL, NULL, NULL, NULL, &error) == SIDELOCK_ERROR);
    sidelock_free(NULL);
    sidelock_client_free(NULL);
    sidelock_value_free(NULL);
    sidelock_unwatch(NULL, NULL);
    sidelock_error_clear(&error);
}

static void ignore_event(const sidelock_value *event, void *context) {
    (void)event;
    (void)context;
}

/* A lock and a watch may outlive their client. */
static void test_use_after_close(void) {
    sidelock_client *client = sidelock_client_new(NULL, 0);
    sidelock_lock *lock, *again;
    sidelock_watch *watch;
    sidelock_error error = SIDELOCK_ERROR_INIT;
    CHECK(sidelock_acquire(client, "closed", 0, NULL, &lock, NULL) == SIDELOCK_OK);
    CHECK(sidelock_watch_prefix(client, "", ignore_event, NULL, &watch, NULL) == SIDELOCK_OK);
    sidelock_close(client);
    sidelock_close(client);
    CHECK(!sidelock_held(lock) && sidelock_token(lock) == 0 && sidelock_valid_ms(lock) == 0);
    CHECK(sidelock_check(lock, &error) == SIDELOCK_LOST && strcmp(error.lost, "connection_ended") == 0);
    CHECK(sidelock_extend(lock, 5, &error) == SIDELOCK_LOST);
    CHECK(sidelock_acquire(client, "closed", 5000, NULL, &again, NULL) == SIDELOCK_OK);
    sidelock_client_free(client);
    CHECK(sidelock_release(lock, NULL) == SIDELOCK_LOST && sidelock_release(lock, NULL) == SIDELOCK_NOT_HELD);
    CHECK(!sidelock_held(again) && strcmp(sidelock_loss_of(again)->reason, "connection_ended") == 0);
    sidelock_free(lock);
    sidelock_free(again);
    CHECK(sidelock_unwatch(watch, NULL) == SIDELOCK_OK);
    sidelock_error_clear(&error);
}

static int open_descriptors(void) {
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");
    while (readdir(directory)) count++;
    closedir(directory);
    return count;
}

/* Neither clients that come and go nor connections that cannot be had leave descriptors behind. */
static void test_descriptors(void) {
    int before = open_descriptors();
    for (int turn = 0; turn < 100; turn++) {
        sidelock_client *client = sidelock_client_new(turn % 2 ? "/nowhere/at/all" : NULL, 0);
        sidelock_lock *lock = NULL;
        CHECK(sidelock_acquire(client, "descriptors", 5000, NULL, &lock, NULL) == (turn % 2 ? SIDELOCK_UNAVAILABLE : SIDELOCK_OK));
        sidelock_client_free(client);
        sidelock_free(lock);
    }
    CHECK(open_descriptors() == before);
}

static int signals, is_over;
static pthread_t workers[4];
static void count_signal(int number) {
    (void)number;
    __atomic_add_fetch(&signals, 1, __ATOMIC_SEQ_CST);
}

static void *send_signals(void *nothing) {
    while (!__atomic_load_n(&is_over, __ATOMIC_SEQ_CST)) {
        kill(getpid(), SIGUSR1);
        usleep(200);
    }
    return nothing;
}

static void *take_and_give_back(void *counter) {
    for (int turn = 0; turn < 100; turn++) {
        sidelock_lock *lock;
        CHECK(sidelock_acquire(NULL, "signals", SIDELOCK_FOREVER, NULL, &lock, NULL) == SIDELOCK_OK);
        int found = __atomic_load_n((int *)counter, __ATOMIC_RELAXED);
        if (turn % 10 == 0) usleep(100);
        __atomic_store_n((int *)counter, found + 1, __ATOMIC_RELAXED);
        CHECK(sidelock_release(lock, NULL) == SIDELOCK_OK);
        sidelock_free(lock);
    }
    return NULL;
}

/* Signals that interrupt system calls cost nothing. */
static void test_signals(void) {
    struct sigaction action = {.sa_handler = count_signal};
    sigaction(SIGUSR1, &action, NULL);
    pthread_t sender;
    int counter = 0;
    pthread_create(&sender, NULL, send_signals, NULL);
    for (size_t index = 0; index < 4; index++) pthread_create(&workers[index], NULL, take_and_give_back, &counter);
    for (size_t index = 0; index < 4; index++) pthread_join(workers[index], NULL);
    __atomic_store_n(&is_over, 1, __ATOMIC_SEQ_CST);
    pthread_join(sender, NULL);
    CHECK(counter == 400 && __atomic_load_n(&signals, __ATOMIC_SEQ_CST) > 0);
}

static void *wait_for_it(void *ticket) {
    sidelock_lock *lock;
    CHECK(sidelock_acquire(NULL, "forks", SIDELOCK_FOREVER, &(sidelock_options){.ticket = ticket}, &lock, NULL) == SIDELOCK_CANCELLED);
    return NULL;
}

/* A fork while other threads wait: the child has a client that works, and the parent's goes on. */
static void test_forks(void) {
    SIDELOCK_SCOPED sidelock_lock *held = NULL;
    CHECK(sidelock_acquire(NULL, "forks", 0, NULL, &held, NULL) == SIDELOCK_OK);
    sidelock_ticket *ticket = sidelock_ticket_new();
    pthread_t waiter;
    pthread_create(&waiter, NULL, wait_for_it, ticket);
    wait_for_waiters("forks", 1);
    for (int turn = 0; turn < 10; turn++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(SECONDS_MAX);
            sidelock_lock *lock;
            CHECK(!sidelock_held(held) && sidelock_release(held, NULL) == SIDELOCK_NOT_HELD);
            CHECK(sidelock_acquire(NULL, "forks", 0, NULL, &lock, NULL) == SIDELOCK_BUSY);
            CHECK(sidelock_acquire(NULL, "of a child", 5000, NULL, &lock, NULL) == SIDELOCK_OK);
            CHECK(sidelock_release(lock, NULL) == SIDELOCK_OK);
            _exit(0);
        }
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    CHECK(sidelock_held(held));
    sidelock_cancel(ticket);
    pthread_join(waiter, NULL);
    sidelock_ticket_free(ticket);
}

static void *hang_up(void *listener) {
    for (int turn = 0; turn < 40; turn++) close(accept(*(int *)listener, NULL, NULL));
    return NULL;
}

/* A daemon that hangs up before a word is said costs no SIGPIPE. */
static void test_no_sigpipe(void) {
    char path[] = "/tmp/slt-XXXXXX";
    CHECK(mkdtemp(path));
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/s", path);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener, 8) == 0);
    pthread_t thread;
    pthread_create(&thread, NULL, hang_up, &listener);
    sidelock_client *client = sidelock_client_new(address.sun_path, 0);
    for (int turn = 0; turn < 40; turn++) {
        sidelock_lock *lock;
        CHECK(sidelock_acquire(client, "x", 0, NULL, &lock, NULL) == SIDELOCK_UNAVAILABLE);
    }
    pthread_join(thread, NULL);
    sidelock_client_free(client);
    close(listener);
    unlink(address.sun_path);
    rmdir(path);
}

static int losses;
static void free_it(sidelock_lock *lock, const sidelock_loss *loss, void *context) {
    CHECK(strcmp(loss->reason, "max_hold") == 0 && context == &losses);
    sidelock_free(lock);
    __atomic_add_fetch(&losses, 1, __ATOMIC_SEQ_CST);
}

/* A callback may free its own lock. */
static void test_callbacks_that_free(void) {
    sidelock_options options = {.max_hold_ms = 1, .on_lost = free_it, .context = &losses};
    for (int turn = 0; turn < 20; turn++) {
        sidelock_lock *lock;
        CHECK(sidelock_acquire(NULL, "freed", 5000, &options, &lock, NULL) == SIDELOCK_OK);
        while (__atomic_load_n(&losses, __ATOMIC_SEQ_CST) <= turn) usleep(1000);
    }
}

int main(void) {
    alarm(SECONDS_MAX);
    test_nothing();
    test_cancelled_threads();
    test_use_after_close();
    test_descriptors();
    test_signals();
    test_forks();
    test_no_sigpipe();
    test_callbacks_that_free();
    sidelock_close(NULL);
    return 0;
}

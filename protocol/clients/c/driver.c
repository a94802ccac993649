/* The conformance suite's driver. See protocol/conformance/README.md. */

#define _GNU_SOURCE
#include "sidelock.h"

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORDS_MAX = 32 };

/* What has a name in the protocol of the suite: locks, tickets, watches, and the ends of scopes. */
typedef struct entry {
    const char *kind;
    char *name;
    void *value;
    struct entry *next;
} entry;

typedef struct command {
    char tag[32], verb[32];
    char *keys[WORDS_MAX], *values[WORDS_MAX];
    size_t count;
    const char *names[WORDS_MAX];
    size_t name_count;
    struct command *next;
} command;

typedef struct worker {
    char name[32];
    command *first, **end;
    pthread_cond_t changed;
    struct worker *next;
} worker;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER, output = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t left = PTHREAD_COND_INITIALIZER;
static entry *entries;
static worker *workers;
static sidelock_client *client;

/* Lines */

static void append(char **line, const char *text, int quoted) {
    size_t length = strlen(*line);
    *line = realloc(*line, length + 3 * strlen(text) + 1);
    char *at = *line + length;
    for (; *text; text++) {
        unsigned char byte = (unsigned char)*text;
        if (!quoted || strchr("/:,-._", byte) || (byte < 128 && ((byte | 32) >= 'a' ? (byte | 32) <= 'z' : byte >= '0' && byte <= '9'))) {
            *at++ = *text;
        } else {
            at += sprintf(at, "%%%02X", byte);
        }
    }
    *at = 0;
}

/* say(head, key, value, …, NULL): what has no value is left out. */
static void say(const char *head, ...) {
    char *line = calloc(1, 1);
    va_list fields;
    append(&line, head, 0);
    va_start(fields, head);
    for (const char *key; (key = va_arg(fields, const char *));) {
        const char *value = va_arg(fields, const char *);
        if (!value) continue;
        append(&line, " ", 0);
        append(&line, key, 0);
        append(&line, "=", 0);
        append(&line, value, 1);
    }
    va_end(fields);
    append(&line, "\n", 0);
    pthread_mutex_lock(&output);
    for (size_t done = 0, count = strlen(line); done < count;) {
        ssize_t written = write(STDOUT_FILENO, line + done, count - done);
        if (written > 0) done += (size_t)written;
    }
    pthread_mutex_unlock(&output);
    free(line);
}

static const char *digits(int64_t number, char *to) {
    sprintf(to, "%lld", (long long)number);
    return to;
}

static void decode(char *text) {
    char *to = text;
    for (; *text; text++) {
        unsigned byte;
        if (*text == '%' && sscanf(text + 1, "%2x", &byte) == 1) {
            *to++ = (char)byte;
            text += 2;
        } else {
            *to++ = *text;
        }
    }
    *to = 0;
}

static command *parse(char *line) {
    command *made = calloc(1, sizeof *made);
    char *rest = line;
    snprintf(made->tag, sizeof made->tag, "%s", strsep(&rest, " "));
    char *verb = strsep(&rest, " ");
    snprintf(made->verb, sizeof made->verb, "%s", verb ? verb : "");
    for (char *word; (word = strsep(&rest, " ")) && made->count < WORDS_MAX; made->count++) {
        char *value = strchr(word, '=');
        *value++ = 0;
        decode(value);
        made->keys[made->count] = strdup(word);
        made->values[made->count] = strdup(value);
        if (strcmp(word, "name") == 0) made->names[made->name_count++] = made->values[made->count];
    }
    return made;
}

static const char *argument(const command *of, const char *key) {
    for (size_t index = 0; index < of->count; index++) {
        if (strcmp(of->keys[index], key) == 0) return of->values[index];
    }
    return NULL;
}

static const char *argument_or(const command *of, const char *key, const char *otherwise) {
    const char *found = argument(of, key);
    return found ? found : otherwise;
}

/* An integer, where "none" is a time without limit. */
static int64_t number(const command *of, const char *key, int64_t otherwise) {
    const char *found = argument(of, key);
    return !found ? otherwise : strcmp(found, "none") == 0 ? SIDELOCK_FOREVER : strtoll(found, NULL, 10);
}

static void drop(command *one) {
    for (size_t index = 0; index < one->count; index++) {
        free(one->keys[index]);
        free(one->values[index]);
    }
    free(one);
}

/* What has a name */

static void *found(const char *kind, const char *name) {
    for (entry *one = entries; one; one = one->next) {
        if (strcmp(one->kind, kind) == 0 && strcmp(one->name, name) == 0) return one->value;
    }
    return NULL;
}

static void *find(const char *kind, const char *name) {
    pthread_mutex_lock(&mutex);
    void *value = found(kind, name);
    pthread_mutex_unlock(&mutex);
    return value;
}

/* Gives what had the name before. */
static void *store(const char *kind, const char *name, void *value) {
    pthread_mutex_lock(&mutex);
    entry *one = entries;
    while (one && (strcmp(one->kind, kind) != 0 || strcmp(one->name, name) != 0)) one = one->next;
    if (!one) {
        one = calloc(1, sizeof *one);
        one->kind = kind;
        one->name = strdup(name);
        one->next = entries;
        entries = one;
    }
    void *old = one->value;
    one->value = value;
    pthread_cond_broadcast(&left);
    pthread_mutex_unlock(&mutex);
    return old;
}

/* The label by which the suite calls a lock: it has to last as long as the program. */
static char *label_of(const command *of) {
    const char *label = argument_or(of, "lock", "");
    char *kept = find("label", label);
    if (!kept) store("label", label, kept = strdup(label));
    return kept;
}

/* Callbacks */

static void on_lost(sidelock_lock *lock, const sidelock_loss *loss, void *label) {
    char token[24], grace[24];
    (void)lock;
    say("event lost", "lock", label, "name", loss->name, "token", digits(loss->token, token), "reason", loss->reason, "grace_ms",
        digits(loss->grace_ms, grace), NULL);
}

static void on_waiting(const sidelock_value *told, void *label) {
    char position[24];
    say("event waiting", "lock", label, "position", digits(sidelock_integer(sidelock_member(told, "position"), 0), position), NULL);
}

static void on_contended(int64_t waiters, void *label) {
    char count[24];
    say("event contended", "lock", label, "waiters", digits(waiters, count), NULL);
}

static void on_transferred(sidelock_lock *lock, void *label) {
    char token[24];
    const char *name = sidelock_name_of(lock, 0);
    const sidelock_loss *loss = sidelock_loss_of(lock);
    digits(loss ? loss->token : sidelock_token(lock), token);
    sidelock_on_lost(lock, on_lost, label);
    sidelock_free(store("lock", label, lock));
    say("event transferred", "lock", label, "name", name, "token", token, NULL);
}

static void on_event(const sidelock_value *event, void *watch) {
    char token[24];
    const sidelock_value *told = sidelock_member(event, "token");
    say("event watch", "watch", watch, "kind", sidelock_text(sidelock_member(event, "kind"), NULL), "name",
        sidelock_text(sidelock_member(event, "name"), NULL), "token", told ? digits(sidelock_integer(told, 0), token) : NULL, NULL);
}

/* Commands */

static void refused(const command *of, sidelock_error *error) {
    static const char *const types[] = {"ok", "busy", "timeout", "cancelled", "error", "lost", "denied", "unavailable", "deadlock",
                                        "under_replicated", "error"};
    char head[160], holders[24], acknowledged[24];
    snprintf(head, sizeof head, "%s error %s", of->tag, *error->reason ? error->reason : "unknown");
    bool has_holders = error->code == SIDELOCK_BUSY || error->code == SIDELOCK_TIMEOUT;
    say(head, "type", types[error->code], "message", error->message, "holders",
        has_holders ? digits((int64_t)sidelock_holders(error), holders) : NULL, "acknowledged",
        error->code == SIDELOCK_UNDER_REPLICATED ? digits(error->acknowledged, acknowledged) : NULL, "lost", error->lost, NULL);
    sidelock_error_clear(error);
}

static void fine(const command *of, const char *key, const char *value) {
    char head[64];
    snprintf(head, sizeof head, "%s ok", of->tag);
    say(head, key, value, NULL);
}

static sidelock_options options_of(const command *of, char **meta) {
    char *label = label_of(of);
    int64_t bytes = number(of, "meta_bytes", -1);
    *meta = bytes < 0 ? strdup(argument_or(of, "meta", "")) : memset(calloc(1, (size_t)bytes + 1), 'x', (size_t)bytes);
    bool has_meta = bytes >= 0 || argument(of, "meta"), progress = argument(of, "progress");
    return (sidelock_options){
        .mode = strcmp(argument_or(of, "mode", ""), "shared") == 0 ? SIDELOCK_SHARED : SIDELOCK_EXCLUSIVE,
        .permits = number(of, "permits", 0),
        .max_hold_ms = number(of, "max_hold", 0),
        .meta = has_meta ? *meta : NULL,
        .replicas = number(of, "replicas", 0),
        .durability = argument(of, "durability"),
        .on_lost = on_lost,
        .on_waiting = progress ? on_waiting : NULL,
        .on_contended = progress ? on_contended : NULL,
        .context = label,
    };
}

static const char *valid(const sidelock_lock *lock, char *to) {
    int64_t ms = sidelock_valid_ms(lock);
    return ms == SIDELOCK_FOREVER ? "none" : digits(ms, to);
}

/* Also of a lock that was lost meanwhile. */
static int64_t token_of(const sidelock_lock *lock, const char *name) {
    const sidelock_loss *loss = sidelock_loss_of(lock);
    return loss ? loss->token : sidelock_token_of(lock, name);
}

static void acquire(const command *of) {
    char *meta, *tokens = calloc(1, 1), text[24], time[24], head[64];
    sidelock_error error = SIDELOCK_ERROR_INIT;
    sidelock_options options = options_of(of, &meta);
    sidelock_lock *lock;
    options.ticket = find("ticket", of->tag);
    if (sidelock_acquire_all(client, of->names, of->name_count, number(of, "wait", SIDELOCK_FOREVER), &options, &lock, &error) != SIDELOCK_OK) {
        refused(of, &error);
    } else {
        for (size_t index = 0; index < of->name_count; index++) {
            if (index) append(&tokens, ",", 0);
            append(&tokens, digits(token_of(lock, of->names[index]), text), 0);
        }
        snprintf(head, sizeof head, "%s ok", of->tag);
        sidelock_free(store("lock", options.context, lock));
        say(head, "token", tokens, "mode", sidelock_mode_of(lock), "valid_ms", valid(lock, time), NULL);
    }
    free(tokens);
    free(meta);
}

typedef struct {
    const command *of;
    bool fails;
} scope;

static void body(sidelock_lock *lock, void *context) {
    scope *in = context;
    char *label = label_of(in->of), token[24];
    const char *how;
    if (sidelock_held(lock)) say("event entered", "lock", label, "token", digits(token_of(lock, in->of->names[0]), token), NULL);
    pthread_mutex_lock(&mutex);
    while (!(how = found("leave", label))) pthread_cond_wait(&left, &mutex);
    pthread_mutex_unlock(&mutex);
    in->fails = strcmp(how, "fail") == 0;
}

static void hold_scope(const command *of) {
    char *meta, head[64];
    scope in = {of, false};
    sidelock_error error = SIDELOCK_ERROR_INIT;
    sidelock_options options = options_of(of, &meta);
    int code = sidelock_with(client, of->names, of->name_count, number(of, "wait", SIDELOCK_FOREVER), &options, body, &in, &error);
    free(meta);
    snprintf(head, sizeof head, "%s error body", of->tag);
    if (in.fails) {
        say(head, NULL);
        sidelock_error_clear(&error);
    } else if (code != SIDELOCK_OK) {
        refused(of, &error);
    } else {
        fine(of, "", NULL);
    }
}

static void held(const command *of) {
    char head[64], time[24];
    sidelock_lock *lock = find("lock", argument(of, "lock"));
    const sidelock_loss *loss = sidelock_loss_of(lock);
    snprintf(head, sizeof head, "%s ok", of->tag);
    say(head, "held", sidelock_held(lock) ? "1" : "0", "valid_ms", lock ? valid(lock, time) : NULL, "lost", loss ? loss->reason : NULL, NULL);
}

static void write_number(const char *path, int64_t value) {
    FILE *file = fopen(path, "w");
    if (!file || fprintf(file, "%lld", (long long)value) < 0 || fclose(file) != 0) abort();
}

static int64_t read_number(const char *path) {
    long long value;
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%lld", &value) != 1 || fclose(file) != 0) abort();
    return value;
}

typedef struct {
    const command *of;
    int64_t last;
    bool rising;
} cycling;

static void *cycle(void *context) {
    cycling *all = context;
    const char *file = argument(all->of, "file");
    for (int64_t left = number(all->of, "cycles", 0); left > 0; left--) {
        SIDELOCK_SCOPED sidelock_lock *lock = NULL;
        if (sidelock_acquire(client, all->of->names[0], SIDELOCK_FOREVER, NULL, &lock, NULL) != SIDELOCK_OK) abort();
        write_number(file, read_number(file) + 1);
        /* Only the lock guards this; the mutex is for those who look for races. */
        pthread_mutex_lock(&mutex);
        all->rising = all->rising && sidelock_token(lock) > all->last;
        all->last = sidelock_token(lock);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

static void cycles(const command *of) {
    pthread_t threads[64];
    cycling all = {of, 0, true};
    size_t count = (size_t)number(of, "workers", 1);
    write_number(argument(of, "file"), 0);
    for (size_t index = 0; index < count; index++) pthread_create(&threads[index], NULL, cycle, &all);
    for (size_t index = 0; index < count; index++) pthread_join(threads[index], NULL);
    fine(of, "rising", all.rising ? "1" : "0");
}

static void fork_child(const command *of) {
    char pid[24];
    sidelock_lock *lock = find("lock", argument(of, "lock")), *mine, *again;
    pthread_mutex_lock(&output);
    pid_t child = fork();
    pthread_mutex_unlock(&output);
    if (child) {
        fine(of, "pid", digits(child, pid));
        return;
    }
    sidelock_error error = SIDELOCK_ERROR_INIT;
    const char *is_held = sidelock_held(lock) ? "1" : "0";
    sidelock_release(lock, &error);
    int acquired = sidelock_acquire(client, of->names[0], 0, NULL, &mine, NULL);
    int repeated = sidelock_acquire(client, sidelock_name_of(lock, 0), 0, NULL, &again, NULL);
    say("event child", "held", is_held, "release", error.reason, "acquired", acquired == SIDELOCK_OK ? "1" : "0", "again",
        repeated == SIDELOCK_OK ? "1" : "0", NULL);
    if (argument(of, "exit")) _exit(0);
    while (true) pause();
}

static void spawn(const command *of) {
    char pid[24];
    pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "r", stdin) || !freopen("/dev/null", "w", stdout)) _exit(1);
        execlp("sleep", "sleep", "60", (char *)NULL);
        _exit(1);
    }
    fine(of, "pid", digits(child, pid));
}

static void watch(const command *of) {
    sidelock_error error = SIDELOCK_ERROR_INIT;
    sidelock_watch *made;
    char *label = strdup(argument(of, "watch"));
    int code = of->name_count ? sidelock_watch_name(client, of->names[0], on_event, label, &made, &error)
                              : sidelock_watch_prefix(client, argument_or(of, "prefix", ""), on_event, label, &made, &error);
    if (code != SIDELOCK_OK) {
        refused(of, &error);
        free(label);
        return;
    }
    store("watch", label, made);
    store("watch label", label, label);
    fine(of, "", NULL);
}

static void answer(const command *of) {
    const char *verb = of->verb;
    sidelock_error error = SIDELOCK_ERROR_INIT;
    sidelock_lock *lock = find("lock", argument_or(of, "lock", ""));
    char *made = NULL;
    int code = SIDELOCK_OK;
    const char *key = "";
    if (strcmp(verb, "acquire") == 0) {
        acquire(of);
        return;
    } else if (strcmp(verb, "scope") == 0) {
        hold_scope(of);
        return;
    } else if (strcmp(verb, "held") == 0) {
        held(of);
        return;
    } else if (strcmp(verb, "cycles") == 0) {
        cycles(of);
        return;
    } else if (strcmp(verb, "fork") == 0) {
        fork_child(of);
        return;
    } else if (strcmp(verb, "spawn") == 0) {
        spawn(of);
        return;
    } else if (strcmp(verb, "watch") == 0) {
        watch(of);
        return;
    } else if (strcmp(verb, "open") == 0) {
        sidelock_client_free(client);
        client = sidelock_client_new(argument(of, "path"), number(of, "answer_ms", 5000));
        free(store("path", "", strdup(argument_or(of, "path", ""))));
    } else if (strcmp(verb, "path") == 0) {
        key = "path";
        made = sidelock_socket_path(find("path", ""));
    } else if (strcmp(verb, "session") == 0) {
        key = "session";
        made = sidelock_session(client, &error);
        code = error.code;
    } else if (strcmp(verb, "close") == 0) {
        sidelock_close(client);
    } else if (strcmp(verb, "leave") == 0) {
        store("leave", label_of(of), argument(of, "fail") ? "fail" : "leave");
    } else if (strcmp(verb, "release") == 0) {
        code = sidelock_release(lock, &error);
    } else if (strcmp(verb, "cancel") == 0) {
        sidelock_cancel(find("ticket", argument(of, "target")));
    } else if (strcmp(verb, "downgrade") == 0) {
        code = sidelock_downgrade(lock, &error);
    } else if (strcmp(verb, "extend") == 0) {
        code = sidelock_extend(lock, number(of, "max_hold", 0), &error);
    } else if (strcmp(verb, "transfer") == 0) {
        code = sidelock_transfer(lock, argument(of, "session"), &error);
    } else if (strcmp(verb, "accept") == 0) {
        code = sidelock_accept_transfers(client, on_transferred, label_of(of), &error);
    } else if (strcmp(verb, "unwatch") == 0) {
        code = sidelock_unwatch(store("watch", argument(of, "watch"), NULL), &error);
    }
    if (code != SIDELOCK_OK) {
        refused(of, &error);
    } else {
        fine(of, key, made);
    }
    free(made);
}

/* Workers */

static void *work(void *context) {
    worker *one = context;
    while (true) {
        pthread_mutex_lock(&mutex);
        while (!one->first) pthread_cond_wait(&one->changed, &mutex);
        command *next = one->first;
        one->first = next->next;
        if (!one->first) one->end = &one->first;
        pthread_mutex_unlock(&mutex);
        answer(next);
        drop(next);
    }
    return NULL;
}

static void hand_to(const char *name, command *what) {
    pthread_mutex_lock(&mutex);
    worker *one = workers;
    while (one && strcmp(one->name, name) != 0) one = one->next;
    if (!one) {
        pthread_t thread;
        one = calloc(1, sizeof *one);
        snprintf(one->name, sizeof one->name, "%s", name);
        one->end = &one->first;
        pthread_cond_init(&one->changed, NULL);
        one->next = workers;
        workers = one;
        pthread_create(&thread, NULL, work, one);
        pthread_detach(thread);
    }
    *one->end = what;
    one->end = &what->next;
    pthread_cond_signal(&one->changed);
    pthread_mutex_unlock(&mutex);
}

static bool is_one_of(const char *verb, const char *verbs) {
    char spaced[40];
    snprintf(spaced, sizeof spaced, " %s ", verb);
    return strstr(verbs, spaced);
}

static void ignore(int signal) { (void)signal; }

int main(void) {
    char *line = NULL;
    size_t size = 0;
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = ignore, .sa_flags = SA_RESTART}, NULL);
    signal(SIGCHLD, SIG_IGN);
    client = sidelock_client_new(NULL, 0);
    say("driver 1", "language", "c", "features", "fork,connects", NULL);
    while (getline(&line, &size, stdin) > 0) {
        line[strcspn(line, "\n")] = 0;
        command *next = parse(line);
        if (strcmp(next->verb, "acquire") == 0) store("ticket", next->tag, sidelock_ticket_new());
        if (is_one_of(next->verb, " noop held cancel leave path ")) {
            answer(next);
            drop(next);
        } else if (is_one_of(next->verb, " session watch unwatch open close ")) {
            hand_to("control", next);
        } else {
            hand_to(argument_or(next, "worker", "0"), next);
        }
    }
    free(line);
    sidelock_close(client);
    return 0;
}

/* See sidelock.h.
 *
 * One mutex guards all that is here. A thread of each connection reads it, writes what does not go out at once, looks at the
 * time, and calls the user's functions, without the mutex. A fork takes the mutex, so that the child finds everything whole. */

#define _GNU_SOURCE
#include "sidelock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    LINE_BYTES_MAX = 65536,
    UNENDED_BYTES_MAX = 1 << 20, /* Of a line that has not ended; what is longer comes from no daemon. */
    OUTGOING_BYTES_MAX = 4 << 20,
    NESTING_MAX = 64,
    HOLDS_TOLD_MAX = 64, /* Of more holds a ping does not say how long they are valid. */
    PATIENCE_MS = 5000,
    PING_PAUSE_MS = 100,
    JUDGE_MS_MAX = 1000
};

#define NEVER INT64_MAX
#define SYSTEM_SOCKET "/run/sidelock/sidelock.sock"

/* Memory. A program that has none left ends. */

static void *room(void *old, size_t size) {
    void *made = realloc(old, size ? size : 1);
    if (!made) abort();
    return made;
}

static void *zeroed(size_t count, size_t size) {
    void *made = calloc(count ? count : 1, size);
    if (!made) abort();
    return made;
}

static char *copied(const char *text) { return text ? strcpy(room(NULL, strlen(text) + 1), text) : NULL; }

typedef struct {
    char *bytes;
    size_t count, size;
} buffer;

static void put(buffer *to, const char *bytes, size_t count) {
    if (to->count + count + 1 > to->size) {
        to->size = 2 * (to->count + count + 1);
        to->bytes = room(to->bytes, to->size);
    }
    memcpy(to->bytes + to->count, bytes, count);
    to->count += count;
    to->bytes[to->count] = 0;
}

static void put_text(buffer *to, const char *text) { put(to, text, strlen(text)); }

static void take(buffer *from, size_t count) {
    memmove(from->bytes, from->bytes + count, from->count - count);
    from->count -= count;
}

/* Milliseconds on a clock that nobody sets, and that goes on while the machine is suspended. */
static int64_t now_ms(void) {
    struct timespec now;
#ifdef CLOCK_BOOTTIME
    if (clock_gettime(CLOCK_BOOTTIME, &now) != 0)
#endif
        clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int64_t later(int64_t one, int64_t other) { return one > other ? one : other; }
static int64_t sooner(int64_t one, int64_t other) { return one < other ? one : other; }

/* What the daemon may say is used in sums: nothing of it is longer than a century. */
static int64_t span_of(int64_t ms) { return sooner(later(ms, 0), (int64_t)100 * 366 * 86400 * 1000); }

/* JSON */

typedef enum { IS_NULL, IS_FALSE, IS_TRUE, IS_INTEGER, IS_NUMBER, IS_TEXT, IS_LIST, IS_OBJECT } kind;

struct sidelock_value {
    kind kind;
    int64_t number;
    char *text;
    size_t count;
    char **keys;
    sidelock_value **items;
};

typedef struct {
    const char *at, *end;
} reader;

static sidelock_value *parse_value(reader *from, int depth);

static sidelock_value *value_of(kind kind) {
    sidelock_value *value = zeroed(1, sizeof *value);
    value->kind = kind;
    return value;
}

void sidelock_value_free(sidelock_value *value) {
    if (!value) return;
    for (size_t index = 0; index < value->count; index++) {
        if (value->keys) free(value->keys[index]);
        sidelock_value_free(value->items[index]);
    }
    free(value->keys);
    free(value->items);
    free(value->text);
    free(value);
}

static void skip_space(reader *from) {
    while (from->at < from->end && strchr(" \t\r\n", *from->at) && *from->at) from->at++;
}

static bool next_is(reader *from, char wanted) {
    skip_space(from);
    if (from->at == from->end || *from->at != wanted) return false;
    from->at++;
    return true;
}

static bool word_is(reader *from, const char *word) {
    size_t length = strlen(word);
    if ((size_t)(from->end - from->at) < length || memcmp(from->at, word, length) != 0) return false;
    from->at += length;
    return true;
}

static int hexadecimal(reader *from) {
    int value = 0;
    if (from->end - from->at < 4) return -1;
    for (int digit = 0; digit < 4; digit++) {
        const char *digits = "0123456789abcdef0123456789ABCDEF", *found = strchr(digits, *from->at);
        if (!found || !*from->at++) return -1;
        value = value * 16 + (int)((found - digits) % 16);
    }
    return value;
}

static void put_character(buffer *to, uint32_t code) {
    char bytes[4];
    size_t count = 0;
    if (code < 0x80) {
        bytes[count++] = (char)code;
    } else {
        if (code < 0x800) {
            bytes[count++] = (char)(0xC0 | code >> 6);
        } else {
            if (code < 0x10000) {
                bytes[count++] = (char)(0xE0 | code >> 12);
            } else {
                bytes[count++] = (char)(0xF0 | code >> 18);
                bytes[count++] = (char)(0x80 | (code >> 12 & 0x3F));
            }
            bytes[count++] = (char)(0x80 | (code >> 6 & 0x3F));
        }
        bytes[count++] = (char)(0x80 | (code & 0x3F));
    }
    put(to, bytes, count);
}

static bool parse_escape(reader *from, buffer *to) {
    static const char names[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
    if (from->at == from->end) return false;
    char name = *from->at++;
    if (name != 'u') {
        const char *found = name ? strchr(names, name) : NULL;
        if (found) put(to, bytes + (found - names), 1);
        return found;
    }
    int code = hexadecimal(from);
    if (code >= 0xD800 && code < 0xDC00) {
        if (!word_is(from, "\\u")) return false;
        int low = hexadecimal(from);
        if (low < 0xDC00 || low > 0xDFFF) return false;
        code = 0x10000 + (code - 0xD800) * 0x400 + (low - 0xDC00);
    } else if (code < 0 || (code >= 0xDC00 && code <= 0xDFFF)) {
        return false;
    }
    /* C has no text with a zero in it, and the daemon sends none that matters. */
    put_character(to, code ? (uint32_t)code : 0xFFFD);
    return true;
}

static char *parse_text(reader *from) {
    buffer text = {0};
    if (!next_is(from, '"')) return NULL;
    put(&text, "", 0);
    while (from->at < from->end && *from->at != '"') {
        if ((unsigned char)*from->at < 0x20) break;
        if (*from->at == '\\') {
            from->at++;
            if (!parse_escape(from, &text)) break;
        } else {
            put(&text, from->at++, 1);
        }
    }
    if (from->at == from->end || *from->at != '"') {
        free(text.bytes);
        return NULL;
    }
    from->at++;
    return text.bytes;
}

static void add(sidelock_value *to, char *key, sidelock_value *item) {
    to->items = room(to->items, (to->count + 1) * sizeof *to->items);
    to->items[to->count] = item;
    if (to->kind == IS_OBJECT) {
        to->keys = room(to->keys, (to->count + 1) * sizeof *to->keys);
        to->keys[to->count] = key;
    }
    to->count++;
}

static bool parse_items(reader *from, sidelock_value *to, int depth) {
    char end = to->kind == IS_OBJECT ? '}' : ']';
    if (next_is(from, end)) return true;
    do {
        char *key = NULL;
        if (to->kind == IS_OBJECT && (!(key = parse_text(from)) || !next_is(from, ':'))) {
            free(key);
            return false;
        }
        sidelock_value *item = parse_value(from, depth + 1);
        if (!item) {
            free(key);
            return false;
        }
        add(to, key, item);
    } while (next_is(from, ','));
    return next_is(from, end);
}

static size_t digits(reader *from) {
    const char *begin = from->at;
    while (from->at < from->end && *from->at >= '0' && *from->at <= '9') from->at++;
    return (size_t)(from->at - begin);
}

static sidelock_value *parse_number(reader *from) {
    sidelock_value *value = value_of(IS_INTEGER);
    bool is_negative = word_is(from, "-"), is_fine;
    const char *begin = from->at;
    size_t count = digits(from);
    is_fine = count > 0;
    if (count > 18) value->kind = IS_NUMBER;
    for (size_t index = 0; index < count && count <= 18; index++) value->number = value->number * 10 + (begin[index] - '0');
    if (is_negative) value->number = -value->number;
    if (word_is(from, ".")) {
        value->kind = IS_NUMBER;
        is_fine = is_fine && digits(from) > 0;
    }
    if (word_is(from, "e") || word_is(from, "E")) {
        value->kind = IS_NUMBER;
        if (!word_is(from, "+")) word_is(from, "-");
        is_fine = is_fine && digits(from) > 0;
    }
    if (is_fine) return value;
    sidelock_value_free(value);
    return NULL;
}

static sidelock_value *parse_value(reader *from, int depth) {
    skip_space(from);
    if (from->at == from->end || depth > NESTING_MAX) return NULL;
    if (*from->at == '"') {
        char *text = parse_text(from);
        if (!text) return NULL;
        sidelock_value *value = value_of(IS_TEXT);
        value->text = text;
        return value;
    }
    if (*from->at == '{' || *from->at == '[') {
        sidelock_value *value = value_of(*from->at++ == '{' ? IS_OBJECT : IS_LIST);
        if (parse_items(from, value, depth)) return value;
        sidelock_value_free(value);
        return NULL;
    }
    if (word_is(from, "null")) return value_of(IS_NULL);
    if (word_is(from, "true")) return value_of(IS_TRUE);
    if (word_is(from, "false")) return value_of(IS_FALSE);
    return parse_number(from);
}

/* An object, or NULL. */
static sidelock_value *parse(const char *bytes, size_t count) {
    reader from = {bytes, bytes + count};
    sidelock_value *value = parse_value(&from, 0);
    skip_space(&from);
    if (value && value->kind == IS_OBJECT && from.at == from.end) return value;
    sidelock_value_free(value);
    return NULL;
}

const sidelock_value *sidelock_member(const sidelock_value *object, const char *key) {
    for (size_t index = 0; object && object->kind == IS_OBJECT && index < object->count; index++) {
        if (strcmp(object->keys[index], key) == 0) return object->items[index];
    }
    return NULL;
}

size_t sidelock_count(const sidelock_value *list) { return list && list->kind == IS_LIST ? list->count : 0; }

const sidelock_value *sidelock_item(const sidelock_value *list, size_t index) {
    return index < sidelock_count(list) ? list->items[index] : NULL;
}

int64_t sidelock_integer(const sidelock_value *value, int64_t otherwise) {
    return value && value->kind == IS_INTEGER ? value->number : otherwise;
}

const char *sidelock_text(const sidelock_value *value, const char *otherwise) {
    return value && value->kind == IS_TEXT ? value->text : otherwise;
}

bool sidelock_is_true(const sidelock_value *value) { return value && value->kind == IS_TRUE; }

static const char *text_in(const sidelock_value *object, const char *key, const char *otherwise) {
    return sidelock_text(sidelock_member(object, key), otherwise);
}

static int64_t integer_in(const sidelock_value *object, const char *key, int64_t otherwise) {
    return sidelock_integer(sidelock_member(object, key), otherwise);
}

static void put_quoted(buffer *to, const char *text) {
    put(to, "\"", 1);
    for (; *text; text++) {
        char escape[8];
        if ((unsigned char)*text < 0x20) {
            put(to, escape, (size_t)snprintf(escape, sizeof escape, "\\u%04x", (unsigned)*text));
        } else {
            if (*text == '"' || *text == '\\') put(to, "\\", 1);
            put(to, text, 1);
        }
    }
    put(to, "\"", 1);
}

/* One more member of the object, in front of whose end the text stops. */
static void put_key(buffer *to, const char *key) {
    if (to->count && to->bytes[to->count - 1] != '{' && to->bytes[to->count - 1] != '[') put(to, ",", 1);
    put_quoted(to, key);
    put(to, ":", 1);
}

static void put_member(buffer *to, const char *key, const char *text) {
    if (!text) return;
    put_key(to, key);
    put_quoted(to, text);
}

static void put_integer(buffer *to, const char *key, int64_t number) {
    char digits[24];
    put_key(to, key);
    put(to, digits, (size_t)snprintf(digits, sizeof digits, "%lld", (long long)number));
}

/* The daemon takes nothing else, and would not say which request it was. */
static bool is_utf8(const char *text) {
    const unsigned char *at = (const unsigned char *)text;
    while (at && *at) {
        size_t more = *at < 0x80 ? 0 : *at >= 0xC2 && *at < 0xE0 ? 1 : *at >= 0xE0 && *at < 0xF0 ? 2 : *at >= 0xF0 && *at < 0xF5 ? 3 : 9;
        if (more == 9) return false;
        if ((*at == 0xE0 && at[1] < 0xA0) || (*at == 0xED && at[1] > 0x9F) || (*at == 0xF0 && at[1] < 0x90) || (*at == 0xF4 && at[1] > 0x8F))
            return false;
        for (at++; more > 0; more--, at++) {
            if ((*at & 0xC0) != 0x80) return false;
        }
    }
    return true;
}

/* Errors */

static sidelock_code code_of(const char *reason) {
    static const struct {
        const char *reason;
        sidelock_code code;
    } known[] = {
        {"busy", SIDELOCK_BUSY},
        {"timeout", SIDELOCK_TIMEOUT},
        {"cancelled", SIDELOCK_CANCELLED},
        {"not_held", SIDELOCK_NOT_HELD},
        {"lost", SIDELOCK_LOST},
        {"denied", SIDELOCK_DENIED},
        {"permission", SIDELOCK_DENIED},
        {"unavailable", SIDELOCK_UNAVAILABLE},
        {"shutting_down", SIDELOCK_UNAVAILABLE},
        {"no_daemon", SIDELOCK_UNAVAILABLE},
        {"no_answer", SIDELOCK_UNAVAILABLE},
        {"connection_lost", SIDELOCK_UNAVAILABLE},
        {"deadlock", SIDELOCK_DEADLOCK},
        {"under_replicated", SIDELOCK_UNDER_REPLICATED},
    };
    for (size_t index = 0; index < sizeof known / sizeof *known; index++) {
        if (strcmp(reason, known[index].reason) == 0) return known[index].code;
    }
    return SIDELOCK_ERROR;
}

void sidelock_error_clear(sidelock_error *error) {
    if (!error) return;
    free(error->reason);
    free(error->message);
    free(error->lost);
    sidelock_value_free(error->data);
    *error = (sidelock_error)SIDELOCK_ERROR_INIT;
}

static int fail(sidelock_error *error, const char *reason, const char *message) {
    sidelock_code code = code_of(reason);
    if (error) {
        sidelock_error_clear(error);
        error->code = code;
        error->reason = copied(reason);
        error->message = copied(message);
    }
    return (int)code;
}

static int fail_with(sidelock_error *error, const char *reason, const char *format, const char *what, const char *why) {
    char message[1024];
    snprintf(message, sizeof message, format, what, why);
    return fail(error, reason, message);
}

static int fail_lost(sidelock_error *error, const sidelock_loss *loss) {
    int code = fail_with(error, "lost", "lock %s is lost: %s", loss->name, loss->detail ? loss->detail : loss->reason);
    if (error) error->lost = copied(loss->reason);
    return code;
}

/* What the `error` member of a reply describes, which is taken out of it. */
static void refuse(sidelock_error *error, sidelock_value *reply) {
    sidelock_value *data = NULL;
    const char *message = text_in(reply, "message", "the daemon gave no message");
    for (size_t index = 0; reply->kind == IS_OBJECT && index < reply->count; index++) {
        if (!data && strcmp(reply->keys[index], "data") == 0 && reply->items[index]->kind == IS_OBJECT) {
            data = reply->items[index];
            reply->items[index] = value_of(IS_NULL);
        }
    }
    const char *detail = text_in(data, "detail", NULL);
    fail_with(error, text_in(data, "reason", ""), detail ? "%s: %s" : "%s%s", message, detail ? detail : "");
    if (error->code == SIDELOCK_LOST) error->lost = copied(text_in(data, "lost", ""));
    if (error->code == SIDELOCK_UNDER_REPLICATED) error->acknowledged = integer_in(data, "acknowledged", 0);
    error->data = data;
}

size_t sidelock_holders(const sidelock_error *error) { return error ? sidelock_count(sidelock_member(error->data, "holders")) : 0; }

const sidelock_value *sidelock_holder(const sidelock_error *error, size_t index) {
    return error ? sidelock_item(sidelock_member(error->data, "holders"), index) : NULL;
}

/* What there is */

typedef struct connection connection;
typedef struct request request;
typedef enum { WAITING, HELD, RELEASED, LOST } state;

struct sidelock_lock {
    int references;
    connection *connection;
    size_t count;
    char **names;
    int64_t *tokens;
    bool *has;
    const char *mode;
    state state;
    bool has_loss, is_freed;
    sidelock_loss loss;
    int64_t deadline, span; /* deadline: NEVER where the hold does not end by itself */
    sidelock_options options;
};

struct sidelock_watch {
    connection *connection;
    int64_t number; /* -1: it has no more events */
    void (*call)(const sidelock_value *event, void *context);
    void *context;
    sidelock_watch *next;
};

struct sidelock_ticket {
    bool is_cancelled;
    request *request;
};

struct request {
    int references;
    connection *connection;
    int64_t id, sent;
    const char *method; /* of those that mean something here; otherwise "" */
    sidelock_lock *lock;
    size_t index; /* which of the lock's names a release is for */
    sidelock_watch *watch;
    bool is_answered, is_abandoned, is_unsent;
    sidelock_value *result;
    sidelock_error error;
    pthread_cond_t answered;
    request *next;
};

/* A hold by its name and token. */
typedef struct holding {
    sidelock_lock *lock;
    size_t index;
    struct holding *next;
} holding;

/* A function of the user's that is to be called. */
typedef struct call {
    enum { LOSS, WAITS, CONTENDED, TRANSFERRED, EVENT } kind;
    sidelock_lock *lock;
    int64_t number; /* how many wait, or the number of the watch */
    sidelock_value *value;
    struct call *next;
} call;

struct connection {
    int references;
    int fd, wake;
    int64_t patience_ms;
    pthread_t thread;
    pthread_cond_t changed;
    bool is_broken, has_ended;
    buffer outgoing, incoming; /* incoming: the line that has not ended */
    int64_t last;
    request *requests;
    holding **table;
    size_t slots, holdings;
    sidelock_watch *watches;
    void (*accept)(sidelock_lock *lock, void *context);
    void *accept_context;
    call *calls, **calls_end;
    const void *calling; /* the lock or watch of whose callback the user's code is in */
    char *session;
    int64_t lease_ms; /* -1: nothing ends by itself */
    sidelock_error fault;
    request *ping;
    int64_t no_ping_before, look_at;
    connection *next;
};

struct sidelock_client {
    char *path;
    int64_t patience_ms;
    connection *connection;
    bool is_connecting;
    int64_t attempts;
    sidelock_error failure; /* of the last attempt */
    pthread_cond_t changed;
    void (*accept)(sidelock_lock *lock, void *context);
    void *accept_context;
    sidelock_client *next;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local int cancel_state;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static connection *connections;
static sidelock_client *clients, *shared_client;
static int64_t threads;
static _Thread_local int64_t thread_number;

/* The mutex, for a function of the interface. A thread that is cancelled in there would keep it for ever, so it is cancelled when
 * it has left: inside almost everything is a cancellation point. */
static void enter_client(void) {
    int before;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    pthread_mutex_lock(&mutex);
    cancel_state = before;
}

static void leave_client(void) {
    int before = cancel_state;
    pthread_mutex_unlock(&mutex);
    pthread_setcancelstate(before, NULL);
}

static void prepare_condition(pthread_cond_t *condition) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

/* Whether the time is not over, which is in so many milliseconds; NEVER. */
static bool wait_until(pthread_cond_t *condition, int64_t end) {
    if (end == NEVER) return pthread_cond_wait(condition, &mutex) == 0;
    int64_t left = end - now_ms();
    if (left <= 0) return false;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(left / 1000);
    until.tv_nsec += (long)(left % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_cond_timedwait(condition, &mutex, &until);
    return true;
}

static sidelock_lock *lock_of(const char *const *names, size_t count, const sidelock_options *options) {
    sidelock_lock *lock = zeroed(1, sizeof *lock);
    lock->references = 1;
    lock->count = count;
    lock->names = zeroed(count, sizeof *lock->names);
    lock->tokens = zeroed(count, sizeof *lock->tokens);
    lock->has = zeroed(count, sizeof *lock->has);
    for (size_t index = 0; index < count; index++) lock->names[index] = copied(names[index]);
    lock->deadline = NEVER;
    if (options) lock->options = *options;
    return lock;
}

static void leave_connection(connection *one);

static void leave_lock(sidelock_lock *lock) {
    if (!lock || --lock->references > 0) return;
    for (size_t index = 0; index < lock->count; index++) free(lock->names[index]);
    free(lock->names);
    free(lock->tokens);
    free(lock->has);
    free((void *)lock->loss.name);
    free((void *)lock->loss.reason);
    free((void *)lock->loss.detail);
    leave_connection(lock->connection);
    free(lock);
}

static sidelock_lock *keep_lock(sidelock_lock *lock) {
    if (lock) lock->references++;
    return lock;
}

static void leave_request(request *one) {
    if (!one || --one->references > 0) return;
    leave_lock(one->lock);
    sidelock_value_free(one->result);
    sidelock_error_clear(&one->error);
    pthread_cond_destroy(&one->answered);
    leave_connection(one->connection);
    free(one);
}

static void leave_connection(connection *one) {
    if (!one || --one->references > 0) return;
    connection **link = &connections;
    while (*link != one) link = &(*link)->next;
    *link = one->next;
    free(one->outgoing.bytes);
    free(one->incoming.bytes);
    free(one->table);
    free(one->session);
    sidelock_error_clear(&one->fault);
    pthread_cond_destroy(&one->changed);
    free(one);
}

static void leave_call(call *one) {
    leave_lock(one->lock);
    sidelock_value_free(one->value);
    free(one);
}

/* What is called later. The value is copied by who has to. */
static void tell(connection *to, call what) {
    call *one = zeroed(1, sizeof *one);
    *one = what;
    keep_lock(one->lock);
    *to->calls_end = one;
    to->calls_end = &one->next;
}

static sidelock_value *value_copy(const sidelock_value *from) {
    sidelock_value *to = value_of(from->kind);
    to->number = from->number;
    to->text = copied(from->text);
    for (size_t index = 0; index < from->count; index++)
        add(to, from->keys ? copied(from->keys[index]) : NULL, value_copy(from->items[index]));
    return to;
}

static void copy_error(sidelock_error *to, const sidelock_error *from) {
    if (!to) return;
    sidelock_error_clear(to);
    *to = (sidelock_error){from->code, copied(from->reason), copied(from->message), copied(from->lost), from->acknowledged, NULL};
    if (from->data) to->data = value_copy(from->data);
}

/* Gives the caller an error that he may not want. */
static void hand_over(sidelock_error *to, sidelock_error *from) {
    sidelock_error_clear(to);
    if (to) {
        *to = *from;
    } else {
        sidelock_error_clear(from);
    }
}

/* Holds by name and token */

static size_t slot_of(const connection *one, const char *name, int64_t token) {
    uint64_t hash = (uint64_t)token * 0x9E3779B97F4A7C15u;
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 0x100000001B3u;
    return (size_t)(hash ^ hash >> 32) & (one->slots - 1);
}

static bool is_of(const holding *one, const char *name, int64_t token) {
    return one->lock->tokens[one->index] == token && strcmp(one->lock->names[one->index], name) == 0;
}

static void insert(connection *to, holding *one) {
    holding **slot = &to->table[slot_of(to, one->lock->names[one->index], one->lock->tokens[one->index])];
    one->next = *slot;
    *slot = one;
}

static void enter(sidelock_lock *lock) {
    connection *to = lock->connection;
    for (size_t index = 0; index < lock->count; index++) {
        if (!lock->has[index]) continue;
        if (to->holdings >= to->slots) {
            holding **old = to->table;
            size_t slots = to->slots;
            to->slots = slots ? slots * 2 : 16;
            to->table = zeroed(to->slots, sizeof *to->table);
            for (size_t slot = 0; slot < slots; slot++) {
                for (holding *one = old[slot], *next; one; one = next) {
                    next = one->next;
                    insert(to, one);
                }
            }
            free(old);
        }
        holding *one = zeroed(1, sizeof *one);
        one->lock = keep_lock(lock);
        one->index = index;
        insert(to, one);
        to->holdings++;
    }
}

/* Takes one hold out of the table: that of this lock, or of any where it is NULL. Gives its lock, which is to be left. */
static sidelock_lock *take_out(connection *from, const char *name, int64_t token, const sidelock_lock *lock) {
    if (!from->slots) return NULL;
    for (holding **link = &from->table[slot_of(from, name, token)]; *link; link = &(*link)->next) {
        holding *one = *link;
        if (is_of(one, name, token) && (!lock || one->lock == lock)) {
            sidelock_lock *found = one->lock;
            *link = one->next;
            from->holdings--;
            free(one);
            return found;
        }
    }
    return NULL;
}

static void forget(sidelock_lock *lock, size_t index) {
    lock->has[index] = false;
    leave_lock(take_out(lock->connection, lock->names[index], lock->tokens[index], lock));
}

static void lose(sidelock_lock *lock, const sidelock_loss *loss) {
    for (size_t index = 0; index < lock->count; index++) {
        if (strcmp(lock->names[index], loss->name) == 0 && strcmp(loss->reason, "lease_expired") != 0) lock->has[index] = false;
    }
    if (lock->state != HELD) return;
    lock->state = LOST;
    lock->has_loss = true;
    lock->loss = (sidelock_loss){copied(loss->name), loss->token, copied(loss->reason), loss->grace_ms, copied(loss->detail)};
    tell(lock->connection, (call){.kind = LOSS, .lock = lock});
}

static void tell_watches(connection *to, const char *kind, const sidelock_value *params) {
    for (sidelock_watch *watch = to->watches; watch; watch = watch->next) {
        sidelock_value *event = params ? value_copy(params) : value_of(IS_OBJECT), *text = value_of(IS_TEXT);
        text->text = copied(kind);
        add(event, copied("kind"), text);
        tell(to, (call){.kind = EVENT, .number = watch->number, .value = event});
    }
}

/* Requests */

static void flush(connection *to) {
    while (to->outgoing.count && !to->is_broken) {
        ssize_t sent = send(to->fd, to->outgoing.bytes, to->outgoing.count, MSG_NOSIGNAL);
        if (sent >= 0) {
            take(&to->outgoing, (size_t)sent);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return;
        } else if (errno != EINTR) {
            /* What the daemon said before it closed the connection can still be read. */
            if (errno != EPIPE && errno != ECONNRESET) shutdown(to->fd, SHUT_RDWR);
            to->is_broken = true;
        }
    }
}

static void wake(connection *one) {
    uint64_t number = 1;
    while (write(one->wake, &number, sizeof number) < 0 && errno == EINTR) {}
}

/* Whether nothing of the line was written, and never will be. */
static bool send_line(connection *to, buffer *line) {
    put(line, "\n", 1);
    if (to->outgoing.count + line->count > OUTGOING_BYTES_MAX) {
        /* The daemon hangs for long, and nobody waits for most of that any more. */
        shutdown(to->fd, SHUT_RDWR);
        to->is_broken = true;
    }
    if (!to->is_broken) {
        put(&to->outgoing, line->bytes, line->count);
        flush(to);
        if (!to->is_broken && to->outgoing.count && !pthread_equal(pthread_self(), to->thread)) wake(to);
        if (to->is_broken && to->outgoing.count < line->count) line->count = 0;
    }
    bool is_unsent = to->is_broken && line->count;
    free(line->bytes);
    return is_unsent;
}

static void settle(request *one, sidelock_value *result, sidelock_error *error) {
    if (one->is_answered) {
        sidelock_value_free(result);
        sidelock_error_clear(error);
        return;
    }
    one->is_answered = true;
    one->result = result;
    if (error) {
        one->error = *error;
        *error = (sidelock_error)SIDELOCK_ERROR_INIT;
    }
    pthread_cond_broadcast(&one->answered);
}

static void settle_failed(request *one, const char *reason, const char *message) {
    sidelock_error error = SIDELOCK_ERROR_INIT;
    fail(&error, reason, message);
    settle(one, NULL, &error);
}

static void settle_ended(request *one) {
    if (!one->connection->fault.reason) {
        settle_failed(one, "connection_lost", "the connection to the daemon has ended");
        return;
    }
    sidelock_error error = SIDELOCK_ERROR_INIT;
    copy_error(&error, &one->connection->fault);
    settle(one, NULL, &error);
}

/* Sends a request, whose params are the text of an object. It is to be left. */
static request *start(connection *over, const char *method, const char *params, sidelock_lock *lock, size_t index, sidelock_watch *watch) {
    static const char *const known[] = {"acquire", "release", "initialize", "ping", "watch"};
    request *one = zeroed(1, sizeof *one);
    one->references = 1;
    one->connection = over;
    over->references++;
    one->id = ++over->last;
    one->sent = now_ms();
    one->method = "";
    for (size_t number = 0; number < sizeof known / sizeof *known; number++) {
        if (strcmp(method, known[number]) == 0 && (lock || watch || number == 2 || number == 3)) one->method = known[number];
    }
    one->lock = keep_lock(lock);
    one->index = index;
    one->watch = watch;
    prepare_condition(&one->answered);
    if (over->has_ended) {
        settle_ended(one);
        return one;
    }
    buffer line = {0};
    put_text(&line, "{");
    put_integer(&line, "id", one->id);
    put_member(&line, "method", method);
    put_key(&line, "params");
    put_text(&line, params);
    put_text(&line, "}");
    if (line.count > LINE_BYTES_MAX) {
        free(line.bytes);
        settle_failed(one, "limit", "the request is longer than a line of the daemon");
        return one;
    }
    one->references++;
    one->next = over->requests;
    over->requests = one;
    one->is_unsent = send_line(over, &line);
    return one;
}

static void start_release(sidelock_lock *lock, size_t index, request **made) {
    buffer params = {0};
    put_text(&params, "{");
    put_member(&params, "name", lock->names[index]);
    put_integer(&params, "token", lock->tokens[index]);
    put_text(&params, "}");
    request *one = start(lock->connection, "release", params.bytes, made ? lock : NULL, index, NULL);
    free(params.bytes);
    if (made) {
        *made = one;
    } else {
        leave_request(one);
    }
}

/* Releases what is held, and waits for no answer. */
static void give_back(sidelock_lock *lock) {
    for (size_t index = 0; index < lock->count; index++) {
        if (!lock->has[index]) continue;
        start_release(lock, index, NULL);
        forget(lock, index);
    }
    if (lock->state == HELD) lock->state = RELEASED;
}

/* Nobody waits for the answer any more: a wait is withdrawn, and a lock that is granted all the same given back. */
static void abandon(request *one) {
    bool is_acquire = strcmp(one->method, "acquire") == 0;
    if (one->is_answered) {
        if (is_acquire && one->error.code == SIDELOCK_OK) give_back(one->lock);
    } else if (!one->is_abandoned) {
        one->is_abandoned = true;
        one->watch = NULL;
        if (is_acquire && !one->connection->has_ended) {
            buffer line = {0};
            put_text(&line, "{\"method\":\"cancel\",\"params\":{");
            put_integer(&line, "id", one->id);
            put_text(&line, "}}");
            send_line(one->connection, &line);
        }
    }
}

/* Waits for the answer to a request that may take wait_ms and what the daemon needs to answer, and leaves it. */
static int finish(request *one, int64_t wait_ms, sidelock_value **result, sidelock_error *error) {
    connection *over = one->connection;
    int64_t end = wait_ms == SIDELOCK_FOREVER ? NEVER : now_ms() + span_of(wait_ms) + over->patience_ms;
    if (!one->is_answered && pthread_equal(pthread_self(), over->thread)) {
        abandon(one);
        leave_request(one);
        return fail(error, "in_callback", "a callback cannot wait for an answer of the daemon");
    }
    while (!one->is_answered) {
        if (wait_until(&one->answered, end) || one->is_answered) continue;
        /* wait_ms has long passed; a daemon that waits for Redis is waited for, one that hangs is not. */
        request *ping = start(over, "ping", "{}", NULL, 0, NULL);
        end = now_ms() + over->patience_ms;
        while (!ping->is_answered && !one->is_answered && wait_until(&ping->answered, end)) {}
        bool hangs = !ping->is_answered && !one->is_answered;
        leave_request(ping);
        if (hangs) {
            abandon(one);
            leave_request(one);
            return fail(error, "no_answer", "the daemon does not answer; it may hang");
        }
        end = now_ms() + over->patience_ms;
    }
    int code = (int)one->error.code;
    if (code != SIDELOCK_OK && error) {
        sidelock_error_clear(error);
        *error = one->error;
        one->error = (sidelock_error)SIDELOCK_ERROR_INIT;
        one->error.code = error->code;
    }
    if (result) {
        *result = one->result;
        one->result = NULL;
    }
    leave_request(one);
    return code;
}

/* What the daemon says */

/* For how long the daemon may leave unanswered how long a hold is good. */
static int64_t answer_time(int64_t span) { return sooner(span / 4, JUDGE_MS_MAX); }

static int64_t ask_at(const sidelock_lock *lock) { return lock->deadline - lock->span / 2; }

static void set_deadline(sidelock_lock *lock, int64_t span, int64_t deadline) {
    lock->span = span;
    lock->deadline = deadline;
    lock->connection->look_at = sooner(lock->connection->look_at, ask_at(lock));
}

static const char *mode_of(const sidelock_value *told) {
    static const char *const modes[] = {"exclusive", "shared", "permit"};
    for (size_t index = 0; index < sizeof modes / sizeof *modes; index++) {
        if (strcmp(text_in(told, "mode", ""), modes[index]) == 0) return modes[index];
    }
    return "";
}

static void granted(request *one, sidelock_value *result, sidelock_error *error) {
    sidelock_lock *lock = one->lock;
    const sidelock_value *locks = sidelock_member(result, "locks");
    for (size_t index = 0; index < lock->count; index++) {
        int64_t token = integer_in(result, "token", 0);
        for (size_t number = 0; number < sidelock_count(locks); number++) {
            const sidelock_value *told = sidelock_item(locks, number);
            if (strcmp(text_in(told, "name", ""), lock->names[index]) == 0) token = integer_in(told, "token", 0);
        }
        lock->tokens[index] = token;
        lock->has[index] = token != 0;
        if (token == 0) fail(error, "protocol_violation", "the daemon gave an answer that is none");
    }
    if (error->code != SIDELOCK_OK) {
        give_back(lock);
        return;
    }
    lock->mode = mode_of(result);
    lock->state = HELD;
    const sidelock_value *valid = sidelock_member(result, "valid_ms");
    if (valid && valid->kind == IS_INTEGER) {
        /* From the grant on, however late this is read: the wait began at the daemon after the sending. */
        int64_t span = span_of(valid->number);
        set_deadline(lock, span, one->sent + span_of(integer_in(result, "waited_ms", 0)) + span);
    }
    enter(lock);
    if (one->is_abandoned) give_back(lock);
}

static bool is_timed(const sidelock_lock *lock) { return lock->state == HELD && lock->deadline != NEVER; }

static void ping_answered(connection *of, const request *ping, const sidelock_value *result) {
    const sidelock_value *valid = sidelock_member(result, "valid_ms");
    of->no_ping_before = now_ms() + PING_PAUSE_MS;
    of->look_at = 0;
    for (size_t slot = 0; slot < of->slots; slot++) {
        for (holding *one = of->table[slot]; one; one = one->next) {
            if (!is_timed(one->lock)) continue;
            if (valid && valid->kind == IS_INTEGER) {
                /* This counts for all that was held when it was answered, from when it was asked. */
                one->lock->span = span_of(valid->number);
                one->lock->deadline = later(one->lock->deadline, ping->sent + one->lock->span);
            } else if (of->holdings > HOLDS_TOLD_MAX) {
                one->lock->deadline = NEVER;
            }
        }
    }
}

static void answered(request *one, sidelock_value *result, sidelock_error *error) {
    connection *of = one->connection;
    bool is_object = result && result->kind == IS_OBJECT;
    if (!error->reason && *one->method && strcmp(one->method, "release") != 0 && !is_object)
        fail(error, "protocol_violation", "the daemon gave an answer that is none");
    if (!error->reason) {
        if (strcmp(one->method, "acquire") == 0) {
            granted(one, result, error);
        } else if (strcmp(one->method, "release") == 0) {
            forget(one->lock, one->index); /* A loss that is told from now on is nobody's. */
        } else if (strcmp(one->method, "initialize") == 0) {
            free(of->session);
            of->session = copied(text_in(result, "session", ""));
            of->lease_ms = integer_in(result, "lease_ms", -1);
        } else if (one->watch) {
            /* Events may stand right behind this answer. */
            one->watch->number = integer_in(result, "watch", -1);
            one->watch->next = of->watches;
            of->watches = one->watch;
        }
    }
    if (strcmp(one->method, "ping") == 0 && !error->reason) ping_answered(of, one, result);
    if (of->ping == one) {
        of->ping = NULL;
        leave_request(one);
    }
    settle(one, result, error);
}

static void transferred(connection *to, const sidelock_value *params) {
    const char *name = text_in(params, "name", NULL);
    int64_t token = integer_in(params, "token", 0);
    if (!to->accept || !name || !token) return;
    sidelock_lock *lock = lock_of(&name, 1, NULL);
    lock->connection = to;
    to->references++;
    lock->tokens[0] = token;
    lock->has[0] = true;
    lock->mode = mode_of(params);
    lock->state = HELD;
    /* Nothing is known of how long it is good: that is asked at once, and meanwhile it counts for what an answer may take. */
    if (to->lease_ms >= 0) set_deadline(lock, span_of(to->lease_ms), now_ms() + answer_time(span_of(to->lease_ms)));
    enter(lock);
    tell(to, (call){.kind = TRANSFERRED, .lock = lock});
    leave_lock(lock);
}

static void told(connection *by, const char *method, const sidelock_value *params) {
    const char *name = text_in(params, "name", "");
    int64_t token = integer_in(params, "token", 0);
    if (strcmp(method, "lost") == 0) {
        sidelock_loss loss = {name, token, text_in(params, "reason", ""), integer_in(params, "grace_ms", 0), text_in(params, "detail", NULL)};
        for (sidelock_lock *lock; (lock = take_out(by, name, token, NULL)); leave_lock(lock)) lose(lock, &loss);
    } else if (strcmp(method, "waiting") == 0) {
        int64_t id = integer_in(params, "id", 0);
        for (request *one = by->requests; one; one = one->next) {
            if (one->id == id && one->lock && one->lock->options.on_waiting)
                tell(by, (call){.kind = WAITS, .lock = one->lock, .value = value_copy(params)});
        }
    } else if (strcmp(method, "contended") == 0 && by->slots) {
        for (holding *one = by->table[slot_of(by, name, token)]; one; one = one->next) {
            if (is_of(one, name, token) && one->lock->options.on_contended)
                tell(by, (call){.kind = CONTENDED, .lock = one->lock, .number = integer_in(params, "waiters", 0)});
        }
    } else if (strcmp(method, "transferred") == 0) {
        transferred(by, params);
    } else if (strcmp(method, "event") == 0) {
        for (sidelock_watch *watch = by->watches; watch; watch = watch->next) {
            if (watch->number == integer_in(params, "watch", -2))
                tell(by, (call){.kind = EVENT, .number = watch->number, .value = value_copy(params)});
        }
    } else if (strcmp(method, "backend") == 0 || strcmp(method, "missed") == 0) {
        tell_watches(by, method, params);
    }
}

/* A member, which is taken out of the message. */
static sidelock_value *taken(sidelock_value *message, const char *key) {
    for (size_t index = 0; index < message->count; index++) {
        if (strcmp(message->keys[index], key) != 0) continue;
        sidelock_value *found = message->items[index];
        message->items[index] = value_of(IS_NULL);
        return found;
    }
    return NULL;
}

static void heard(connection *of, sidelock_value *message) {
    const sidelock_value *id = sidelock_member(message, "id"), *params = sidelock_member(message, "params");
    const char *method = text_in(message, "method", NULL);
    if (method && !id) {
        if (params && params->kind == IS_OBJECT) told(of, method, params);
        return;
    }
    sidelock_value *reply = taken(message, "error");
    sidelock_error error = SIDELOCK_ERROR_INIT;
    if (reply) refuse(&error, reply);
    sidelock_value_free(reply);
    request **link = &of->requests;
    while (*link && !(id && id->kind == IS_INTEGER && (*link)->id == id->number)) link = &(*link)->next;
    if (error.reason && (!id || id->kind == IS_NULL)) {
        /* It is about the connection, or about a line that the daemon could not read. */
        sidelock_error_clear(&of->fault);
        of->fault = error;
    } else if (*link) {
        request *one = *link;
        *link = one->next;
        answered(one, error.reason ? NULL : taken(message, "result"), &error);
        leave_request(one);
    } else {
        sidelock_error_clear(&error);
    }
}

/* Asks how long holds are good before that time is over, and finds those whose time is. Gives when to look again. */
static int64_t look(connection *of) {
    int64_t now = now_ms(), ask = NEVER, next = NEVER;
    if (now < of->look_at) return of->look_at;
    for (size_t slot = 0; slot < of->slots; slot++) {
        for (holding *one = of->table[slot]; one; one = one->next) {
            if (is_timed(one->lock)) ask = sooner(ask, ask_at(one->lock));
        }
    }
    if (ask == NEVER) return of->look_at = NEVER;
    ask = later(ask, of->no_ping_before);
    if (!of->ping) {
        if (now < ask) return of->look_at = ask;
        of->ping = start(of, "ping", "{}", NULL, 0, NULL);
    }
    bool is_over;
    do {
        is_over = false;
        next = NEVER;
        for (size_t slot = 0; slot < of->slots && !is_over; slot++) {
            for (holding *one = of->table[slot]; one && !is_over; one = one->next) {
                sidelock_lock *lock = one->lock;
                if (!is_timed(lock)) continue;
                /* A process that was stopped itself asks before it judges. */
                int64_t judge = later(lock->deadline, of->ping->sent + answer_time(lock->span));
                next = sooner(next, judge);
                if (now < judge) continue;
                is_over = true; /* What follows changes the table. */
                keep_lock(lock);
                lose(lock, &(sidelock_loss){lock->names[one->index], lock->tokens[one->index], "lease_expired", 0, NULL});
                give_back(lock);
                leave_lock(lock);
            }
        }
    } while (is_over);
    return of->look_at = next;
}

/* The thread that reads */

static void call_user(connection *over, call *one) {
    sidelock_lock *lock = one->lock;
    sidelock_options options = lock ? lock->options : (sidelock_options){0};
    void (*on_event)(const sidelock_value *, void *) = NULL;
    void *context = NULL;
    sidelock_watch *watch = NULL;
    if (one->kind == EVENT) {
        /* It may have been closed meanwhile. */
        watch = over->watches;
        while (watch && watch->number != one->number) watch = watch->next;
        if (!watch) return;
        on_event = watch->call;
        context = watch->context;
    } else if (lock->is_freed) {
        return;
    }
    void (*accept)(sidelock_lock *, void *) = over->accept;
    void *accept_context = over->accept_context;
    over->calling = lock ? (const void *)lock : watch;
    if (one->kind == TRANSFERRED && accept) keep_lock(lock);
    pthread_mutex_unlock(&mutex);
    switch (one->kind) {
    case LOSS:
        if (options.on_lost) options.on_lost(lock, &lock->loss, options.context);
        break;
    case WAITS: options.on_waiting(one->value, options.context); break;
    case CONTENDED: options.on_contended(one->number, options.context); break;
    case TRANSFERRED:
        if (accept) accept(lock, accept_context);
        break;
    case EVENT: on_event(one->value, context); break;
    }
    pthread_mutex_lock(&mutex);
    over->calling = NULL;
    pthread_cond_broadcast(&over->changed);
}

static void call_all(connection *over) {
    while (over->calls) {
        call *one = over->calls;
        over->calls = one->next;
        if (!over->calls) over->calls_end = &over->calls;
        call_user(over, one);
        leave_call(one);
    }
}

static void ended(connection *one) {
    if (one->has_ended) return;
    one->has_ended = one->is_broken = true;
    close(one->fd);
    close(one->wake);
    for (size_t slot = 0; slot < one->slots; slot++) {
        while (one->table[slot]) {
            holding *hold = one->table[slot];
            sidelock_lock *lock = hold->lock;
            one->table[slot] = hold->next;
            lose(lock, &(sidelock_loss){lock->names[hold->index], lock->tokens[hold->index], "connection_ended", 0, NULL});
            free(hold);
            leave_lock(lock);
        }
    }
    one->holdings = 0;
    tell_watches(one, "ended", NULL);
    while (one->requests) {
        request *next = one->requests;
        one->requests = next->next;
        settle_ended(next);
        leave_request(next);
    }
    leave_request(one->ping);
    one->ping = NULL;
    pthread_cond_broadcast(&one->changed);
}

static void heard_bytes(connection *of, buffer *rest) {
    char *begin = rest->bytes, *end;
    while ((end = memchr(begin, '\n', (size_t)(rest->bytes + rest->count - begin)))) {
        sidelock_value *message = parse(begin, (size_t)(end - begin));
        if (message) heard(of, message);
        sidelock_value_free(message);
        begin = end + 1;
    }
    take(rest, (size_t)(begin - rest->bytes));
}

static void *run(void *argument) {
    connection *of = argument;
    char bytes[16384];
    pthread_mutex_lock(&mutex);
    of->thread = pthread_self();
    while (!of->has_ended) {
        int64_t at = look(of);
        call_all(of);
        if (of->has_ended) break; /* The user's code forked, and this is the child. */
        struct pollfd fds[] = {{of->fd, POLLIN, 0}, {of->wake, POLLIN, 0}};
        if (of->outgoing.count && !of->is_broken) fds[0].events |= POLLOUT;
        pthread_mutex_unlock(&mutex);
        int64_t pause = at == NEVER ? -1 : sooner(later(at - now_ms(), 0), 3600000);
        int count = poll(fds, 2, (int)pause);
        ssize_t got = count > 0 && fds[0].revents & ~POLLOUT ? recv(fds[0].fd, bytes, sizeof bytes, MSG_DONTWAIT) : -2;
        bool is_over = got == 0 || (got == -1 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
        uint64_t number;
        if (count > 0 && fds[1].revents && read(fds[1].fd, &number, sizeof number) < 0) {}
        pthread_mutex_lock(&mutex);
        flush(of);
        if (got > 0) {
            put(&of->incoming, bytes, (size_t)got);
            heard_bytes(of, &of->incoming);
            is_over = of->incoming.count > UNENDED_BYTES_MAX;
        }
        if (is_over) ended(of);
    }
    call_all(of);
    of->watches = NULL;
    leave_connection(of);
    pthread_mutex_unlock(&mutex);
    return NULL;
}

/* Forks */

static void before_fork(void) { pthread_mutex_lock(&mutex); }
static void after_fork_here(void) { pthread_mutex_unlock(&mutex); }

/* In the child the connections are the parent's, which goes on using them, and so are the locks. */
static void after_fork_there(void) {
    pthread_mutex_init(&mutex, NULL);
    for (connection *one = connections, *next; one; one = next) {
        next = one->next;
        if (one->has_ended) continue;
        one->references++;
        close(one->fd);
        close(one->wake);
        one->has_ended = one->is_broken = true;
        for (size_t slot = 0; slot < one->slots; slot++) {
            while (one->table[slot]) {
                holding *hold = one->table[slot];
                one->table[slot] = hold->next;
                hold->lock->state = RELEASED;
                hold->lock->has[hold->index] = false;
                leave_lock(hold->lock);
                free(hold);
            }
        }
        one->holdings = 0;
        while (one->requests) {
            request *first = one->requests;
            one->requests = first->next;
            leave_request(first);
        }
        while (one->calls) {
            call *first = one->calls;
            one->calls = first->next;
            leave_call(first);
        }
        one->calls_end = &one->calls;
        leave_request(one->ping);
        one->ping = NULL;
        one->watches = NULL;
        one->calling = NULL;
        prepare_condition(&one->changed);
        /* The thread that read it is not here, unless it is the one that forked. */
        if (!pthread_equal(one->thread, pthread_self())) leave_connection(one);
        leave_connection(one);
    }
    for (sidelock_client *client = clients; client; client = client->next) {
        client->is_connecting = false;
        prepare_condition(&client->changed);
    }
}

static void prepare(void) { pthread_atfork(before_fork, after_fork_here, after_fork_there); }

/* Clients */

char *sidelock_socket_path(const char *given) {
    const char *variable = getenv("SIDELOCK_SOCKET"), *directory = getenv("XDG_RUNTIME_DIR");
    if (given && *given) return copied(given);
    if (variable && *variable) return copied(variable);
    if (directory && *directory) {
        buffer own = {0};
        struct stat found;
        put_text(&own, directory);
        put_text(&own, "/sidelock/sidelock.sock");
        if (stat(own.bytes, &found) == 0 || errno == EACCES) return own.bytes;
        free(own.bytes);
    }
    return copied(SYSTEM_SOCKET);
}

sidelock_client *sidelock_client_new(const char *path, int64_t patience_ms) {
    sidelock_client *client = zeroed(1, sizeof *client);
    pthread_once(&once, prepare);
    client->path = copied(path);
    client->patience_ms = patience_ms > 0 ? span_of(patience_ms) : PATIENCE_MS;
    prepare_condition(&client->changed);
    pthread_mutex_lock(&mutex);
    client->next = clients;
    clients = client;
    pthread_mutex_unlock(&mutex);
    return client;
}

static void make_shared_client(void) { shared_client = sidelock_client_new(NULL, 0); }

static sidelock_client *client_or_shared(sidelock_client *client) {
    static pthread_once_t made = PTHREAD_ONCE_INIT;
    if (client) return client;
    pthread_once(&made, make_shared_client);
    return shared_client;
}

/* The socket, or -1. Without the mutex. */
static int connect_to(const char *path, int64_t patience_ms, sidelock_error *error) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) return fail_with(error, "no_daemon", "no path of a socket: %s%s", path, ""), -1;
    memcpy(address.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return fail_with(error, "no_daemon", "no socket%s: %s", "", strerror(errno)), -1;
    int64_t end = now_ms() + patience_ms;
    while (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        if (errno == EINTR) continue;
        if (errno == EACCES || errno == EPERM) {
            fail_with(error, "permission", "the permissions of %s keep this user out%s", path, "");
        } else if (errno != EAGAIN) {
            fail_with(error, "no_daemon", "no daemon at %s: %s", path, strerror(errno));
        } else if (now_ms() > end) {
            fail_with(error, "no_answer", "the daemon at %s does not take connections; it may hang%s", path, "");
        } else {
            /* Its queue is full; a Unix socket tells no other way when there is room. */
            nanosleep(&(struct timespec){0, 50000000}, NULL);
            continue;
        }
        close(fd);
        return -1;
    }
    return fd;
}

/* A connection with its thread. Two are to leave it: the caller and the thread. */
static connection *connection_of(int fd, int64_t patience_ms, sidelock_error *error) {
    connection *made = zeroed(1, sizeof *made);
    made->references = 2;
    made->fd = fd;
    made->patience_ms = patience_ms;
    made->lease_ms = -1;
    made->look_at = NEVER;
    made->calls_end = &made->calls;
    prepare_condition(&made->changed);
    made->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_attr_t attributes;
    sigset_t all, before;
    /* Those of a fault in a callback come here in any case, and a program may have handlers for them. */
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    for (size_t index = 0; index < sizeof faults / sizeof *faults; index++) sigdelset(&all, faults[index]);
    pthread_mutex_lock(&mutex);
    made->next = connections;
    connections = made;
    /* Signals are for the program's own threads. */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    int fault = made->wake < 0 ? errno : pthread_create(&thread, &attributes, run, made);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!fault) {
        made->thread = thread;
    } else {
        close(fd);
        if (made->wake >= 0) close(made->wake);
        made->references = 1;
        leave_connection(made);
        made = NULL;
        fail_with(error, "no_daemon", "no thread for the connection%s: %s", "", strerror(fault));
    }
    pthread_mutex_unlock(&mutex);
    pthread_attr_destroy(&attributes);
    return made;
}

static void wait_ended(connection *one) {
    int64_t end = now_ms() + one->patience_ms;
    if (pthread_equal(pthread_self(), one->thread)) return;
    while (!one->has_ended && wait_until(&one->changed, end)) {}
}

/* Closes the whole connection; its thread sees that, and ends. */
static void close_connection(connection *one) {
    if (!one->has_ended) {
        one->is_broken = true;
        shutdown(one->fd, SHUT_RDWR);
        wait_ended(one);
    }
}

static int initialize(connection *one, bool accepts, sidelock_error *error) {
    sidelock_error refused = SIDELOCK_ERROR_INIT;
    int code = SIDELOCK_OK;
    for (int with_lifetime = 1; with_lifetime >= 0; with_lifetime--) {
        char name[61];
        size_t length = 0;
        for (const char *at = program_invocation_short_name; *at && length < 60; at++) name[length++] = *at >= ' ' && *at <= '~' ? *at : '?';
        name[length] = 0;
        buffer params = {0};
        put_text(&params, "{\"client\":{");
        put_member(&params, "name", length ? name : "c");
        put_text(&params, "},\"protocol\":1");
        if (with_lifetime) put_member(&params, "lifetime", "process");
        if (accepts) put_text(&params, ",\"accept_transfers\":true");
        put_text(&params, "}");
        sidelock_error_clear(&refused);
        code = finish(start(one, "initialize", params.bytes, NULL, 0, NULL), 0, NULL, &refused);
        free(params.bytes);
        /* The daemon may not see this process, as from a container. */
        if (strcmp(text_in(refused.data, "field", ""), "lifetime") != 0) break;
    }
    hand_over(error, &refused);
    return code;
}

/* The connection of the client, which is to be left; NULL: see the error. With the mutex. */
static connection *connected(sidelock_client *client, sidelock_error *error) {
    for (int64_t attempt = client->attempts;;) {
        connection *there = client->connection;
        if (there && !there->is_broken) {
            there->references++;
            return there;
        }
        /* Where the daemon hangs, those who wait together are told together. */
        if (!client->is_connecting && attempt != client->attempts && client->failure.reason) {
            copy_error(error, &client->failure);
            return NULL;
        }
        if (!client->is_connecting) break;
        pthread_cond_wait(&client->changed, &mutex);
    }
    client->is_connecting = true;
    sidelock_error failure = SIDELOCK_ERROR_INIT;
    void (*accept)(sidelock_lock *, void *) = client->accept;
    void *context = client->accept_context;
    pthread_mutex_unlock(&mutex);
    char *path = sidelock_socket_path(client->path);
    int fd = connect_to(path, client->patience_ms, &failure);
    connection *made = fd < 0 ? NULL : connection_of(fd, client->patience_ms, &failure);
    free(path);
    pthread_mutex_lock(&mutex);
    if (made) {
        made->accept = accept;
        made->accept_context = context;
        if (initialize(made, accept != NULL, &failure) != SIDELOCK_OK) {
            close_connection(made);
            leave_connection(made);
            made = NULL;
        }
    }
    if (made) {
        leave_connection(client->connection);
        client->connection = made;
        made->references++;
    }
    client->is_connecting = false;
    client->attempts++;
    sidelock_error_clear(&client->failure);
    client->failure = failure;
    if (!made) copy_error(error, &failure);
    pthread_cond_broadcast(&client->changed);
    return made;
}

/* Starts a request, over a new connection where the daemon had closed the old one before. */
static request *start_by(sidelock_client *client, const char *method, const char *params, sidelock_lock *lock, sidelock_watch *watch,
                         sidelock_error *error) {
    request *one = NULL;
    for (int attempt = 0; attempt < 2; attempt++) {
        connection *over = connected(client, error);
        if (!over) return NULL;
        if (lock) {
            leave_connection(lock->connection);
            lock->connection = over;
            over->references++;
        }
        if (watch) watch->connection = over;
        one = start(over, method, params, lock, 0, watch);
        if (!one->is_unsent || attempt == 1) {
            leave_connection(over);
            break;
        }
        one->watch = NULL;
        wait_ended(over);
        leave_request(one);
        leave_connection(over);
    }
    return one;
}

void sidelock_close(sidelock_client *client) {
    client = client_or_shared(client);
    enter_client();
    connection *there = client->connection;
    client->connection = NULL;
    if (there) close_connection(there);
    leave_connection(there);
    leave_client();
}

void sidelock_client_free(sidelock_client *client) {
    if (!client) return;
    sidelock_close(client);
    enter_client();
    sidelock_client **link = &clients;
    while (*link != client) link = &(*link)->next;
    *link = client->next;
    leave_client();
    pthread_cond_destroy(&client->changed);
    sidelock_error_clear(&client->failure);
    free(client->path);
    free(client);
}

/* Locks */

static bool put_options(buffer *to, const sidelock_options *options) {
    static const sidelock_options none;
    if (!options) options = &none;
    char thread[40];
    if (thread_number == 0) {
        pthread_mutex_lock(&mutex);
        thread_number = ++threads;
        pthread_mutex_unlock(&mutex);
    }
    snprintf(thread, sizeof thread, "thread-%lld", (long long)thread_number);
    if (!options->no_owner) put_member(to, "owner", options->owner ? options->owner : thread);
    if (options->mode == SIDELOCK_SHARED) put_member(to, "mode", "shared");
    if (options->permits) put_integer(to, "permits", options->permits);
    if (options->max_hold_ms) put_integer(to, "max_hold_ms", options->max_hold_ms);
    if (options->replicas) put_integer(to, "replicas", options->replicas);
    put_member(to, "durability", options->durability);
    put_member(to, "meta", options->meta);
    put_member(to, "on_lost", options->enforce);
    if (options->on_waiting || options->on_contended) put_text(to, ",\"progress\":true");
    return is_utf8(options->owner) && is_utf8(options->meta) && is_utf8(options->durability) && is_utf8(options->enforce);
}

int sidelock_acquire_all(sidelock_client *client, const char *const *names, size_t count, int64_t wait_ms, const sidelock_options *options,
                         sidelock_lock **lock, sidelock_error *error) {
    buffer params = {0};
    bool is_fine = count > 0;
    *lock = NULL;
    sidelock_error_clear(error);
    put_text(&params, "{");
    put_key(&params, count == 1 ? "name" : "names");
    if (count != 1) put_text(&params, "[");
    for (size_t index = 0; index < count; index++) {
        is_fine = is_fine && names[index] && is_utf8(names[index]);
        if (index) put_text(&params, ",");
        put_quoted(&params, names[index] ? names[index] : "");
    }
    if (count != 1) put_text(&params, "]");
    if (wait_ms != SIDELOCK_FOREVER) put_integer(&params, "wait_ms", wait_ms);
    is_fine = put_options(&params, options) && is_fine;
    put_text(&params, "}");
    if (!is_fine) {
        free(params.bytes);
        return fail(error, "invalid_params", "text for the daemon is UTF-8, and there is at least one name");
    }
    client = client_or_shared(client);
    sidelock_ticket *ticket = options ? options->ticket : NULL;
    sidelock_lock *made = lock_of(names, count, options);
    int code = SIDELOCK_ERROR;
    enter_client();
    if (ticket && ticket->is_cancelled) {
        code = fail(error, "cancelled", "the wait was withdrawn");
    } else {
        sidelock_error local = SIDELOCK_ERROR_INIT;
        request *one = start_by(client, "acquire", params.bytes, made, NULL, &local);
        code = (int)local.code;
        if (one) {
            one->references++;
            if (ticket && ticket->is_cancelled) {
                abandon(one);
                settle_failed(one, "cancelled", "the wait was withdrawn");
            } else if (ticket) {
                ticket->request = one;
            }
            sidelock_error_clear(&local);
            code = finish(one, wait_ms, NULL, &local);
            if (ticket) ticket->request = NULL;
            leave_request(one);
        }
        hand_over(error, &local);
    }
    if (code == SIDELOCK_OK) {
        *lock = made;
    } else {
        made->is_freed = true;
        while (made->connection && made->connection->calling == made && !pthread_equal(pthread_self(), made->connection->thread))
            pthread_cond_wait(&made->connection->changed, &mutex);
        leave_lock(made);
    }
    leave_client();
    free(params.bytes);
    return code;
}

int sidelock_acquire(sidelock_client *client, const char *name, int64_t wait_ms, const sidelock_options *options, sidelock_lock **lock,
                     sidelock_error *error) {
    return sidelock_acquire_all(client, &name, 1, wait_ms, options, lock, error);
}

static int not_held(const sidelock_lock *lock, sidelock_error *error) {
    return fail_with(error, "not_held", lock ? "lock %s is not held here%s" : "%sno lock is held%s", lock ? lock->names[0] : "", "");
}

/* Whether its time is over: it is not to be believed then until the daemon has answered. */
static bool is_over(const sidelock_lock *lock) { return lock->state == HELD && lock->deadline <= now_ms(); }

/* Of a hold whose time is over: waits until the daemon has said how long it is good, or it is lost. Not in a callback, for which
 * nothing is read. */
static void confirm(const sidelock_lock *lock) {
    if (!lock || !is_over(lock)) return;
    connection *over = lock->connection;
    if (over->has_ended || pthread_equal(pthread_self(), over->thread)) return;
    look(over);
    request *ping = start(over, "ping", "{}", NULL, 0, NULL);
    int64_t end = now_ms() + answer_time(lock->span);
    while (!ping->is_answered && wait_until(&ping->answered, end)) {}
    if (!over->has_ended) {
        look(over);
        wake(over); /* The thread that reads tells of the loss. */
    }
    leave_request(ping);
}

static int check(const sidelock_lock *lock, sidelock_error *error) {
    sidelock_error_clear(error);
    if (lock && lock->has_loss) return fail_lost(error, &lock->loss);
    if (!lock || lock->state != HELD) return not_held(lock, error);
    if (!is_over(lock)) return SIDELOCK_OK;
    return fail_with(error, "no_answer", "the time of lock %s is over, and the daemon has not said yet that it is %s", lock->names[0],
                     "still held");
}

static bool is_open(const sidelock_lock *lock) { return lock && (lock->state == HELD || lock->state == LOST); }

static int release(sidelock_lock *lock, sidelock_error *error) {
    sidelock_error_clear(error);
    if (!is_open(lock)) return not_held(lock, error);
    sidelock_error failure = SIDELOCK_ERROR_INIT;
    connection *over = lock->connection;
    if (!over->has_ended && pthread_equal(pthread_self(), over->thread)) {
        give_back(lock);
    } else if (!over->has_ended) {
        request **made = zeroed(lock->count, sizeof *made);
        for (size_t index = 0; index < lock->count; index++) {
            if (lock->has[index]) start_release(lock, index, &made[index]);
        }
        for (size_t index = 0; index < lock->count; index++) {
            if (!made[index]) continue;
            sidelock_error one = SIDELOCK_ERROR_INIT;
            if (finish(made[index], 0, NULL, &one) != SIDELOCK_OK && failure.code == SIDELOCK_OK) {
                failure = one;
            } else {
                sidelock_error_clear(&one);
            }
            if (lock->has[index]) forget(lock, index);
        }
        free(made);
    }
    lock->state = RELEASED;
    int code = (int)failure.code;
    if (!lock->has_loss) {
        hand_over(error, &failure);
        return code;
    }
    sidelock_error_clear(&failure);
    return fail_lost(error, &lock->loss);
}

int sidelock_release(sidelock_lock *lock, sidelock_error *error) {
    enter_client();
    int code = release(lock, error);
    leave_client();
    return code;
}

void sidelock_free(sidelock_lock *lock) {
    if (!lock) return;
    enter_client();
    if (is_open(lock)) release(lock, NULL);
    lock->is_freed = true;
    while (lock->connection->calling == lock && !pthread_equal(pthread_self(), lock->connection->thread))
        pthread_cond_wait(&lock->connection->changed, &mutex);
    leave_lock(lock);
    leave_client();
}

void sidelock_leave(sidelock_lock **lock) {
    sidelock_free(*lock);
    *lock = NULL;
}

int sidelock_with(sidelock_client *client, const char *const *names, size_t count, int64_t wait_ms, const sidelock_options *options,
                  void (*body)(sidelock_lock *lock, void *context), void *context, sidelock_error *error) {
    sidelock_lock *lock;
    int code = sidelock_acquire_all(client, names, count, wait_ms, options, &lock, error);
    if (code != SIDELOCK_OK) return code;
    body(lock, context);
    enter_client();
    if (is_open(lock)) code = release(lock, error);
    leave_client();
    sidelock_free(lock);
    return code;
}

bool sidelock_held(const sidelock_lock *lock) {
    enter_client();
    confirm(lock);
    bool held = lock && lock->state == HELD && !is_over(lock);
    leave_client();
    return held;
}

int sidelock_check(const sidelock_lock *lock, sidelock_error *error) {
    enter_client();
    confirm(lock);
    int code = check(lock, error);
    leave_client();
    return code;
}

int64_t sidelock_token_of(const sidelock_lock *lock, const char *name) {
    int64_t token = 0;
    enter_client();
    confirm(lock);
    for (size_t index = 0; lock && lock->state == HELD && !is_over(lock) && index < lock->count; index++) {
        if (strcmp(lock->names[index], name) == 0) token = lock->tokens[index];
    }
    leave_client();
    return token;
}

int64_t sidelock_token(const sidelock_lock *lock) { return lock ? sidelock_token_of(lock, lock->names[0]) : 0; }

int64_t sidelock_valid_ms(const sidelock_lock *lock) {
    int64_t valid = 0;
    enter_client();
    if (lock && lock->state == HELD) valid = lock->deadline == NEVER ? SIDELOCK_FOREVER : later(lock->deadline - now_ms(), 0);
    leave_client();
    return valid;
}

const sidelock_loss *sidelock_loss_of(const sidelock_lock *lock) {
    enter_client();
    const sidelock_loss *loss = lock && lock->has_loss ? &lock->loss : NULL;
    leave_client();
    return loss;
}

const char *sidelock_mode_of(const sidelock_lock *lock) {
    enter_client();
    const char *mode = lock && lock->mode ? lock->mode : "";
    leave_client();
    return mode;
}

const char *sidelock_name_of(const sidelock_lock *lock, size_t index) { return lock && index < lock->count ? lock->names[index] : NULL; }

void sidelock_on_lost(sidelock_lock *lock, void (*call)(sidelock_lock *lock, const sidelock_loss *loss, void *context), void *context) {
    enter_client();
    if (lock) {
        lock->options.on_lost = call;
        lock->options.context = context;
    }
    leave_client();
}

/* A method for one lock, with more members of its params. With the mutex. */
static int of_one(sidelock_lock *lock, const char *method, const char *more, sidelock_error *error) {
    int code = check(lock, error);
    if (code != SIDELOCK_OK) return code;
    if (lock->count != 1) return fail_with(error, "invalid_params", "%s is for one lock at a time%s", method, "");
    buffer params = {0};
    put_text(&params, "{");
    put_member(&params, "name", lock->names[0]);
    put_integer(&params, "token", lock->tokens[0]);
    put_text(&params, more);
    put_text(&params, "}");
    code = finish(start(lock->connection, method, params.bytes, NULL, 0, NULL), 0, NULL, error);
    free(params.bytes);
    return code != SIDELOCK_OK && lock->has_loss ? fail_lost(error, &lock->loss) : code;
}

int sidelock_downgrade(sidelock_lock *lock, sidelock_error *error) {
    enter_client();
    int code = of_one(lock, "downgrade", "", error);
    if (code == SIDELOCK_OK) lock->mode = "shared";
    leave_client();
    return code;
}

int sidelock_extend(sidelock_lock *lock, int64_t max_hold_ms, sidelock_error *error) {
    char more[48] = ",\"max_hold_ms\":null";
    if (max_hold_ms != SIDELOCK_FOREVER) snprintf(more, sizeof more, ",\"max_hold_ms\":%lld", (long long)max_hold_ms);
    enter_client();
    int code = of_one(lock, "extend", more, error);
    leave_client();
    return code;
}

int sidelock_transfer(sidelock_lock *lock, const char *session, sidelock_error *error) {
    if (!session || !is_utf8(session)) return fail(error, "invalid_params", "text for the daemon is UTF-8");
    buffer more = {0};
    put_text(&more, ",\"session\":");
    put_quoted(&more, session);
    enter_client();
    int code = of_one(lock, "transfer", more.bytes, error);
    if (code == SIDELOCK_OK) {
        forget(lock, 0);
        lock->state = RELEASED;
    }
    leave_client();
    free(more.bytes);
    return code;
}

sidelock_ticket *sidelock_ticket_new(void) { return zeroed(1, sizeof(sidelock_ticket)); }

void sidelock_cancel(sidelock_ticket *ticket) {
    enter_client();
    ticket->is_cancelled = true;
    if (ticket->request && !ticket->request->is_answered) {
        abandon(ticket->request);
        settle_failed(ticket->request, "cancelled", "the wait was withdrawn");
    }
    leave_client();
}

void sidelock_ticket_free(sidelock_ticket *ticket) { free(ticket); }

/* The rest */

int sidelock_call(sidelock_client *client, const char *method, const char *params, sidelock_value **result, sidelock_error *error) {
    sidelock_value *given = params ? parse(params, strlen(params)) : NULL;
    if (result) *result = NULL;
    sidelock_error_clear(error);
    bool is_fine = (!params || given) && is_utf8(params) && method && is_utf8(method);
    sidelock_value_free(given);
    if (!is_fine) return fail(error, "invalid_params", "the parameters are the text of a JSON object");
    char *line = copied(params ? params : "{}");
    for (char *at = line; *at; at++) {
        if (*at == '\n' || *at == '\r') *at = ' ';
    }
    client = client_or_shared(client);
    int code = SIDELOCK_ERROR;
    sidelock_error local = SIDELOCK_ERROR_INIT;
    enter_client();
    request *one = start_by(client, method, line, NULL, NULL, &local);
    code = one ? finish(one, 0, result, &local) : (int)local.code;
    leave_client();
    free(line);
    hand_over(error, &local);
    return code;
}

char *sidelock_session(sidelock_client *client, sidelock_error *error) {
    client = client_or_shared(client);
    sidelock_error_clear(error);
    enter_client();
    connection *over = connected(client, error);
    char *session = over ? copied(over->session) : NULL;
    leave_connection(over);
    leave_client();
    return session;
}

int sidelock_accept_transfers(sidelock_client *client, void (*call)(sidelock_lock *lock, void *context), void *context,
                              sidelock_error *error) {
    client = client_or_shared(client);
    sidelock_error local = SIDELOCK_ERROR_INIT;
    enter_client();
    client->accept = call;
    client->accept_context = context;
    connection *over = connected(client, &local);
    int code = (int)local.code;
    if (over) {
        over->accept = call;
        over->accept_context = context;
        code = finish(start(over, "initialize", "{\"accept_transfers\":true}", NULL, 0, NULL), 0, NULL, &local);
        leave_connection(over);
    }
    leave_client();
    hand_over(error, &local);
    return code;
}

static int watch_what(sidelock_client *client, const char *key, const char *what, void (*call)(const sidelock_value *, void *), void *context,
                      sidelock_watch **watch, sidelock_error *error) {
    *watch = NULL;
    sidelock_error_clear(error);
    if (!what || !is_utf8(what)) return fail(error, "invalid_params", "text for the daemon is UTF-8");
    client = client_or_shared(client);
    sidelock_watch *made = zeroed(1, sizeof *made);
    made->number = -1;
    made->call = call;
    made->context = context;
    buffer params = {0};
    put_text(&params, "{");
    put_member(&params, key, what);
    put_text(&params, "}");
    sidelock_error local = SIDELOCK_ERROR_INIT;
    enter_client();
    request *one = start_by(client, "watch", params.bytes, NULL, made, &local);
    int code = one ? finish(one, 0, NULL, &local) : (int)local.code;
    if (code == SIDELOCK_OK) {
        made->connection->references++;
        *watch = made;
    }
    leave_client();
    if (code != SIDELOCK_OK) free(made);
    free(params.bytes);
    hand_over(error, &local);
    return code;
}

int sidelock_watch_name(sidelock_client *client, const char *name, void (*call)(const sidelock_value *event, void *context), void *context,
                        sidelock_watch **watch, sidelock_error *error) {
    return watch_what(client, "name", name, call, context, watch, error);
}

int sidelock_watch_prefix(sidelock_client *client, const char *prefix, void (*call)(const sidelock_value *event, void *context),
                          void *context, sidelock_watch **watch, sidelock_error *error) {
    return watch_what(client, "prefix", prefix, call, context, watch, error);
}

int sidelock_unwatch(sidelock_watch *watch, sidelock_error *error) {
    sidelock_error_clear(error);
    if (!watch) return SIDELOCK_OK;
    int code = SIDELOCK_OK;
    enter_client();
    connection *over = watch->connection;
    sidelock_watch **link = &over->watches;
    while (*link && *link != watch) link = &(*link)->next;
    if (*link) *link = watch->next;
    if (!over->has_ended) {
        char params[48];
        snprintf(params, sizeof params, "{\"watch\":%lld}", (long long)watch->number);
        request *one = start(over, "unwatch", params, NULL, 0, NULL);
        if (pthread_equal(pthread_self(), over->thread)) {
            leave_request(one);
        } else {
            code = finish(one, 0, NULL, error);
        }
    }
    while (over->calling == watch && !pthread_equal(pthread_self(), over->thread)) pthread_cond_wait(&over->changed, &mutex);
    leave_connection(over);
    leave_client();
    free(watch);
    return code;
}

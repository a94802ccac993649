/* Locks over processes and hosts, from the sidelockd of this host. See README.md. */

#ifndef SIDELOCK_H
#define SIDELOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SIDELOCK_VERSION "0.1.0"

/* A time without limit, in milliseconds. */
#define SIDELOCK_FOREVER (-1)

/* What the functions give that can fail. */
typedef enum {
    SIDELOCK_OK = 0,
    SIDELOCK_BUSY,             /* a try met a lock in use */
    SIDELOCK_TIMEOUT,          /* the lock did not become free in time */
    SIDELOCK_CANCELLED,        /* the wait was withdrawn */
    SIDELOCK_NOT_HELD,         /* the lock is not held */
    SIDELOCK_LOST,             /* the lock was lost: stop what it guarded */
    SIDELOCK_DENIED,           /* the rules, or the permissions of the socket, keep this program out */
    SIDELOCK_UNAVAILABLE,      /* Redis or the daemon cannot be reached now */
    SIDELOCK_DEADLOCK,         /* the wait would never have ended, because owners wait for each other */
    SIDELOCK_UNDER_REPLICATED, /* too few replicas of Redis had the lease in time, so the lock was given back */
    SIDELOCK_ERROR             /* all others: see the reason */
} sidelock_code;

typedef struct sidelock_client sidelock_client; /* a connection that all threads share */
typedef struct sidelock_lock sidelock_lock;     /* a lock, or several that were taken all or none */
typedef struct sidelock_watch sidelock_watch;
typedef struct sidelock_ticket sidelock_ticket; /* a wait that another thread may withdraw */
typedef struct sidelock_value sidelock_value;   /* JSON that the daemon sent */

/* How a hold ended without a release. The reason is connection_ended when the daemon has gone, and lease_expired when it
 * hangs for longer than the hold was good. */
typedef struct {
    const char *name;
    int64_t token;
    const char *reason;
    int64_t grace_ms;   /* until somebody else could have the lock */
    const char *detail; /* an administrator's words, or NULL */
} sidelock_loss;

/* What went wrong. Begin with SIDELOCK_ERROR_INIT, and end with sidelock_error_clear. Where a function takes one, NULL does too. */
typedef struct {
    sidelock_code code;
    char *reason;         /* the stable name of errors.json, or one that this client found; NULL: nothing went wrong */
    char *message;        /* for people */
    char *lost;           /* of SIDELOCK_LOST: why, as the reason of a loss; otherwise NULL */
    int64_t acknowledged; /* of SIDELOCK_UNDER_REPLICATED: how many replicas had the lease; 0 also where the daemon does not tell */
    sidelock_value *data; /* what the daemon said beside it, or NULL */
} sidelock_error;

#define SIDELOCK_ERROR_INIT {SIDELOCK_OK, NULL, NULL, NULL, 0, NULL}

void sidelock_error_clear(sidelock_error *error);

/* How many hold the lock, as far as the daemon tells, and one of them: host, session, pid, command, owner, meta, token, … */
size_t sidelock_holders(const sidelock_error *error);
const sidelock_value *sidelock_holder(const sidelock_error *error, size_t index);

/* Looking at JSON. NULL is nothing, has no members, and is allowed everywhere. */
const sidelock_value *sidelock_member(const sidelock_value *object, const char *key);
const sidelock_value *sidelock_item(const sidelock_value *list, size_t index);
size_t sidelock_count(const sidelock_value *list);
int64_t sidelock_integer(const sidelock_value *value, int64_t otherwise);
const char *sidelock_text(const sidelock_value *value, const char *otherwise);
bool sidelock_is_true(const sidelock_value *value);
void sidelock_value_free(sidelock_value *value);

typedef enum { SIDELOCK_EXCLUSIVE = 0, SIDELOCK_SHARED } sidelock_mode;

/* How to hold a lock. With nothing but zeros it is held alone, by the thread that asks. Text is UTF-8. */
typedef struct {
    sidelock_mode mode;
    int64_t permits;        /* one permit of a semaphore of so many, in place of the mode */
    int64_t max_hold_ms;    /* the hold ends after this time */
    const char *owner;      /* gets at once what it holds; NULL: the thread */
    bool no_owner;          /* nobody, who waits also for himself */
    const char *meta;       /* a note that others see */
    const char *enforce;    /* "terminate" or "kill" this process when the lock is lost */
    int64_t replicas;       /* how many replicas of Redis have to have the lease; 0: as many as the daemon's settings say */
    const char *durability; /* where the primary and those replicas have to have it: "memory" or "disk"; NULL: as the settings say */
    sidelock_ticket *ticket;

    /* Called by the thread that reads, which they must not keep: they cannot wait for a lock. `context` goes along. */
    void (*on_lost)(sidelock_lock *lock, const sidelock_loss *loss, void *context);
    void (*on_waiting)(const sidelock_value *told, void *context); /* position, holders, … */
    void (*on_contended)(int64_t waiters, void *context);
    void *context;
} sidelock_options;

/* A client for the daemon at that path; NULL: where the sidelock command looks for it. The daemon may leave a request
 * unanswered for so many milliseconds beyond what was to be waited; 0: 5,000. It connects when it is needed. */
sidelock_client *sidelock_client_new(const char *path, int64_t patience_ms);

/* Gives everything back. The client may be used again. */
void sidelock_close(sidelock_client *client);

/* The same, and frees it. Its locks and watches are to be freed all the same, before or after. */
void sidelock_client_free(sidelock_client *client);

/* All functions take NULL for the client that is used without one of its own. */

/* Takes a lock. wait_ms: how long to wait; 0: a try; SIDELOCK_FOREVER. */
int sidelock_acquire(sidelock_client *client, const char *name, int64_t wait_ms, const sidelock_options *options, sidelock_lock **lock,
                     sidelock_error *error);

/* Takes several, all or none. */
int sidelock_acquire_all(sidelock_client *client, const char *const *names, size_t count, int64_t wait_ms, const sidelock_options *options,
                         sidelock_lock **lock, sidelock_error *error);

/* Runs the body while the lock is held, and gives the lock back. SIDELOCK_LOST when it was lost meanwhile. */
int sidelock_with(sidelock_client *client, const char *const *names, size_t count, int64_t wait_ms, const sidelock_options *options,
                  void (*body)(sidelock_lock *lock, void *context), void *context, sidelock_error *error);

/* Gives the lock back. SIDELOCK_LOST if it was lost before. The lock can be looked at until it is freed. In a callback it
 * does not wait for the answer. */
int sidelock_release(sidelock_lock *lock, sidelock_error *error);

/* Frees it, and gives it back where it is held. None of its callbacks is called from then on. */
void sidelock_free(sidelock_lock *lock);

/* Frees at the end of the scope: SIDELOCK_SCOPED sidelock_lock *lock = NULL; */
void sidelock_leave(sidelock_lock **lock);
#if defined(__GNUC__) || defined(__clang__)
#define SIDELOCK_SCOPED __attribute__((cleanup(sidelock_leave)))
#endif

/* Whether it is held, as far as this process has been told; no longer than it is good without an answer of the daemon. */
bool sidelock_held(const sidelock_lock *lock);

/* SIDELOCK_LOST if it was lost, SIDELOCK_NOT_HELD if it is not held, SIDELOCK_UNAVAILABLE where its time is over and the daemon has
 * not said yet that it is still held. */
int sidelock_check(const sidelock_lock *lock, sidelock_error *error);

/* The fencing token, of the first or of another name: send it along with every write. 0: it is not held. */
int64_t sidelock_token(const sidelock_lock *lock);
int64_t sidelock_token_of(const sidelock_lock *lock, const char *name);

/* For how many milliseconds from now the hold is good for certain; SIDELOCK_FOREVER: it does not end by itself; 0: it is not held. */
int64_t sidelock_valid_ms(const sidelock_lock *lock);

/* How it was lost; NULL if it was not. Good until the lock is freed. */
const sidelock_loss *sidelock_loss_of(const sidelock_lock *lock);

/* "exclusive", "shared" or "permit". */
const char *sidelock_mode_of(const sidelock_lock *lock);
const char *sidelock_name_of(const sidelock_lock *lock, size_t index); /* NULL beyond the last one */

/* Shares from now on what was held alone. */
int sidelock_downgrade(sidelock_lock *lock, sidelock_error *error);

/* Sets anew after what time from now the hold ends; SIDELOCK_FOREVER: it does not. */
int sidelock_extend(sidelock_lock *lock, int64_t max_hold_ms, sidelock_error *error);

/* Hands the lock to another session of this host, which must have asked for it. */
int sidelock_transfer(sidelock_lock *lock, const char *session, sidelock_error *error);

/* What is called when the lock is lost, of one that was transferred. */
void sidelock_on_lost(sidelock_lock *lock, void (*call)(sidelock_lock *lock, const sidelock_loss *loss, void *context), void *context);

/* A ticket, to be put into the options of one acquire. To cancel withdraws its wait, also one that has not begun yet; a lock
 * that is granted meanwhile is given back. Free it when the acquire has returned. */
sidelock_ticket *sidelock_ticket_new(void);
void sidelock_cancel(sidelock_ticket *ticket);
void sidelock_ticket_free(sidelock_ticket *ticket);

/* Events of a lock, or of all locks whose name begins alike; the call is made by the thread that reads. The last one has the
 * kind "ended". */
int sidelock_watch_name(sidelock_client *client, const char *name, void (*call)(const sidelock_value *event, void *context), void *context,
                        sidelock_watch **watch, sidelock_error *error);
int sidelock_watch_prefix(sidelock_client *client, const char *prefix, void (*call)(const sidelock_value *event, void *context),
                          void *context, sidelock_watch **watch, sidelock_error *error);

/* No more events come. Frees the watch in any case. */
int sidelock_unwatch(sidelock_watch *watch, sidelock_error *error);

/* From now on others may hand over locks. The call gets each, held, in the thread that reads, and has to free it. */
int sidelock_accept_transfers(sidelock_client *client, void (*call)(sidelock_lock *lock, void *context), void *context,
                              sidelock_error *error);

/* The daemon's name for this client, to which others transfer locks; to be freed with free(). NULL: see the error. */
char *sidelock_session(sidelock_client *client, sidelock_error *error);

/* Any method of the protocol. The parameters are the text of a JSON object, or NULL; the result is to be freed. */
int sidelock_call(sidelock_client *client, const char *method, const char *params, sidelock_value **result, sidelock_error *error);

/* Where a client looks for the daemon: what is given, $SIDELOCK_SOCKET, the user's own daemon if there is one, the system's.
 * To be freed with free(). */
char *sidelock_socket_path(const char *given);

#ifdef __cplusplus
}
#endif

#endif

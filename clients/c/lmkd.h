/* Be told about memory pressure by lmkd, and give memory back in time: the client for C.
 *
 *     struct lmkd_client *client = lmkd_new(&(struct lmkd_options){.on_notice = shed});
 *     lmkd_register(client, "thumbnails", LMKD_CACHED, 64 << 20, LMKD_PROCESS);
 *     while (lmkd_wait(client, -1) >= 0) {}
 *
 * A program with a loop of its own watches lmkd_fd() for reading, and calls lmkd_dispatch() when it is readable.
 *
 * - Nothing here waits but lmkd_wait, nothing allocates but lmkd_new, and there is no thread and no signal.
 * - The descriptor is the same for the client's whole life. Connecting, and connecting again after a growing pause, is
 *   lmkd_dispatch's work; what was registered and subscribed is said again by itself.
 * - Callbacks are called from lmkd_dispatch (and lmkd_wait) alone. They may make requests; they may not dispatch or free.
 *   The texts they are given are theirs until they return.
 * - A client belongs to one thread at a time. After a fork the child may free it, and nothing else.
 *
 * What the words mean is in proto/SPEC.md. */
#ifndef LMKD_H
#define LMKD_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define LMKD_API __attribute__((visibility("default")))
#else
#define LMKD_API
#endif

#define LMKD_SUBSCRIPTIONS_MOST 8
#define LMKD_UNANSWERED_MOST 64

struct lmkd_client;

enum lmkd_level { LMKD_NORMAL, LMKD_LOW, LMKD_MEDIUM, LMKD_CRITICAL };
enum lmkd_class { LMKD_CACHED, LMKD_BACKGROUND, LMKD_SERVICE, LMKD_PERCEPTIBLE, LMKD_FOREGROUND, LMKD_SYSTEM };
enum lmkd_unit { LMKD_PROCESS, LMKD_TREE, LMKD_CGROUP };
enum lmkd_answer { LMKD_DONE, LMKD_WORKING, LMKD_NOTHING };
enum lmkd_propagation { LMKD_LOCAL, LMKD_DEFAULT, LMKD_HIERARCHY };
enum lmkd_scope { LMKD_SELF, LMKD_ALL };

enum lmkd_state {
    LMKD_AWAY, /* no connection; it is tried again. What was heard before holds no more */
    LMKD_OPEN, /* greeted */
    LMKD_OVER  /* no connection, and there will be none */
};

enum lmkd_request {
    LMKD_HELLO, /* never in a reply */
    LMKD_SUBSCRIBE,
    LMKD_UNSUBSCRIBE,
    LMKD_REGISTER,
    LMKD_UPDATE,
    LMKD_UNREGISTER,
    LMKD_ACK,
    LMKD_SIMULATE
};

/* To this app: free so much, by then; at LMKD_NORMAL, that no more is asked. */
struct lmkd_notice {
    uint64_t number;
    uint32_t connection; /* which of the client's connections it came over; lmkd_ack looks */
    const char *domain;
    enum lmkd_level level;
    uint64_t target_bytes;
    uint32_t deadline_ms; /* from when it was sent */
    const char *reason;
    bool emergency;
    bool simulated;
};

/* The level of a domain that was subscribed, or of one below it. */
struct lmkd_pressure {
    const char *domain;
    enum lmkd_level level;
    const char *reason;
    uint64_t available_bytes;
    bool simulated;
};

/* To this app: SIGTERM comes with it, and SIGKILL after so long. */
struct lmkd_kill_warning {
    const char *reason;
    uint32_t time_to_exit_ms;
};

/* What was ended in a domain that was subscribed. */
struct lmkd_killed {
    const char *domain;
    uint32_t pid; /* 0: a cgroup as a whole */
    const char *name;
    enum lmkd_class app_class;
    const char *reason;
    uint64_t freed_bytes;
};

/* What an app was given; class and unit may be less than it asked for. */
struct lmkd_grant {
    uint64_t app;
    enum lmkd_class app_class;
    enum lmkd_unit unit;
    const char *domain;
    uint32_t grace_ms;
    uint32_t time_to_exit_ms;
};

struct lmkd_reply {
    int id; /* as the request returned it; of what was said again by itself, another */
    enum lmkd_request request;
    const char *code;    /* NULL: it was done. One that you do not know means `failed` */
    const char *message; /* with a code: why, for people */
    struct lmkd_grant grant; /* of LMKD_REGISTER and LMKD_UPDATE, where it was done */
    const char *domain;      /* of LMKD_SUBSCRIBE, where it was done: what that stands for; NULL: as it was asked */
    uint32_t deadline_ms;    /* of LMKD_ACK, where it was done: how long the app may not be killed from now on */
};

/* All may be left 0. `path` and `name` are copied. */
struct lmkd_options {
    const char *path; /* of the socket; NULL: $LMKD_SOCKET, else the session's if it is there, else the system's */
    const char *name; /* of this program, for people */
    bool once;        /* never connect again: when the connection fails or ends, the client is over */
    uint32_t first_pause_ms; /* before connecting again: 0: 100 ms, doubled each time */
    uint32_t most_pause_ms;  /* up to this: 0: 10 s; each shortened by chance by up to a half */

    void (*on_notice)(struct lmkd_client *client, const struct lmkd_notice *notice, void *user);
    void (*on_pressure)(struct lmkd_client *client, const struct lmkd_pressure *pressure, void *user);
    void (*on_kill_warning)(struct lmkd_client *client, const struct lmkd_kill_warning *warning, void *user);
    void (*on_killed)(struct lmkd_client *client, const struct lmkd_killed *killed, void *user);
    /* When the state changes, and when the first try to connect fails. `text`: what greeted us, or what went wrong. */
    void (*on_connection)(struct lmkd_client *client, enum lmkd_state state, const char *text, void *user);
    /* The answer to a request. One whose connection ends before its answer has none. */
    void (*on_reply)(struct lmkd_client *client, const struct lmkd_reply *reply, void *user);
    void *user;
};

/* Make a client. It connects when it is first dispatched, and its descriptor is readable until then.
 * Returns NULL, and says in errno why: ENAMETOOLONG (the path), EINVAL (the name), EMFILE, ENFILE, ENOMEM. All other
 * functions take NULL, and return -EINVAL: a program that does not look goes on without lmkd. */
LMKD_API struct lmkd_client *lmkd_new(const struct lmkd_options *options);

/* End the connection, which unregisters, and free the client. Not from a callback. */
LMKD_API void lmkd_free(struct lmkd_client *client);

/* Return the descriptor to watch for reading. It is an epoll, so any loop may watch it, and nobody else may read it. */
LMKD_API int lmkd_fd(const struct lmkd_client *client);

/* Do what there is to do: connect, send, read, call back. Never waits.
 * Returns 0; or when the client is over, a negative errno, and the descriptor is never readable again. */
LMKD_API int lmkd_dispatch(struct lmkd_client *client);

/* For a program without a loop: wait until there is something to do, for at most so long (-1: for ever), and do it.
 * Returns as lmkd_dispatch does; 0 also when the time has passed or a signal came. */
LMKD_API int lmkd_wait(struct lmkd_client *client, int timeout_ms);

LMKD_API enum lmkd_state lmkd_state(const struct lmkd_client *client);

/* Return what went wrong last, where and why: after a negative return, or while the daemon is away. "" where nothing did.
 * It stands until something else goes wrong. */
LMKD_API const char *lmkd_error_text(const struct lmkd_client *client);

/* Return the word of the protocol, or "?". */
LMKD_API const char *lmkd_level_name(enum lmkd_level level);
LMKD_API const char *lmkd_class_name(enum lmkd_class app_class);
LMKD_API const char *lmkd_unit_name(enum lmkd_unit unit);

/* The requests. Each returns its id, above 0, and is answered with that id in on_reply; or 0, where nobody is there to
 * tell and nothing is lost by it; or a negative errno, and lmkd_error_text says what was wrong:
 *
 *   -EINVAL     a value that the protocol does not allow, or something that was not registered or subscribed
 *   -EALREADY   it is registered or subscribed already
 *   -ENOSPC     LMKD_SUBSCRIPTIONS_MOST domains are subscribed
 *   -EAGAIN     LMKD_UNANSWERED_MOST requests are not answered yet, or the daemon does not read
 *   -ENOTCONN   the daemon is away (lmkd_simulate)
 *   else        the client is over, and why
 */

/* Be an app, over this connection and those that follow. Refused, it is one no more. 0: said when the daemon is there. */
LMKD_API int lmkd_register(struct lmkd_client *client, const char *name, enum lmkd_class app_class,
                           uint64_t sheddable_bytes, enum lmkd_unit unit);

/* Change what was registered. 0: it is said when the daemon is there. */
LMKD_API int lmkd_update(struct lmkd_client *client, enum lmkd_class app_class, uint64_t sheddable_bytes);

LMKD_API int lmkd_unregister(struct lmkd_client *client);

/* Hear a domain's level, and who is killed in it: "system", "own" or a cgroup. 0: it is said when the daemon is there. */
LMKD_API int lmkd_subscribe(struct lmkd_client *client, const char *domain, enum lmkd_propagation propagation);

LMKD_API int lmkd_unsubscribe(struct lmkd_client *client, const char *domain);

/* Answer a notice, or a copy of it. 0: it came over an earlier connection, and nobody waits for an answer. */
LMKD_API int lmkd_ack(struct lmkd_client *client, const struct lmkd_notice *notice, enum lmkd_answer answer,
                      uint64_t freed_bytes);

/* Rehearse a level; LMKD_ALL takes the controller. */
LMKD_API int lmkd_simulate(struct lmkd_client *client, enum lmkd_level level, enum lmkd_scope scope,
                           uint32_t duration_ms);

#ifdef __cplusplus
}
#endif

#endif

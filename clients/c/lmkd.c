/* The client of lmkd for C: see lmkd.h.
 *
 * In the order of this file: words; the client; what may be said; frames that come in, decoded; frames that go out; the
 * connection, lost and made again; what a message means; the functions of the header.
 *
 * - Of msgpack-c only what its headers inline is used: the template of its parser, with callbacks that keep what this
 *   protocol's messages have and room for nothing else, and its packer. libmsgpackc is not linked, and costs no memory.
 * - Whatever the daemon sends, what is kept of a frame is bounded by the frame; nothing is copied out of it. Texts are
 *   ended with a NUL where they lie: the byte behind one has been read by then.
 * - A request only appends to `out`. Callbacks come out of lmkd_dispatch alone, so none comes where it is not expected. */
#define _GNU_SOURCE
#include "lmkd.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MSGPACK_EMBED_STACK_SIZE 32 /* SPEC T-5: how deep values may be nested */
#include <msgpack/pack.h>
#include <msgpack/unpack.h>
#include <msgpack/unpack_define.h>

#define SYSTEM_SOCKET "/run/lmkd/socket"
#define FIRST_PAUSE_MS 100
#define MOST_PAUSE_MS 10000
#ifndef GREETING_MOST_MS /* a test has less patience */
#define GREETING_MOST_MS 10000
#endif
#define READS_AT_ONCE 16 /* a daemon that sends faster than this reads is left for the next dispatch */

#define LENGTH_BYTES 4
#define FRAME_BYTES_MOST 65536
#define ITEMS_MOST 1024
#define KEYS_MOST (FRAME_BYTES_MOST / 2) /* of all open maps: an entry takes two bytes at least */
#define KEYS_FEW 256
#define REASON_CHARS_MOST 512
#define NAME_CHARS_MOST 64
#define DOMAIN_CHARS_MOST 1024
#define UTF8_BYTES_MOST 4
#define NAME_BYTES (NAME_CHARS_MOST * UTF8_BYTES_MOST + 1)
#define DOMAIN_BYTES (DOMAIN_CHARS_MOST * UTF8_BYTES_MOST + 1)
#define SAID_BYTES 2304 /* a code and a message, or a path and those */
#define REQUEST_BYTES_MOST (DOMAIN_BYTES + 128) /* the largest is `subscribe` */
#define OUT_BYTES (REQUEST_BYTES_MOST * (LMKD_SUBSCRIPTIONS_MOST + 3))

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* --- words ----------------------------------------------------------------------------------------------------- */

/* In place and not behind pointers: nothing is relocated when the library is loaded, and their page stays the file's. */
typedef char word[16];

static const word LEVELS[] = {"normal", "low", "medium", "critical"};
static const word CLASSES[] = {"cached", "background", "service", "perceptible", "foreground", "system"};
static const word UNITS[] = {"process", "tree", "cgroup"};
static const word ANSWERS[] = {"done", "working", "nothing"};
static const word PROPAGATIONS[] = {"local", "default", "hierarchy"};
static const word SCOPES[] = {"self", "all"};
static const word REQUESTS[] = {
    "hello", "subscribe", "unsubscribe", "register", "update", "unregister", "ack", "simulate",
};

/* The keys of what a server says, in a message or in its result. */
enum key {
    KEY_TYPE, KEY_ID, KEY_VERSION, KEY_SERVER, KEY_CONTROLLER, KEY_RESULT, KEY_CODE, KEY_MESSAGE, KEY_DOMAIN, KEY_LEVEL,
    KEY_REASON, KEY_AVAILABLE_BYTES, KEY_SIMULATED, KEY_NOTICE, KEY_TARGET_BYTES, KEY_DEADLINE_MS, KEY_EMERGENCY,
    KEY_TIME_TO_EXIT_MS, KEY_PID, KEY_NAME, KEY_CLASS, KEY_FREED_BYTES, KEY_APP, KEY_UNIT, KEY_GRACE_MS, KEYS
};
static const word KEY_NAMES[KEYS] = {
    "type", "id", "version", "server", "controller", "result", "code", "message", "domain", "level",
    "reason", "available_bytes", "simulated", "notice", "target_bytes", "deadline_ms", "emergency",
    "time_to_exit_ms", "pid", "name", "class", "freed_bytes", "app", "unit", "grace_ms",
};

/* --- the client ------------------------------------------------------------------------------------------------ */

struct app {
    bool wanted;
    int said; /* the id of the last request to register */
    char name[NAME_BYTES];
    enum lmkd_class app_class;
    enum lmkd_unit unit;
    uint64_t sheddable_bytes;
};

struct subscription {
    bool wanted;
    int said;
    enum lmkd_propagation propagation;
    char domain[DOMAIN_BYTES];
};

struct unanswered {
    int id; /* 0: none */
    enum lmkd_request request;
};

/* A key of a map that is being read, as it lies in the frame. */
struct seen {
    uint16_t start;
    uint16_t length;
};

/* What is large is written from its beginning, and comes last: a page that nobody has written to is not resident. */
struct lmkd_client {
    struct lmkd_options options;
    int watch_fd; /* the epoll that is lmkd_fd: of timer_fd and of socket_fd */
    int timer_fd; /* away: until the next try; before the greeting: until we give it up */
    int socket_fd; /* -1: no connection */
    enum lmkd_state state;
    int over;            /* the errno of LMKD_OVER */
    bool told;           /* whether on_connection has been told the state */
    bool dispatching;    /* a callback may be under way */
    bool out_watched;    /* the epoll waits for room to send, too */
    bool has_last_word;
    int broken; /* the errno of a send: what was said last is still to be read */
    uint32_t connection; /* counts them */
    uint32_t next_pause_ms;
    uint64_t connected_at_ms;
    int last_id;
    struct unanswered unanswered[LMKD_UNANSWERED_MOST];
    struct sockaddr_un address;
    bool looks_for_socket;
    struct app app;
    char name[NAME_BYTES];
    size_t in_end, out_start, out_end;
    struct seen few_seen[KEYS_FEW]; /* for a frame of the usual size, so that `seen` is not touched */
    char out[OUT_BYTES];
    char in[LENGTH_BYTES + FRAME_BYTES_MOST + 1];
    struct seen seen[KEYS_MOST];
    struct subscription subscriptions[LMKD_SUBSCRIPTIONS_MOST];
    char error_text[SAID_BYTES];
    char last_word[SAID_BYTES]; /* an error without an id, after which servers close */
};

static int fail(struct lmkd_client *client, int error, const char *text) {
    snprintf(client->error_text, sizeof client->error_text, "%s", text);
    return -error;
}

/* --- what may be said ------------------------------------------------------------------------------------------ */

/* Count the characters; -1 where it is not UTF-8, which surrogates and overlong forms are not. */
static long count_characters(const char *text, size_t length) {
    const unsigned char *at = (const unsigned char *)text, *end = at + length;
    long characters = 0;
    for (; at < end; characters++) {
        unsigned lead = *at++, least = 0x80, most = 0xbf, more;
        if (lead < 0x80) continue;
        if (lead >= 0xc2 && lead <= 0xdf) more = 1;
        else if (lead >= 0xe0 && lead <= 0xef) more = 2;
        else if (lead >= 0xf0 && lead <= 0xf4) more = 3;
        else return -1;
        if (lead == 0xe0) least = 0xa0;
        if (lead == 0xed) most = 0x9f;
        if (lead == 0xf0) least = 0x90;
        if (lead == 0xf4) most = 0x8f;
        for (; more > 0; more--, least = 0x80, most = 0xbf)
            if (at == end || *at < least || *at++ > most) return -1;
    }
    return characters;
}

static bool has_control_characters(const char *text, size_t length) {
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (byte < 0x20 || byte == 0x7f) return true;
        if (byte == 0xc2 && i + 1 < length && (unsigned char)text[i + 1] < 0xa0) return true; /* C1 */
    }
    return false;
}

static bool is_name(const char *text, size_t length, long least) {
    long characters = count_characters(text, length);
    return characters >= least && characters <= NAME_CHARS_MOST && !has_control_characters(text, length);
}

/* SPEC T-14. */
static bool is_domain(const char *text, size_t length) {
    if (length == strlen("system") && memcmp(text, "system", length) == 0) return true;
    long characters = count_characters(text, length);
    if (characters < 1 || characters > DOMAIN_CHARS_MOST || text[0] != '/') return false;
    if (has_control_characters(text, length)) return false;
    if (length == 1) return true;
    for (size_t start = 1, end; start <= length; start = end + 1) {
        for (end = start; end < length && text[end] != '/';) end++;
        size_t part = end - start;
        if (part == 0 || (part <= 2 && memcmp(text + start, "..", part) == 0)) return false;
    }
    return true;
}

/* --- frames that come in --------------------------------------------------------------------------------------- */

enum kind { ABSENT, NUMBER, NEGATIVE, FLAG, TEXT, MAP, OTHER }; /* nil is ABSENT: SPEC T-8 */

struct value {
    uint8_t kind;
    uint8_t depth;   /* of a map or an array */
    uint16_t left;   /* entries of one that are still to come */
    uint32_t length; /* bytes of a text; keys of a map so far */
    union {
        uint64_t number;
        char *text;
        struct seen *keys; /* of a map */
    } is;
};

struct message {
    struct value fields[KEYS];
    struct value result[KEYS]; /* of `result`, or else of the last map that might have been it */
    bool has_result;
    bool bad; /* a field was missing or not allowed */
};

struct reader {
    char *frame;
    struct seen *free; /* behind the keys of the maps that are open */
    struct message *message;
    unsigned depth;
};

static int take_value(enum kind kind, uint64_t number, struct value *value) {
    *value = (struct value){.kind = (uint8_t)kind, .is.number = number};
    return 0;
}

static int take_signed(int64_t number, struct value *value) {
    return take_value(number < 0 ? NEGATIVE : NUMBER, (uint64_t)number, value);
}

static int take_container(struct reader *reader, enum kind kind, uint32_t count, struct value *value) {
    if (count > ITEMS_MOST) return -1;
    *value = (struct value){.kind = (uint8_t)kind, .left = (uint16_t)count, .depth = (uint8_t)(reader->depth + 1)};
    if (count > 0) reader->depth++;
    return 0;
}

static int take_entry(struct reader *reader, struct value *container) {
    if (--container->left == 0) reader->depth--;
    return 0;
}

static bool is_word(const struct value *value, const char *text) {
    return value->kind == TEXT && strlen(text) == value->length && memcmp(text, value->is.text, value->length) == 0;
}

/* SPEC T-2. The keys of a map that ended within this one lie behind its own, and are done with. */
static bool is_repeated(struct reader *reader, struct value *map, const struct value *key) {
    struct seen *seen = map->is.keys, *end = seen + map->length++;
    for (; seen < end; seen++)
        if (seen->length == key->length && memcmp(reader->frame + seen->start, key->is.text, key->length) == 0)
            return true;
    *end = (struct seen){(uint16_t)(key->is.text - reader->frame), (uint16_t)key->length};
    reader->free = end + 1;
    return false;
}

static int take_map(struct reader *reader, uint32_t count, struct value *value) {
    if (take_container(reader, MAP, count, value) < 0) return -1;
    value->is.keys = reader->free;
    struct message *message = reader->message;
    if (value->depth == 2 && !message->has_result) memset(message->result, 0, sizeof message->result);
    return 0;
}

static int take_map_entry(struct reader *reader, struct value *map, struct value key, struct value value) {
    if (key.kind != TEXT || is_repeated(reader, map, &key)) return -1;
    take_entry(reader, map);
    struct message *message = reader->message;
    if (map->depth > 2 || (map->depth == 2 && message->has_result)) return 0;
    for (size_t i = 0; i < KEYS; i++)
        if (is_word(&key, KEY_NAMES[i])) (map->depth == 1 ? message->fields : message->result)[i] = value;
    if (map->depth == 1 && value.kind == MAP && message->fields[KEY_RESULT].kind == MAP) message->has_result = true;
    return 0;
}

static int take_text(struct reader *reader, const char *text, unsigned length, struct value *value) {
    size_t start = length > 0 ? (size_t)(text - reader->frame) : 0; /* an empty one lies nowhere */
    *value = (struct value){.kind = TEXT, .length = length, .is.text = reader->frame + start};
    return count_characters(value->is.text, length) < 0 ? -1 : 0;
}

/* msgpack's parser is a template: it wants these names, and then to be included. */
#define msgpack_unpack_struct(name) struct parser##name
#define msgpack_unpack_func(result, name) static inline result parser##name
#define msgpack_unpack_callback(name) on##name
#define msgpack_unpack_object struct value
#define msgpack_unpack_user struct reader

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#define ON_THIS(name, result) static int on##name(struct reader *reader, struct value *value) { return result; }
#define ON_GIVEN(name, type, result) \
    static int on##name(struct reader *reader, type given, struct value *value) { return result; }
#define ON_BYTES(name, result) \
    static int on##name(struct reader *reader, const char *frame, const char *at, unsigned length, struct value *value) { \
        return result; \
    }
ON_THIS(_nil, take_value(ABSENT, 0, value))
ON_THIS(_false, take_value(FLAG, false, value))
ON_THIS(_true, take_value(FLAG, true, value))
ON_GIVEN(_uint8, uint8_t, take_value(NUMBER, given, value))
ON_GIVEN(_uint16, uint16_t, take_value(NUMBER, given, value))
ON_GIVEN(_uint32, uint32_t, take_value(NUMBER, given, value))
ON_GIVEN(_uint64, uint64_t, take_value(NUMBER, given, value))
ON_GIVEN(_int8, int8_t, take_signed(given, value))
ON_GIVEN(_int16, int16_t, take_signed(given, value))
ON_GIVEN(_int32, int32_t, take_signed(given, value))
ON_GIVEN(_int64, int64_t, take_signed(given, value))
ON_GIVEN(_float, float, -1)
ON_GIVEN(_double, double, -1)
ON_GIVEN(_array, uint32_t, take_container(reader, OTHER, given, value))
ON_GIVEN(_map, uint32_t, take_map(reader, given, value))
ON_BYTES(_str, take_text(reader, at, length, value))
ON_BYTES(_bin, take_value(OTHER, 0, value))
ON_BYTES(_ext, -1)

static struct value on_root(struct reader *reader) { return (struct value){.kind = ABSENT}; }

static int on_array_item(struct reader *reader, struct value *array, struct value value) {
    return take_entry(reader, array);
}

static int on_map_item(struct reader *reader, struct value *map, struct value key, struct value value) {
    return take_map_entry(reader, map, key, value);
}
#pragma GCC diagnostic pop

#include <msgpack/unpack_template.h>

/* Decode a payload; false where it is malformed (SPEC T-11). `seen` has room for length / 2. */
static bool read_message(char *frame, size_t length, struct seen *seen, struct message *message) {
    memset(message, 0, sizeof *message);
    struct parser_context parser;
    parser.user = (struct reader){.frame = frame, .free = seen, .message = message};
    parser_init(&parser);
    size_t end = 0;
    if (parser_execute(&parser, frame, length, &end) != 1 || end != length) return false;
    if (parser_data(&parser).kind != MAP) return false;
    if (!message->has_result) memset(message->result, 0, sizeof message->result);
    return true;
}

/* What follows reads a field of a message, and notes in it where the field is missing or not allowed. */

static uint64_t read_number(struct message *message, enum key key, uint64_t most) {
    const struct value *value = &message->fields[key];
    bool good = value->kind == NUMBER && value->is.number <= most;
    message->bad |= !good;
    return good ? value->is.number : 0;
}

static bool read_flag(struct message *message, enum key key) {
    message->bad |= message->fields[key].kind != FLAG;
    return message->fields[key].is.number != 0;
}

static bool read_flag_or_false(struct message *message, enum key key) {
    return message->fields[key].kind != ABSENT && read_flag(message, key);
}

static const char *end_text(struct message *message, enum key key, bool good) {
    const struct value *value = &message->fields[key];
    message->bad |= !good;
    if (!good || value->length == 0) return "";
    value->is.text[value->length] = '\0';
    return value->is.text;
}

static const char *read_text(struct message *message, enum key key, long least, long most) {
    const struct value *value = &message->fields[key];
    long characters = value->kind == TEXT ? count_characters(value->is.text, value->length) : -1;
    return end_text(message, key, characters >= least && characters <= most);
}

static const char *read_reason(struct message *message) { return read_text(message, KEY_REASON, 0, REASON_CHARS_MOST); }

static const char *read_name(struct message *message, enum key key, long least) {
    const struct value *value = &message->fields[key];
    return end_text(message, key, value->kind == TEXT && is_name(value->is.text, value->length, least));
}

static const char *read_domain(struct message *message) {
    const struct value *value = &message->fields[KEY_DOMAIN];
    return end_text(message, KEY_DOMAIN, value->kind == TEXT && is_domain(value->is.text, value->length));
}

static unsigned read_word(struct message *message, enum key key, const word *words, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        if (is_word(&message->fields[key], words[i])) return i;
    message->bad = true;
    return 0;
}

static enum lmkd_level read_level(struct message *message) {
    return (enum lmkd_level)read_word(message, KEY_LEVEL, LEVELS, COUNT(LEVELS));
}

static enum lmkd_class read_class(struct message *message) {
    return (enum lmkd_class)read_word(message, KEY_CLASS, CLASSES, COUNT(CLASSES));
}

static uint32_t read_ms(struct message *message, enum key key) {
    return (uint32_t)read_number(message, key, INT32_MAX);
}

/* --- frames that go out ---------------------------------------------------------------------------------------- */

static int append(void *of, const char *bytes, size_t count) {
    struct lmkd_client *client = of;
    if (count > sizeof client->out - client->out_end) return -1; /* never: say has looked */
    memcpy(client->out + client->out_end, bytes, count);
    client->out_end += count;
    return 0;
}

static void pack_text(msgpack_packer *packer, const char *text) {
    msgpack_pack_str(packer, strlen(text));
    msgpack_pack_str_body(packer, text, strlen(text));
}

/* A key of a request, with a text or else a number; left out where it is what it is by default (SPEC T-9). */
struct pair {
    const char *key, *text;
    uint64_t number;
    bool left_out;
};
#define REQUIRED NULL
#define REQUIRED_NUMBER UINT64_MAX

static struct pair with_text(const char *key, const char *text, const char *by_default) {
    return (struct pair){.key = key, .text = text, .left_out = by_default != NULL && strcmp(text, by_default) == 0};
}

static struct pair with_number(const char *key, uint64_t number, uint64_t by_default) {
    return (struct pair){.key = key, .number = number, .left_out = number == by_default};
}

/* Say a request; return its id. */
static int say(struct lmkd_client *client, enum lmkd_request request, size_t count, const struct pair *pairs) {
    int id = client->last_id == INT32_MAX ? 1 : client->last_id + 1;
    struct unanswered *unanswered = &client->unanswered[id % LMKD_UNANSWERED_MOST];
    if (unanswered->id != 0) return fail(client, EAGAIN, "too many requests are not answered yet");
    if (sizeof client->out - client->out_end < REQUEST_BYTES_MOST) {
        memmove(client->out, client->out + client->out_start, client->out_end - client->out_start);
        client->out_end -= client->out_start;
        client->out_start = 0;
        if (sizeof client->out - client->out_end < REQUEST_BYTES_MOST)
            return fail(client, EAGAIN, "the daemon does not read what was said before");
    }
    *unanswered = (struct unanswered){client->last_id = id, request};
    char *frame = client->out + client->out_end;
    client->out_end += LENGTH_BYTES;
    msgpack_packer packer = {client, append};
    size_t said = 2;
    for (size_t i = 0; i < count; i++) said += !pairs[i].left_out;
    msgpack_pack_map(&packer, said);
    pack_text(&packer, "type");
    pack_text(&packer, REQUESTS[request]);
    pack_text(&packer, "id");
    msgpack_pack_int(&packer, id);
    for (const struct pair *pair = pairs; pair < pairs + count; pair++) {
        if (pair->left_out) continue;
        pack_text(&packer, pair->key);
        if (pair->text != NULL) pack_text(&packer, pair->text);
        else msgpack_pack_uint64(&packer, pair->number);
    }
    size_t length = (size_t)(client->out + client->out_end - frame) - LENGTH_BYTES;
    for (size_t i = 0; i < LENGTH_BYTES; i++) frame[i] = (char)(length >> (8 * (LENGTH_BYTES - 1 - i)));
    return id;
}

static int say_hello(struct lmkd_client *client) {
    return say(client, LMKD_HELLO, 2,
               (struct pair[]){with_number("version", 1, REQUIRED_NUMBER), with_text("name", client->name, "")});
}

static int say_subscribe(struct lmkd_client *client, struct subscription *subscription) {
    return subscription->said = say(client, LMKD_SUBSCRIBE, 2,
                                    (struct pair[]){
                                        with_text("domain", subscription->domain, "system"),
                                        with_text("propagation", PROPAGATIONS[subscription->propagation], "local"),
                                    });
}

static int say_register(struct lmkd_client *client) {
    struct app *app = &client->app;
    return app->said = say(client, LMKD_REGISTER, 4,
                           (struct pair[]){
                               with_text("name", app->name, REQUIRED),
                               with_text("class", CLASSES[app->app_class], REQUIRED),
                               with_number("sheddable_bytes", app->sheddable_bytes, 0),
                               with_text("unit", UNITS[app->unit], "process"),
                           });
}

/* --- the connection -------------------------------------------------------------------------------------------- */

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Have the timer ring after so long; 0: never. */
static void set_timer(struct lmkd_client *client, uint32_t after_ms) {
    struct itimerspec when = {.it_value = {after_ms / 1000, (long)(after_ms % 1000) * 1000000}};
    timerfd_settime(client->timer_fd, 0, &when, NULL);
}

/* As the Python client: doubled each time, shortened by chance, and begun anew after a connection that outlasted the
 * longest. A daemon that greets and dies, again and again, is not helped by haste. */
static uint32_t next_pause_ms(struct lmkd_client *client) {
    uint32_t most_ms = client->options.most_pause_ms, whole_ms = client->next_pause_ms, chance = 0;
    if (client->connected_at_ms != 0 && now_ms() - client->connected_at_ms >= most_ms)
        whole_ms = client->options.first_pause_ms;
    client->next_pause_ms = whole_ms < most_ms / 2 ? 2 * whole_ms : most_ms;
    if (getrandom(&chance, sizeof chance, GRND_NONBLOCK) != sizeof chance) chance = (uint32_t)now_ms();
    return whole_ms - chance % (whole_ms / 2 + 1);
}

static void tell_state(struct lmkd_client *client, enum lmkd_state state, const char *text) {
    bool changed = !client->told || client->state != state;
    client->state = state;
    client->told = true;
    if (changed && client->options.on_connection != NULL)
        client->options.on_connection(client, state, text, client->options.user);
}

/* There is no connection (any more): drop all that belonged to it, and say when to try again. */
static void lose(struct lmkd_client *client, int error, const char *how, const char *why, bool for_good) {
    snprintf(client->error_text, sizeof client->error_text, "%s lmkd at %s: %s", how, client->address.sun_path, why);
    if (client->socket_fd >= 0) {
        /* By name: a child that was forked may hold a copy, and then closing ours would leave it in the epoll. */
        epoll_ctl(client->watch_fd, EPOLL_CTL_DEL, client->socket_fd, NULL);
        close(client->socket_fd);
        client->socket_fd = -1;
    }
    client->in_end = client->out_start = client->out_end = 0;
    client->broken = 0;
    client->out_watched = client->has_last_word = false;
    memset(client->unanswered, 0, sizeof client->unanswered);
    bool over = for_good || client->options.once;
    if (over) client->over = error;
    set_timer(client, over ? 0 : next_pause_ms(client));
    client->connected_at_ms = 0;
    tell_state(client, over ? LMKD_OVER : LMKD_AWAY, client->error_text);
}

/* Send what the socket takes now. What cannot be sent is dropped: reading on tells why the daemon is gone. */
static void flush(struct lmkd_client *client) {
    while (client->out_start < client->out_end) {
        ssize_t sent = send(client->socket_fd, client->out + client->out_start, client->out_end - client->out_start,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
        if (sent < 0) {
            client->broken = errno;
            set_timer(client, 1);
            client->out_start = client->out_end;
        } else {
            client->out_start += (size_t)sent;
        }
    }
    if (client->out_start == client->out_end) client->out_start = client->out_end = 0;
    bool waits = client->out_end > 0;
    if (waits == client->out_watched) return;
    struct epoll_event event = {.events = waits ? EPOLLIN | EPOLLOUT : EPOLLIN};
    epoll_ctl(client->watch_fd, EPOLL_CTL_MOD, client->socket_fd, &event);
    client->out_watched = waits;
}

static bool find_socket(const char *path, struct sockaddr_un *address) {
    const char *named = path != NULL ? path : getenv("LMKD_SOCKET"), *runtime = getenv("XDG_RUNTIME_DIR");
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    size_t room = sizeof address->sun_path;
    if (named != NULL && named[0] != '\0') {
        if (strlen(named) >= room) return false;
        memcpy(address->sun_path, named, strlen(named));
        return true;
    }
    if (runtime != NULL && runtime[0] != '\0') {
        int length = snprintf(address->sun_path, room, "%s/lmkd/socket", runtime);
        if (length > 0 && (size_t)length < room && access(address->sun_path, F_OK) == 0) return true;
    }
    memset(address->sun_path, 0, room);
    memcpy(address->sun_path, SYSTEM_SOCKET, sizeof SYSTEM_SOCKET);
    return true;
}

static void connect_now(struct lmkd_client *client) {
    struct sockaddr_un address;
    /* A session's daemon may have come since the last try. */
    if (client->looks_for_socket && find_socket(NULL, &address)) client->address = address;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct epoll_event event = {.events = EPOLLIN};
    if (fd < 0 || connect(fd, (const struct sockaddr *)&client->address, sizeof client->address) < 0 ||
        epoll_ctl(client->watch_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        int error = errno;
        if (fd >= 0) close(fd);
        lose(client, error, "no", error == EAGAIN ? "too many others wait to be let in" : strerror(error), false);
        return;
    }
    client->socket_fd = fd;
    client->connection++;
    client->connected_at_ms = now_ms();
    set_timer(client, GREETING_MOST_MS);
    /* There is room for all of this: see OUT_BYTES. */
    say_hello(client);
    for (size_t i = 0; i < COUNT(client->subscriptions); i++)
        if (client->subscriptions[i].wanted) say_subscribe(client, &client->subscriptions[i]);
    if (client->app.wanted) say_register(client);
}

/* --- what a message means -------------------------------------------------------------------------------------- */

static bool take_unanswered(struct lmkd_client *client, uint64_t id, struct unanswered *request) {
    struct unanswered *unanswered = &client->unanswered[id % LMKD_UNANSWERED_MOST];
    if (id == 0 || (uint64_t)unanswered->id != id) return false;
    *request = *unanswered;
    unanswered->id = 0;
    return true;
}

static void hear_welcome(struct lmkd_client *client, struct message *message) {
    uint64_t id = read_number(message, KEY_ID, UINT32_MAX);
    if (read_number(message, KEY_VERSION, 1) == 0) message->bad = true; /* SPEC H-2 */
    const char *server = read_name(message, KEY_SERVER, 1);
    read_flag(message, KEY_CONTROLLER);
    struct unanswered hello;
    if (message->bad || !take_unanswered(client, id, &hello) || hello.request != LMKD_HELLO) return;
    set_timer(client, 0);
    tell_state(client, LMKD_OPEN, server);
}

/* What was refused is wanted no more, unless it has been asked for anew meanwhile. */
static void drop_refused(struct lmkd_client *client, int id) {
    if (client->app.said == id) client->app.wanted = false;
    for (size_t i = 0; i < COUNT(client->subscriptions); i++)
        if (client->subscriptions[i].said == id) client->subscriptions[i].wanted = false;
}

static void reply(struct lmkd_client *client, struct lmkd_reply *said) {
    if (said->code != NULL) drop_refused(client, said->id);
    if (client->options.on_reply != NULL) client->options.on_reply(client, said, client->options.user);
}

static void hear_ok(struct lmkd_client *client, struct message *message) {
    uint64_t id = read_number(message, KEY_ID, UINT32_MAX);
    if (message->fields[KEY_RESULT].kind != ABSENT && !message->has_result) message->bad = true;
    struct unanswered request;
    if (message->bad || !take_unanswered(client, id, &request)) return;
    memcpy(message->fields, message->result, sizeof message->fields); /* from here on, of the result */
    struct lmkd_reply said = {.id = request.id, .request = request.request};
    if (request.request == LMKD_REGISTER || request.request == LMKD_UPDATE)
        said.grant = (struct lmkd_grant){
            .app = read_number(message, KEY_APP, INT64_MAX),
            .app_class = read_class(message),
            .unit = (enum lmkd_unit)read_word(message, KEY_UNIT, UNITS, COUNT(UNITS)),
            .domain = read_domain(message),
            .grace_ms = read_ms(message, KEY_GRACE_MS),
            .time_to_exit_ms = read_ms(message, KEY_TIME_TO_EXIT_MS),
        };
    if (request.request == LMKD_SUBSCRIBE && message->fields[KEY_DOMAIN].kind != ABSENT) /* else: SPEC Q-3 */
        said.domain = read_domain(message);
    if (request.request == LMKD_ACK)
        said.deadline_ms = read_ms(message, KEY_DEADLINE_MS);
    if (message->bad) {
        said.code = "failed";
        said.message = "the daemon answered, but not with what the protocol says it must";
    }
    reply(client, &said);
}

static void hear_error(struct lmkd_client *client, struct message *message) {
    bool has_id = message->fields[KEY_ID].kind != ABSENT;
    uint64_t id = has_id ? read_number(message, KEY_ID, UINT32_MAX) : 0;
    const char *code = read_text(message, KEY_CODE, 1, 64);
    const char *text = read_text(message, KEY_MESSAGE, 0, REASON_CHARS_MOST);
    for (const char *at = code; *at != '\0'; at++)
        if ((unsigned char)*at >= 0x80) message->bad = true;
    struct unanswered request;
    if (message->bad) return;
    if (!has_id) {
        client->has_last_word = true;
        snprintf(client->last_word, sizeof client->last_word, "%s: %s", code, text);
    } else if (take_unanswered(client, id, &request)) {
        if (request.request == LMKD_HELLO) { /* another version: it would be refused again */
            char why[SAID_BYTES];
            snprintf(why, sizeof why, "%s: %s", code, text);
            lose(client, EPROTONOSUPPORT, "refused by", why, true);
        } else {
            struct lmkd_reply said = {.id = request.id, .request = request.request, .code = code, .message = text};
            reply(client, &said);
        }
    }
}

static void hear_pressure(struct lmkd_client *client, struct message *message) {
    struct lmkd_pressure pressure = {
        .domain = read_domain(message),
        .level = read_level(message),
        .reason = read_reason(message),
        .available_bytes = read_number(message, KEY_AVAILABLE_BYTES, INT64_MAX),
        .simulated = read_flag_or_false(message, KEY_SIMULATED),
    };
    if (!message->bad && client->options.on_pressure != NULL)
        client->options.on_pressure(client, &pressure, client->options.user);
}

static void hear_notice(struct lmkd_client *client, struct message *message) {
    struct lmkd_notice notice = {
        .number = read_number(message, KEY_NOTICE, INT64_MAX),
        .connection = client->connection,
        .domain = read_domain(message),
        .level = read_level(message),
        .target_bytes = read_number(message, KEY_TARGET_BYTES, INT64_MAX),
        .deadline_ms = read_ms(message, KEY_DEADLINE_MS),
        .reason = read_reason(message),
        .emergency = read_flag_or_false(message, KEY_EMERGENCY),
        .simulated = read_flag_or_false(message, KEY_SIMULATED),
    };
    if (!message->bad && client->app.wanted && client->options.on_notice != NULL)
        client->options.on_notice(client, &notice, client->options.user);
}

static void hear_kill_warning(struct lmkd_client *client, struct message *message) {
    struct lmkd_kill_warning warning = {
        .reason = read_reason(message),
        .time_to_exit_ms = read_ms(message, KEY_TIME_TO_EXIT_MS),
    };
    if (!message->bad && client->app.wanted && client->options.on_kill_warning != NULL)
        client->options.on_kill_warning(client, &warning, client->options.user);
}

static void hear_killed(struct lmkd_client *client, struct message *message) {
    struct lmkd_killed killed = {
        .domain = read_domain(message),
        .pid = (uint32_t)read_number(message, KEY_PID, INT32_MAX),
        .name = read_name(message, KEY_NAME, 0),
        .app_class = read_class(message),
        .reason = read_reason(message),
        .freed_bytes = read_number(message, KEY_FREED_BYTES, INT64_MAX),
    };
    if (!message->bad && client->options.on_killed != NULL)
        client->options.on_killed(client, &killed, client->options.user);
}

static void hear_bye(struct lmkd_client *client, struct message *message) {
    const char *reason = read_reason(message);
    if (message->bad) return;
    char why[SAID_BYTES];
    snprintf(why, sizeof why, "it left: %s", reason);
    lose(client, ECONNRESET, "lost", why, false);
}

/* When each message may come: before the greeting, after it, or both (SPEC H-5). What is not here is for another version
 * of us, and is passed over. */
static const struct {
    word type;
    bool before, after;
    void (*hear)(struct lmkd_client *client, struct message *message);
} HEARD[] = {
    {"welcome", true, false, hear_welcome},   {"ok", false, true, hear_ok},
    {"error", true, true, hear_error},        {"pressure", false, true, hear_pressure},
    {"notice", false, true, hear_notice},     {"kill_warning", false, true, hear_kill_warning},
    {"killed", false, true, hear_killed},     {"bye", true, true, hear_bye},
};

static void hear_frame(struct lmkd_client *client, char *frame, size_t length) {
    struct message message;
    struct seen *seen = length / 2 <= KEYS_FEW ? client->few_seen : client->seen;
    if (!read_message(frame, length, seen, &message)) return;
    const struct value *type = &message.fields[KEY_TYPE];
    bool greeted = client->state == LMKD_OPEN;
    for (size_t i = 0; i < COUNT(HEARD); i++)
        if (is_word(type, HEARD[i].type) && (greeted ? HEARD[i].after : HEARD[i].before)) {
            char next = frame[length]; /* of the next frame: a NUL is put there where a text is last */
            HEARD[i].hear(client, &message);
            frame[length] = next;
            return;
        }
}

static void hear_frames(struct lmkd_client *client) {
    size_t start = 0;
    while (client->socket_fd >= 0 && client->in_end - start >= LENGTH_BYTES) {
        size_t length = 0;
        for (size_t i = 0; i < LENGTH_BYTES; i++) length = length << 8 | (unsigned char)client->in[start + i];
        if (length < 1 || length > FRAME_BYTES_MOST) {
            char why[64];
            snprintf(why, sizeof why, "it broke the protocol: a frame of %zu bytes", length);
            lose(client, EPROTO, "lost", why, false);
        } else if (client->in_end - start - LENGTH_BYTES >= length) {
            hear_frame(client, client->in + start + LENGTH_BYTES, length);
            start += LENGTH_BYTES + length;
        } else {
            break;
        }
    }
    if (client->socket_fd < 0) return;
    memmove(client->in, client->in + start, client->in_end - start);
    client->in_end -= start;
}

static void fill(struct lmkd_client *client) {
    for (int reads = 0; reads < READS_AT_ONCE && client->socket_fd >= 0; reads++) {
        size_t room = LENGTH_BYTES + FRAME_BYTES_MOST - client->in_end;
        ssize_t got = recv(client->socket_fd, client->in + client->in_end, room, MSG_DONTWAIT);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (got <= 0) {
            int error = got < 0 ? errno : ECONNRESET;
            const char *why = got < 0 ? strerror(error) : "it closed the connection";
            lose(client, error, "lost", client->has_last_word ? client->last_word : why, false);
        } else {
            client->in_end += (size_t)got;
            hear_frames(client);
        }
    }
}

/* --- the functions of the header ------------------------------------------------------------------------------- */

static struct lmkd_client *give_up(struct lmkd_client *client, int error) {
    lmkd_free(client);
    errno = error;
    return NULL;
}

struct lmkd_client *lmkd_new(const struct lmkd_options *options) {
    struct lmkd_client *client = calloc(1, sizeof *client);
    if (client == NULL) return NULL;
    client->socket_fd = client->timer_fd = client->watch_fd = -1;
    if (options != NULL) client->options = *options;
    struct lmkd_options *kept = &client->options;
    if (kept->first_pause_ms == 0) kept->first_pause_ms = FIRST_PAUSE_MS;
    if (kept->most_pause_ms == 0) kept->most_pause_ms = MOST_PAUSE_MS;
    if (kept->most_pause_ms < kept->first_pause_ms) kept->most_pause_ms = kept->first_pause_ms;
    client->next_pause_ms = kept->first_pause_ms;
    if (!find_socket(kept->path, &client->address)) return give_up(client, ENAMETOOLONG);
    client->looks_for_socket = kept->path == NULL;
    if (kept->name != NULL) {
        if (!is_name(kept->name, strlen(kept->name), 0)) return give_up(client, EINVAL);
        memcpy(client->name, kept->name, strlen(kept->name));
    }
    kept->path = kept->name = NULL;
    client->watch_fd = epoll_create1(EPOLL_CLOEXEC);
    client->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN};
    if (client->watch_fd < 0 || client->timer_fd < 0 ||
        epoll_ctl(client->watch_fd, EPOLL_CTL_ADD, client->timer_fd, &event) < 0)
        return give_up(client, errno);
    set_timer(client, 1);
    return client;
}

void lmkd_free(struct lmkd_client *client) {
    if (client == NULL) return;
    int fds[] = {client->socket_fd, client->timer_fd, client->watch_fd};
    for (size_t i = 0; i < COUNT(fds); i++)
        if (fds[i] >= 0) close(fds[i]);
    free(client);
}

int lmkd_fd(const struct lmkd_client *client) { return client == NULL ? -1 : client->watch_fd; }

enum lmkd_state lmkd_state(const struct lmkd_client *client) { return client == NULL ? LMKD_OVER : client->state; }

const char *lmkd_error_text(const struct lmkd_client *client) {
    return client == NULL ? "no client: lmkd_new has failed" : client->error_text;
}

int lmkd_dispatch(struct lmkd_client *client) {
    if (client == NULL) return -EINVAL;
    if (client->dispatching) return fail(client, EBUSY, "lmkd_dispatch: not from a callback");
    if (client->state == LMKD_OVER) return -client->over;
    client->dispatching = true;
    uint64_t rings;
    bool rang = client->state == LMKD_AWAY && read(client->timer_fd, &rings, sizeof rings) == sizeof rings;
    if (client->socket_fd < 0 && (rang || !client->told)) connect_now(client);
    else if (rang && client->broken == 0) lose(client, ETIMEDOUT, "lost", "no greeting came in time", false);
    if (client->socket_fd >= 0) flush(client);
    if (client->socket_fd >= 0) fill(client);
    if (client->socket_fd >= 0) flush(client);
    if (client->socket_fd >= 0 && client->broken != 0)
        lose(client, client->broken, "lost", strerror(client->broken), false);
    client->dispatching = false;
    return client->state == LMKD_OVER ? -client->over : 0;
}

int lmkd_wait(struct lmkd_client *client, int timeout_ms) {
    if (client == NULL) return -EINVAL;
    if (client->state == LMKD_OVER) return -client->over;
    struct pollfd ready = {.fd = client->watch_fd, .events = POLLIN};
    int count = poll(&ready, 1, timeout_ms);
    if (count < 0 && errno != EINTR) return fail(client, errno, strerror(errno));
    return count > 0 ? lmkd_dispatch(client) : 0;
}

static const char *name_word(const word *words, size_t count, unsigned number) {
    return number < count ? words[number] : "?";
}

const char *lmkd_level_name(enum lmkd_level level) { return name_word(LEVELS, COUNT(LEVELS), level); }

const char *lmkd_class_name(enum lmkd_class app_class) { return name_word(CLASSES, COUNT(CLASSES), app_class); }

const char *lmkd_unit_name(enum lmkd_unit unit) { return name_word(UNITS, COUNT(UNITS), unit); }

/* Begin what a program asks for: whether that can be said at all, before any of its values is looked at. */
static int begin_call(struct lmkd_client *client, bool allowed, const char *otherwise) {
    if (client == NULL) return -EINVAL;
    if (!allowed) return fail(client, EINVAL, otherwise);
    return client->state == LMKD_OVER ? -client->over : 0;
}

/* Send what was said, unless a dispatch is under way, which will. */
static int end_call(struct lmkd_client *client, int id) {
    if (id > 0 && !client->dispatching) flush(client);
    return id;
}

static bool is_app(const struct lmkd_client *client) { return client != NULL && client->app.wanted; }

static bool is_app_class(enum lmkd_class app_class) { return (unsigned)app_class < LMKD_SYSTEM; }

int lmkd_register(struct lmkd_client *client, const char *name, enum lmkd_class app_class, uint64_t sheddable_bytes,
                  enum lmkd_unit unit) {
    bool allowed = name != NULL && is_name(name, strlen(name), 1) && is_app_class(app_class) &&
                   (unsigned)unit < COUNT(UNITS) && sheddable_bytes <= INT64_MAX;
    int error = begin_call(client, allowed,
                           "lmkd_register: expected a name of 1 to 64 characters without control characters, a class "
                           "below `system`, a unit, and at most 2^63-1 bytes");
    if (error < 0) return error;
    struct app *app = &client->app;
    if (app->wanted) return fail(client, EALREADY, "lmkd_register: registered already; a client is one app");
    *app = (struct app){.wanted = true, .app_class = app_class, .unit = unit, .sheddable_bytes = sheddable_bytes};
    memcpy(app->name, name, strlen(name));
    int id = client->socket_fd >= 0 ? say_register(client) : 0;
    if (id < 0) app->wanted = false;
    return end_call(client, id);
}

int lmkd_update(struct lmkd_client *client, enum lmkd_class app_class, uint64_t sheddable_bytes) {
    bool allowed = is_app(client) && is_app_class(app_class) && sheddable_bytes <= INT64_MAX;
    int error = begin_call(client, allowed,
                           "lmkd_update: expected to be registered, a class below `system`, at most 2^63-1 bytes");
    if (error < 0) return error;
    struct app *app = &client->app;
    struct pair pairs[] = {
        with_text("class", CLASSES[app_class], REQUIRED),
        with_number("sheddable_bytes", sheddable_bytes, REQUIRED_NUMBER),
    };
    int id = client->socket_fd >= 0 ? say(client, LMKD_UPDATE, COUNT(pairs), pairs) : 0;
    if (id >= 0) app->app_class = app_class, app->sheddable_bytes = sheddable_bytes;
    return end_call(client, id);
}

int lmkd_unregister(struct lmkd_client *client) {
    int error = begin_call(client, is_app(client), "lmkd_unregister: not registered");
    if (error < 0) return error;
    int id = client->socket_fd >= 0 ? say(client, LMKD_UNREGISTER, 0, NULL) : 0;
    if (id >= 0) client->app.wanted = false;
    return end_call(client, id);
}

static struct subscription *find_subscription(struct lmkd_client *client, const char *domain) {
    for (size_t i = 0; i < COUNT(client->subscriptions); i++) {
        struct subscription *subscription = &client->subscriptions[i];
        if (domain == NULL ? !subscription->wanted : subscription->wanted && strcmp(subscription->domain, domain) == 0)
            return subscription;
    }
    return NULL;
}

int lmkd_subscribe(struct lmkd_client *client, const char *domain, enum lmkd_propagation propagation) {
    bool allowed = domain != NULL && (strcmp(domain, "own") == 0 || is_domain(domain, strlen(domain))) &&
                   (unsigned)propagation < COUNT(PROPAGATIONS);
    int error = begin_call(client, allowed,
                           "lmkd_subscribe: expected \"system\", \"own\" or the absolute path of a cgroup, and a propagation");
    if (error < 0) return error;
    if (find_subscription(client, domain) != NULL)
        return fail(client, EALREADY, "lmkd_subscribe: that domain is subscribed already");
    struct subscription *subscription = find_subscription(client, NULL);
    if (subscription == NULL) return fail(client, ENOSPC, "lmkd_subscribe: too many domains are subscribed");
    subscription->wanted = true;
    subscription->propagation = propagation;
    memcpy(subscription->domain, domain, strlen(domain) + 1);
    int id = client->socket_fd >= 0 ? say_subscribe(client, subscription) : 0;
    if (id < 0) subscription->wanted = false;
    return end_call(client, id);
}

int lmkd_unsubscribe(struct lmkd_client *client, const char *domain) {
    bool named = client != NULL && domain != NULL;
    struct subscription *subscription = named ? find_subscription(client, domain) : NULL;
    int error = begin_call(client, subscription != NULL, "lmkd_unsubscribe: that domain is not subscribed");
    if (error < 0) return error;
    struct pair pair = with_text("domain", domain, "system");
    int id = client->socket_fd >= 0 ? say(client, LMKD_UNSUBSCRIBE, 1, &pair) : 0;
    if (id >= 0) subscription->wanted = false;
    return end_call(client, id);
}

int lmkd_ack(struct lmkd_client *client, const struct lmkd_notice *notice, enum lmkd_answer answer,
             uint64_t freed_bytes) {
    bool allowed = is_app(client) && notice != NULL && (unsigned)answer < COUNT(ANSWERS) && freed_bytes <= INT64_MAX;
    int error = begin_call(client, allowed,
                           "lmkd_ack: expected to be registered, a notice, an answer, and at most 2^63-1 bytes");
    if (error < 0) return error;
    if (client->state != LMKD_OPEN || notice->connection != client->connection) return 0;
    struct pair pairs[] = {
        with_number("notice", notice->number, REQUIRED_NUMBER),
        with_text("answer", ANSWERS[answer], REQUIRED),
        with_number("freed_bytes", freed_bytes, 0),
    };
    return end_call(client, say(client, LMKD_ACK, COUNT(pairs), pairs));
}

int lmkd_simulate(struct lmkd_client *client, enum lmkd_level level, enum lmkd_scope scope, uint32_t duration_ms) {
    bool allowed = (unsigned)level < COUNT(LEVELS) && (unsigned)scope < COUNT(SCOPES) && duration_ms <= INT32_MAX;
    int error = begin_call(client, allowed, "lmkd_simulate: expected a level, a scope, and at most 2^31-1 ms");
    if (error < 0) return error;
    if (client->socket_fd < 0) return fail(client, ENOTCONN, "lmkd_simulate: the daemon is away");
    struct pair pairs[] = {
        with_text("level", LEVELS[level], REQUIRED),
        with_text("scope", SCOPES[scope], "self"),
        with_number("duration_ms", duration_ms, 5000),
    };
    return end_call(client, say(client, LMKD_SIMULATE, COUNT(pairs), pairs));
}

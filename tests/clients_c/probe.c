/* A client that does what it is told on its standard input, a line each, and says what it hears on its output.
 *
 *   probe [once] FIRST_PAUSE_MS MOST_PAUSE_MS
 *
 * It has no buffers of stdio's, so that what is on its heap is the client's. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lmkd.h"

static struct lmkd_notice last;
static unsigned dispatches;

static void say(const char *format, ...) {
    static char line[8192];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(line, sizeof line - 1, format, values);
    va_end(values);
    if (length > (int)sizeof line - 2) length = (int)sizeof line - 2;
    line[length++] = '\n';
    if (write(STDOUT_FILENO, line, (size_t)length) != length) exit(3);
}

static void on_notice(struct lmkd_client *client, const struct lmkd_notice *notice, void *user) {
    (void)client, (void)user;
    last = *notice;
    say("notice %llu %s %s %llu %u %d %d %s", (unsigned long long)notice->number, notice->domain,
        lmkd_level_name(notice->level), (unsigned long long)notice->target_bytes, notice->deadline_ms,
        notice->emergency, notice->simulated, notice->reason);
    if (strcmp(notice->reason, "answer in the callback") == 0)
        say("returned %d", lmkd_ack(client, notice, LMKD_DONE, notice->target_bytes));
    if (strcmp(notice->reason, "dispatch in the callback") == 0)
        say("returned %d %s", lmkd_dispatch(client), lmkd_error_text(client));
}

static void on_pressure(struct lmkd_client *client, const struct lmkd_pressure *pressure, void *user) {
    (void)client, (void)user;
    say("pressure %s %s %llu %d %s", pressure->domain, lmkd_level_name(pressure->level),
        (unsigned long long)pressure->available_bytes, pressure->simulated, pressure->reason);
}

static void on_kill_warning(struct lmkd_client *client, const struct lmkd_kill_warning *warning, void *user) {
    (void)client, (void)user;
    say("kill_warning %u %s", warning->time_to_exit_ms, warning->reason);
}

static void on_killed(struct lmkd_client *client, const struct lmkd_killed *killed, void *user) {
    (void)client, (void)user;
    say("killed %s %u %s %s %llu %s", killed->domain, killed->pid, killed->name, lmkd_class_name(killed->app_class),
        (unsigned long long)killed->freed_bytes, killed->reason);
}

static void on_connection(struct lmkd_client *client, enum lmkd_state state, const char *text, void *user) {
    (void)client, (void)user;
    say("%s %s", state == LMKD_OPEN ? "open" : state == LMKD_AWAY ? "away" : "over", text);
}

static void on_reply(struct lmkd_client *client, const struct lmkd_reply *reply, void *user) {
    static const char *const words[] = {"hello",  "subscribe",  "unsubscribe", "register",
                                        "update", "unregister", "ack",         "simulate"};
    (void)client, (void)user;
    const char *word = words[reply->request];
    const struct lmkd_grant *grant = &reply->grant;
    if (reply->code != NULL) say("refused %s %s %s", word, reply->code, reply->message);
    else if (reply->request == LMKD_REGISTER || reply->request == LMKD_UPDATE)
        say("ok %s %llu %s %s %s %u %u", word, (unsigned long long)grant->app, lmkd_class_name(grant->app_class),
            lmkd_unit_name(grant->unit), grant->domain, grant->grace_ms, grant->time_to_exit_ms);
    else if (reply->request == LMKD_SUBSCRIBE) say("ok %s %s", word, reply->domain ? reply->domain : "as asked");
    else if (reply->request == LMKD_ACK) say("ok %s %u", word, reply->deadline_ms);
    else say("ok %s", word);
}

static int find(const char *word, const char *(*name)(int), int count) {
    for (int i = 0; i < count; i++)
        if (strcmp(name(i), word) == 0) return i;
    return atoi(word);
}
static const char *level(int i) { return lmkd_level_name((enum lmkd_level)i); }
static const char *app_class(int i) { return lmkd_class_name((enum lmkd_class)i); }
static const char *unit(int i) { return lmkd_unit_name((enum lmkd_unit)i); }
static const char *answer(int i) { return ((const char *[]){"done", "working", "nothing"})[i]; }
static const char *propagation(int i) { return ((const char *[]){"local", "default", "hierarchy"})[i]; }
static const char *scope(int i) { return ((const char *[]){"self", "all"})[i]; }

/* Do what a line says; false at its end. */
static int act(struct lmkd_client *client, char *line) {
    static char word[32], first[5000], second[64], third[64];
    unsigned long long number = 0;
    word[0] = first[0] = second[0] = third[0] = '\0';
    sscanf(line, "%31s %4999s %63s %63s", word, first, second, third);
    int result;
    if (strcmp(word, "register") == 0) {
        sscanf(line, "%*s %*s %*s %llu", &number);
        char last_word[64] = "process";
        sscanf(line, "%*s %*s %*s %*s %63s", last_word);
        result = lmkd_register(client, first, (enum lmkd_class)find(second, app_class, 6), number,
                               (enum lmkd_unit)find(last_word, unit, 3));
    } else if (strcmp(word, "update") == 0) {
        sscanf(second, "%llu", &number);
        result = lmkd_update(client, (enum lmkd_class)find(first, app_class, 6), number);
    } else if (strcmp(word, "unregister") == 0) {
        result = lmkd_unregister(client);
    } else if (strcmp(word, "subscribe") == 0) {
        result = lmkd_subscribe(client, first, (enum lmkd_propagation)find(second, propagation, 3));
    } else if (strcmp(word, "unsubscribe") == 0) {
        result = lmkd_unsubscribe(client, first);
    } else if (strcmp(word, "ack") == 0) {
        sscanf(second, "%llu", &number);
        result = lmkd_ack(client, &last, (enum lmkd_answer)find(first, answer, 3), number);
    } else if (strcmp(word, "simulate") == 0) {
        result = lmkd_simulate(client, (enum lmkd_level)find(first, level, 4), (enum lmkd_scope)find(second, scope, 2),
                               (uint32_t)strtoul(third, NULL, 10));
    } else if (strcmp(word, "heap") == 0) {
        struct mallinfo2 heap = mallinfo2();
        say("heap %zu", heap.uordblks + heap.hblkhd);
        return 1;
    } else if (strcmp(word, "work") == 0) {
        struct rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        say("work %u %ld", dispatches,
            (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000);
        return 1;
    } else if (strcmp(word, "blind") == 0) {
        /* A request on a connection that has ended, before anything tells the client so. */
        struct pollfd ended = {.fd = lmkd_fd(client), .events = POLLIN};
        if (poll(&ended, 1, 10000) != 1) exit(3);
        result = lmkd_simulate(client, LMKD_LOW, LMKD_SELF, 1);
    } else if (strcmp(word, "fork") == 0) {
        /* A child that keeps a copy of every descriptor for as long as this process lives. */
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (;;) pause();
        }
        say("forked");
        return 1;
    } else if (strcmp(word, "fd") == 0) {
        struct pollfd ready = {.fd = lmkd_fd(client), .events = POLLIN};
        say("fd %d", poll(&ready, 1, 0));
        return 1;
    } else {
        return 0;
    }
    say("returned %d%s%s", result, result < 0 ? " " : "", result < 0 ? lmkd_error_text(client) : "");
    return 1;
}

int main(int count, char **words) {
    int once = count > 1 && strcmp(words[1], "once") == 0;
    struct lmkd_options options = {
        .name = "probe",
        .once = once,
        .first_pause_ms = count > 1 + once ? (uint32_t)atoi(words[1 + once]) : 0,
        .most_pause_ms = count > 2 + once ? (uint32_t)atoi(words[2 + once]) : 0,
        .on_notice = on_notice,
        .on_pressure = on_pressure,
        .on_kill_warning = on_kill_warning,
        .on_killed = on_killed,
        .on_connection = on_connection,
        .on_reply = on_reply,
    };
    struct lmkd_client *client = lmkd_new(&options);
    if (client == NULL) {
        say("no client: %s", strerror(errno));
        return 1;
    }
    static char lines[8192];
    size_t held = 0;
    struct pollfd ready[] = {{.fd = lmkd_fd(client), .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
    for (;;) {
        if (poll(ready, 2, -1) < 0) continue;
        if (ready[0].revents) {
            dispatches++;
            int result = lmkd_dispatch(client);
            if (result < 0) say("dispatched %d %s", result, lmkd_error_text(client));
        }
        if (!ready[1].revents) continue;
        ssize_t got = read(STDIN_FILENO, lines + held, sizeof lines - held);
        if (got <= 0) break;
        held += (size_t)got;
        char *start = lines, *end;
        while ((end = memchr(start, '\n', held - (size_t)(start - lines))) != NULL) {
            *end = '\0';
            if (!act(client, start)) goto done;
            start = end + 1;
        }
        held -= (size_t)(start - lines);
        memmove(lines, start, held);
    }
done:
    lmkd_free(client);
    say("done");
    return 0;
}

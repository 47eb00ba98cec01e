/* Says every level of memory pressure, and who was ended: a program with GLib's main loop.
 *
 *   cc watch_levels.c $(pkg-config --cflags --libs lmkd glib-2.0) && ./a.out [COUNT]
 *
 * Ends after COUNT levels, or at SIGTERM or Ctrl-C. */
#include <glib-unix.h>
#include <lmkd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

struct watcher {
    GMainLoop *loop;
    struct lmkd_client *client;
    int left; /* levels that are still to be said; below 0: all there are */
};

static void on_pressure(struct lmkd_client *client, const struct lmkd_pressure *pressure, void *user) {
    struct watcher *watcher = user;
    (void)client;
    printf("%s %s%s: %s\n", pressure->domain, lmkd_level_name(pressure->level),
           pressure->simulated ? " (simulated)" : "", pressure->reason);
    if (--watcher->left == 0) g_main_loop_quit(watcher->loop);
}

static void on_killed(struct lmkd_client *client, const struct lmkd_killed *killed, void *user) {
    (void)client, (void)user;
    printf("%s: ended %s (pid %u): %s\n", killed->domain, killed->name, killed->pid, killed->reason);
}

static void on_connection(struct lmkd_client *client, enum lmkd_state state, const char *text, void *user) {
    (void)client, (void)user;
    if (state != LMKD_OPEN) printf("%s\n", text);
}

static gboolean on_ready(gint fd, GIOCondition condition, gpointer user) {
    struct watcher *watcher = user;
    (void)fd, (void)condition;
    return lmkd_dispatch(watcher->client) == 0 ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

static gboolean on_signal(gpointer user) {
    struct watcher *watcher = user;
    g_main_loop_quit(watcher->loop);
    return G_SOURCE_CONTINUE;
}

int main(int count, char **words) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct watcher watcher = {.loop = g_main_loop_new(NULL, FALSE), .left = count > 1 ? atoi(words[1]) : -1};
    struct lmkd_options options = {
        .name = "watch_levels",
        .on_pressure = on_pressure,
        .on_killed = on_killed,
        .on_connection = on_connection,
        .user = &watcher,
    };
    watcher.client = lmkd_new(&options);
    if (watcher.client == NULL) return perror("lmkd"), 1;
    lmkd_subscribe(watcher.client, "system", LMKD_LOCAL);
    g_unix_fd_add(lmkd_fd(watcher.client), G_IO_IN, on_ready, &watcher);
    g_unix_signal_add(SIGTERM, on_signal, &watcher);
    g_unix_signal_add(SIGINT, on_signal, &watcher);
    g_main_loop_run(watcher.loop);
    lmkd_free(watcher.client);
    g_main_loop_unref(watcher.loop);
    puts("done");
    return 0;
}

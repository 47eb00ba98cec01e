/* A program that listens to memory as any GLib program does: it prints the level of each warning that it hears. */
#include <gio/gio.h>
#include <stdio.h>
#include <unistd.h>

static void say(GMemoryMonitor *monitor, GMemoryMonitorWarningLevel level, gpointer unused)
{
    (void)monitor;
    (void)unused;
    printf("warning %d\n", (int)level);
    fflush(stdout);
}

static void appeared(GDBusConnection *bus, const char *name, const char *owner, gpointer unused)
{
    (void)bus;
    (void)unused;
    printf("%s is owned by %s\n", name, owner);
    fflush(stdout);
}

int main(void)
{
    GMemoryMonitor *monitor = g_memory_monitor_dup_default();

    printf("listening by %s\n", G_OBJECT_TYPE_NAME(monitor));
    fflush(stdout);
    g_signal_connect(monitor, "low-memory-warning", G_CALLBACK(say), NULL);
    g_bus_watch_name(G_BUS_TYPE_SYSTEM, "org.freedesktop.LowMemoryMonitor", G_BUS_NAME_WATCHER_FLAGS_NONE, appeared,
                     NULL, NULL, NULL);
    g_main_loop_run(g_main_loop_new(NULL, FALSE));
    return 0;
}

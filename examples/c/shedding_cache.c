/* A cache that gives its oldest blocks back when memory runs short: a program in C with a loop around poll.
 *
 *   cc shedding_cache.c $(pkg-config --cflags --libs lmkd) && ./a.out [MIB]
 *
 * The blocks are memory maps of their own, so what is dropped goes back to the system at once, and not to an allocator
 * that keeps it. Ends at SIGTERM or Ctrl-C. */
#define _GNU_SOURCE
#include <lmkd.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define BLOCKS_MOST 4096

struct cache {
    void *blocks[BLOCKS_MOST]; /* the oldest is at `first` */
    size_t first, end;
};

static void fill(struct cache *cache, size_t count) {
    while (cache->end < count && cache->end < BLOCKS_MOST) {
        void *block = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (block == MAP_FAILED) break;
        memset(block, (int)cache->end + 1, MIB);
        cache->blocks[cache->end++] = block;
    }
}

/* Drop blocks until so much is free, or none is left; return how much that was. */
static uint64_t shed(struct cache *cache, uint64_t target_bytes) {
    uint64_t freed_bytes = 0;
    while (cache->first < cache->end && freed_bytes < target_bytes) {
        munmap(cache->blocks[cache->first++], MIB);
        freed_bytes += MIB;
    }
    return freed_bytes;
}

static void on_notice(struct lmkd_client *client, const struct lmkd_notice *notice, void *user) {
    struct cache *cache = user;
    if (notice->level == LMKD_NORMAL) return;
    uint64_t freed_bytes = shed(cache, notice->target_bytes);
    lmkd_ack(client, notice, freed_bytes > 0 ? LMKD_DONE : LMKD_NOTHING, freed_bytes);
    printf("%s: asked for %llu MiB, freed %llu MiB, holding %zu MiB\n", lmkd_level_name(notice->level),
           (unsigned long long)notice->target_bytes / MIB, (unsigned long long)freed_bytes / MIB,
           cache->end - cache->first);
}

static void on_reply(struct lmkd_client *client, const struct lmkd_reply *reply, void *user) {
    (void)client, (void)user;
    if (reply->code != NULL) printf("refused: %s: %s\n", reply->code, reply->message);
    else if (reply->request == LMKD_REGISTER) printf("registered as %s\n", lmkd_class_name(reply->grant.app_class));
}

int main(int count, char **words) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    static struct cache cache;
    fill(&cache, count > 1 ? (size_t)atoi(words[1]) : 32);
    printf("holding %zu MiB\n", cache.end);

    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    int signals = signalfd(-1, &ends, SFD_CLOEXEC);

    struct lmkd_options options = {.name = "cache", .on_notice = on_notice, .on_reply = on_reply, .user = &cache};
    struct lmkd_client *client = lmkd_new(&options);
    if (client == NULL || signals < 0) return perror("lmkd"), 1;
    lmkd_register(client, "cache", LMKD_CACHED, cache.end * MIB, LMKD_PROCESS);

    struct pollfd ready[] = {{.fd = lmkd_fd(client), .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    while (poll(ready, 2, -1) >= 0 && ready[1].revents == 0)
        if (ready[0].revents != 0) lmkd_dispatch(client);
    lmkd_free(client);
    close(signals);
    shed(&cache, UINT64_MAX);
    puts("done");
    return 0;
}

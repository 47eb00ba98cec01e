/* How long a notice takes to its callback in C: a client that is its own daemon.
 *
 *   callbacks PATH WELCOME NOTICE COUNT [apart]
 *
 * WELCOME (hex) is all that is said to a client first, NOTICE a frame whose target is the eight bytes 0x11, where the time of
 * sending is put. Prints for each notice the nanoseconds from before its send to its callback: send, poll, receive, decode,
 * call. With `apart` another process sends, so that the waking is in it. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "lmkd.h"

static unsigned heard;
static long long *took_ns;

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void on_notice(struct lmkd_client *client, const struct lmkd_notice *notice, void *user) {
    (void)client, (void)user;
    took_ns[heard++] = now_ns() - (long long)notice->target_bytes;
}

static size_t read_hex(const char *hex, unsigned char *bytes) {
    size_t length = 0;
    for (unsigned byte; sscanf(hex, "%2x", &byte) == 1; hex += 2) bytes[length++] = (unsigned char)byte;
    return length;
}

static void send_notice(int fd, unsigned char *notice, size_t length, size_t target) {
    long long now = now_ns();
    for (int i = 0; i < 8; i++) notice[target + (size_t)i] = (unsigned char)(now >> (56 - 8 * i));
    if (send(fd, notice, length, MSG_NOSIGNAL) != (ssize_t)length) exit(1);
}

int main(int count, char **words) {
    if (count < 5) return 2;
    static unsigned char welcome[4096], notice[4096], said[4096];
    size_t welcome_length = read_hex(words[2], welcome), length = read_hex(words[3], notice);
    size_t target = (size_t)((unsigned char *)memmem(notice, length, "\x11\x11\x11\x11\x11\x11\x11\x11", 8) - notice);
    unsigned most = (unsigned)atoi(words[4]);
    int apart = count > 5;
    took_ns = calloc(most, sizeof *took_ns);
    struct lmkd_client *client = lmkd_new(&(struct lmkd_options){.path = words[1], .on_notice = on_notice});
    lmkd_register(client, "bench", LMKD_CACHED, 1 << 20, LMKD_PROCESS);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, words[1], sizeof address.sun_path - 1);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1)) return perror("bind"), 1;
    lmkd_dispatch(client);
    int peer = accept(listener, NULL, NULL);
    if (read(peer, said, sizeof said) <= 0 || write(peer, welcome, welcome_length) < 0) return perror("peer"), 1;
    lmkd_dispatch(client);
    if (apart && fork() == 0) {
        for (unsigned i = 0; i < most; i++) {
            nanosleep(&(struct timespec){0, 2000000}, NULL);
            send_notice(peer, notice, length, target);
        }
        _exit(0);
    }
    while (heard < most) {
        if (!apart) send_notice(peer, notice, length, target);
        if (lmkd_wait(client, 10000) < 0) return fprintf(stderr, "%s\n", lmkd_error_text(client)), 1;
    }
    for (unsigned i = 0; i < most; i++) printf("%lld\n", took_ns[i]);
    lmkd_free(client);
    return 0;
}

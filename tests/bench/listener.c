/* A client in C, by the library; or with -DBARE the same system calls without it, and nothing of the protocol known.
 *
 *   listener PATH HEX      connects, says what there is to say (BARE: HEX), and hears, until something is on its input
 *
 * Both have a buffer of 64 KiB from the heap: the library needs one, and whoever speaks this protocol does. */
#define _GNU_SOURCE
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static unsigned heard;

static int wait_for_all(int fd, int (*dispatch)(void *), void *of) {
    struct pollfd ready[] = {{.fd = fd, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
    while (poll(ready, 2, -1) > 0 && !ready[1].revents)
        if (ready[0].revents && dispatch(of) < 0) return 1;
    return heard == 0;
}

#ifdef BARE

static int receive(void *of) {
    static char *buffer;
    if (buffer == NULL) buffer = malloc(65536);
    while (recv(*(int *)of, buffer, 65536, MSG_DONTWAIT) > 0) heard++;
    return 0;
}

int main(int count, char **words) {
    if (count < 3) return 2;
    static unsigned char said[4096];
    size_t length = 0;
    for (const char *hex = words[2]; hex[0] && hex[1]; hex += 2)
        said[length++] = (unsigned char)((hex[0] % 32 + 9 * (hex[0] / 64)) % 16 << 4 | (hex[1] % 32 + 9 * (hex[1] / 64)) % 16);
    struct timespec now;
    struct itimerspec when = {.it_value = {10, 0}};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, words[1], sizeof address.sun_path - 1);
    int watch = epoll_create1(EPOLL_CLOEXEC), timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN};
    epoll_ctl(watch, EPOLL_CTL_ADD, timer, &event);
    clock_gettime(CLOCK_MONOTONIC, &now);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) return 1;
    epoll_ctl(watch, EPOLL_CTL_ADD, fd, &event);
    timerfd_settime(timer, 0, &when, NULL);
    if (send(fd, said, length, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)length) return 1;
    return wait_for_all(watch, receive, &fd);
}

#else

#include "lmkd.h"

static void on_notice(struct lmkd_client *client, const struct lmkd_notice *notice, void *user) {
    (void)client, (void)notice, (void)user;
    heard++;
}

static int dispatch(void *of) { return lmkd_dispatch(of); }

int main(int count, char **words) {
    if (count < 3) return 2;
    struct lmkd_client *client = lmkd_new(&(struct lmkd_options){.path = words[1], .on_notice = on_notice});
    lmkd_register(client, "bench", LMKD_CACHED, 1 << 20, LMKD_PROCESS);
    return wait_for_all(lmkd_fd(client), dispatch, client);
}

#endif

/* Many clients in one process: connects N stream sockets and, each round, says when the last of them had something.
 *
 *   receivers PATH N HEX      HEX: what each says after connecting, "-" for nothing
 *
 * On a line "arm" it drains all sockets and answers "armed"; it then waits until each has received at least a byte and
 * prints the CLOCK_MONOTONIC nanoseconds of the last. The same program serves lmkd and its peer in C. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int count = atoi(argv[2]);
    unsigned char words[4096];
    size_t length = 0;
    if (strcmp(argv[3], "-"))
        for (const char *hex = argv[3]; hex[0] && hex[1]; hex += 2) {
            unsigned byte;
            sscanf(hex, "%2x", &byte);
            words[length++] = (unsigned char)byte;
        }
    int *fds = calloc(count, sizeof *fds), *heard = calloc(count, sizeof *heard);
    int poll = epoll_create1(0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
    for (int i = 0; i < count; i++) {
        fds[i] = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(fds[i], (struct sockaddr *)&address, sizeof address)) return perror("connect"), 1;
        if (length && write(fds[i], words, length) != (ssize_t)length) return perror("write"), 1;
        fcntl(fds[i], F_SETFL, O_NONBLOCK);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        epoll_ctl(poll, EPOLL_CTL_ADD, fds[i], &event);
    }
    puts("connected");
    fflush(stdout);
    char line[64], buffer[65536];
    struct epoll_event events[1024];
    for (int round = 1; fgets(line, sizeof line, stdin); round++) {
        for (int i = 0; i < count; i++)
            while (read(fds[i], buffer, sizeof buffer) > 0) {}
        puts("armed");
        fflush(stdout);
        long long last = 0;
        for (int left = count; left > 0;) {
            int ready = epoll_wait(poll, events, 1024, 20000);
            if (ready <= 0) return fprintf(stderr, "%d of %d heard nothing\n", left, count), 1;
            for (int e = 0; e < ready; e++) {
                int i = events[e].data.u32;
                if (read(fds[i], buffer, sizeof buffer) <= 0) return fprintf(stderr, "closed\n"), 1;
                last = now_ns();
                if (heard[i] != round) heard[i] = round, left--;
            }
        }
        printf("%lld\n", last);
        fflush(stdout);
    }
    return 0;
}

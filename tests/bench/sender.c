/* The peer: takes N connections and sends one frame to each, in a plain loop of non-blocking sends.
 *
 *   sender PATH N HEX         on each line of input, sends and prints when it began, in nanoseconds */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int count = atoi(argv[2]);
    unsigned char frame[4096];
    size_t length = 0;
    for (const char *hex = argv[3]; hex[0] && hex[1]; hex += 2) {
        unsigned byte;
        sscanf(hex, "%2x", &byte);
        frame[length++] = (unsigned char)byte;
    }
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        return perror("bind"), 1;
    puts("listening");
    fflush(stdout);
    int *fds = calloc(count, sizeof *fds);
    for (int i = 0; i < count; i++) {
        fds[i] = accept(listener, NULL, NULL);
        if (fds[i] < 0) return perror("accept"), 1;
    }
    puts("ready");
    fflush(stdout);
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        for (int i = 0; i < count; i++)
            if (send(fds[i], frame, length, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)length)
                return perror("send"), 1;
        printf("%lld\n", t.tv_sec * 1000000000LL + t.tv_nsec);
        fflush(stdout);
    }
    return 0;
}

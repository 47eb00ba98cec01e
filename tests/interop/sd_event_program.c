/* A program that listens to memory pressure as any program on sd-event does: it says each time that it is woken. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-event.h>

static int woken(sd_event_source *source, void *unused)
{
    static unsigned times;

    (void)source;
    (void)unused;
    printf("woken %u\n", ++times);
    fflush(stdout);
    return 0;
}

int main(void)
{
    sd_event *loop = NULL;
    sd_event_source *source = NULL;
    int r = sd_event_default(&loop);

    if (r >= 0)
        r = sd_event_add_memory_pressure(loop, &source, woken, NULL);
    if (r < 0) {
        printf("sd-event: %s\n", strerror(-r));
        return EXIT_FAILURE;
    }
    printf("listening\n");
    fflush(stdout);
    return sd_event_loop(loop) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

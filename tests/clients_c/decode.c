/* Decodes frames with the code of lmkd.c itself, which it includes, and says what the callbacks were given.
 *
 * Each line of its input is the request that the reply is taken for ("register", "ack" ...; "-" where the frame is no
 * reply), the reply's id, and a whole frame in hex. For each it prints a line: what was heard, or "nothing".
 *
 * The frame lies in a block of exactly its size and one byte, so that a sanitizer sees every step outside of it. */
#include "lmkd.c"

static bool heard;

static void print_text(const char *text) {
    putchar(' ');
    for (; *text != '\0'; text++) printf("%02x", (unsigned char)*text);
    putchar('.');
}

static void say_pressure(struct lmkd_client *client, const struct lmkd_pressure *pressure, void *user) {
    (void)client, (void)user;
    heard = true;
    printf("pressure");
    print_text(pressure->domain);
    printf(" %s", lmkd_level_name(pressure->level));
    print_text(pressure->reason);
    printf(" %llu %d", (unsigned long long)pressure->available_bytes, pressure->simulated);
}

static void say_notice(struct lmkd_client *client, const struct lmkd_notice *notice, void *user) {
    (void)client, (void)user;
    heard = true;
    printf("notice %llu", (unsigned long long)notice->number);
    print_text(notice->domain);
    printf(" %s %llu %u", lmkd_level_name(notice->level), (unsigned long long)notice->target_bytes, notice->deadline_ms);
    print_text(notice->reason);
    printf(" %d %d", notice->emergency, notice->simulated);
}

static void say_kill_warning(struct lmkd_client *client, const struct lmkd_kill_warning *warning, void *user) {
    (void)client, (void)user;
    heard = true;
    printf("kill_warning");
    print_text(warning->reason);
    printf(" %u", warning->time_to_exit_ms);
}

static void say_killed(struct lmkd_client *client, const struct lmkd_killed *killed, void *user) {
    (void)client, (void)user;
    heard = true;
    printf("killed");
    print_text(killed->domain);
    printf(" %u", killed->pid);
    print_text(killed->name);
    printf(" %s", lmkd_class_name(killed->app_class));
    print_text(killed->reason);
    printf(" %llu", (unsigned long long)killed->freed_bytes);
}

static void say_connection(struct lmkd_client *client, enum lmkd_state state, const char *text, void *user) {
    (void)client, (void)user;
    heard = true;
    printf(state == LMKD_OPEN ? "welcome" : "bye");
    if (state == LMKD_AWAY) text = strstr(text, "it left: ") + strlen("it left: ");
    print_text(text);
}

static void say_reply(struct lmkd_client *client, const struct lmkd_reply *reply, void *user) {
    (void)client, (void)user;
    heard = true;
    if (reply->code != NULL) {
        printf("error %d", reply->id);
        print_text(reply->code);
        print_text(reply->message);
        return;
    }
    printf("ok %d", reply->id);
    const struct lmkd_grant *grant = &reply->grant;
    if (reply->request == LMKD_ACK) printf(" %u", reply->deadline_ms);
    if (reply->request == LMKD_SUBSCRIBE) print_text(reply->domain ? reply->domain : "");
    if (reply->request != LMKD_REGISTER) return;
    printf(" %llu %s %s", (unsigned long long)grant->app, lmkd_class_name(grant->app_class), lmkd_unit_name(grant->unit));
    print_text(grant->domain);
    printf(" %u %u", grant->grace_ms, grant->time_to_exit_ms);
}

int main(void) {
    static char line[1 << 18];
    struct lmkd_options options = {
        .path = "/nowhere",
        .on_pressure = say_pressure,
        .on_notice = say_notice,
        .on_kill_warning = say_kill_warning,
        .on_killed = say_killed,
        .on_connection = say_connection,
        .on_reply = say_reply,
    };
    struct lmkd_client *client = lmkd_new(&options);
    if (client == NULL) return 1;
    struct seen *seen = client->seen;
    while (fgets(line, sizeof line, stdin) != NULL) {
        char request[32];
        unsigned id;
        int start;
        if (sscanf(line, "%31s %u %n", request, &id, &start) != 2) return 2;
        size_t length = strcspn(line + start, "\n") / 2;
        char *frame = malloc(length - LENGTH_BYTES + 1);
        if (frame == NULL) return 1;
        for (size_t i = LENGTH_BYTES; i < length; i++) {
            unsigned byte;
            sscanf(line + start + 2 * i, "%2x", &byte);
            frame[i - LENGTH_BYTES] = (char)byte;
        }
        memset(seen, 0xff, 64 * sizeof *seen);
        memset(client->unanswered, 0, sizeof client->unanswered);
        client->app.wanted = client->told = true;
        client->has_last_word = false;
        client->state = strcmp(request, "hello") == 0 ? LMKD_AWAY : LMKD_OPEN;
        for (unsigned i = 0; i < COUNT(REQUESTS); i++)
            if (strcmp(REQUESTS[i], request) == 0)
                client->unanswered[id % LMKD_UNANSWERED_MOST] = (struct unanswered){(int)id, (enum lmkd_request)i};
        heard = false;
        hear_frame(client, frame, length - LENGTH_BYTES);
        if (client->has_last_word) {
            heard = true;
            printf("error");
            print_text(client->last_word);
        }
        puts(heard ? "" : "nothing");
        /* Inside of the client a sanitizer sees no step too far: what lies behind the tables of keys is as it was. */
        for (size_t i = 0; i < sizeof client->out; i++)
            if (client->out[i] != 0) return 4;
        if (client->subscriptions[0].wanted || client->subscriptions[0].said != 0) return 5;
        free(frame);
    }
    lmkd_free(client);
    return 0;
}

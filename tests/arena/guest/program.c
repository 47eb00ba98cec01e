/* A program of a workload: it holds memory, and grows, sweeps, forks, writes or reads as its options say.
 *
 *     program SHARED SLOT NAME [KEY=NUMBER|TEXT]...
 *
 * What it does is kept in its slot of a shared memory area, so that nothing is lost when it dies; the layout is
 * board.py's. Pages are incompressible, one by one: copies of one random MiB. The parts with `go` wait for the
 * stage's word. Where it is told to listen, it sends the bytes of `greeting` (hex) to the socket, and gives memory
 * back at each notice of lmkd, or at each warning of low-memory-monitor. C, and not Python, since 300 of them start
 * in an emulated machine.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MIB (1UL << 20)
#define PAGE 4096UL
#define SLOTS 128
#define TRACKS 4
#define SWEEPS 4096
#define BLOCKS 2048

struct slot {
	uint32_t pid, started, finished, held_kib, grown_kib, shed_kib, asked_kib, notices, sweeps, forked;
	uint64_t first_notice_ns, grow_began_ns, grow_last_ns;
};
struct board {
	uint64_t go_ns, over_ns, greet_ns;
	struct slot slots[SLOTS];
	uint32_t sweeps_us[TRACKS][SWEEPS];
};

static struct board *board;
static struct slot *me;
static char **options;
static unsigned char *blocks[BLOCKS];
static size_t block_count, sheddable_blocks;
static unsigned char base[MIB];
static int sock = -1, speaks_lmkd;
static unsigned char heard[131072];
static size_t heard_bytes;

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static void sleep_us(uint64_t us)
{
	struct timespec span = {us / 1000000, us % 1000000 * 1000};
	nanosleep(&span, NULL);
}

static const char *text(const char *key)
{
	size_t length = strlen(key);
	for (char **option = options; *option; option++)
		if (!strncmp(*option, key, length) && (*option)[length] == '=')
			return *option + length + 1;
	return NULL;
}

static uint64_t number(const char *key, uint64_t absent)
{
	const char *found = text(key);
	return found ? strtoull(found, NULL, 10) : absent;
}

static void die(const char *what)
{
	perror(what);
	exit(3);
}

static void make_base(uint64_t seed)
{
	uint64_t state = seed * 0x9E3779B97F4A7C15ULL + 1;
	for (size_t i = 0; i < MIB / 8; i++) {
		state ^= state << 13, state ^= state >> 7, state ^= state << 17;
		((uint64_t *)base)[i] = state;
	}
}

static void *map_memory(size_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		die("mmap");
	return memory;
}

static void hold_block(void)
{
	if (block_count == BLOCKS)
		return;
	unsigned char *block = map_memory(MIB);
	memcpy(block, base, MIB);
	blocks[block_count++] = block;
	__sync_fetch_and_add(&me->held_kib, 1024);
}

static size_t shed(uint64_t bytes)
{
	size_t wanted = (bytes + MIB - 1) / MIB, freed = 0;
	while (freed < wanted && sheddable_blocks > 0) {
		munmap(blocks[--block_count], MIB);
		sheddable_blocks--, freed++;
	}
	me->held_kib -= freed * 1024;
	me->shed_kib += freed * 1024;
	return freed * MIB;
}

static void note_notice(uint64_t asked_bytes)
{
	if (!me->first_notice_ns)
		me->first_notice_ns = now_ns();
	me->notices++;
	me->asked_kib += asked_bytes / 1024;
}

/* msgpack, as far as a notice has it. Values of other kinds are skipped; a frame that ends early is a bug of the peer. */
struct value {
	uint64_t number;
	const unsigned char *bytes;
	size_t length;
};

static const unsigned char *read_value(const unsigned char *at, struct value *value);

static uint64_t big_endian(const unsigned char *at, int bytes)
{
	uint64_t result = 0;
	while (bytes--)
		result = result << 8 | *at++;
	return result;
}

static const unsigned char *skip_many(const unsigned char *at, size_t count)
{
	struct value ignored;
	while (count--)
		at = read_value(at, &ignored);
	return at;
}

static const unsigned char *read_value(const unsigned char *at, struct value *value)
{
	unsigned char tag = *at++;
	memset(value, 0, sizeof *value);
	if (tag <= 0x7f || tag >= 0xe0)
		value->number = tag & 0x7f;
	else if (tag <= 0x8f)
		return skip_many(at, 2 * (tag & 15));
	else if (tag <= 0x9f)
		return skip_many(at, tag & 15);
	else if (tag <= 0xbf || (tag >= 0xd9 && tag <= 0xdb) || (tag >= 0xc4 && tag <= 0xc6)) {
		int bytes = tag <= 0xbf ? 0 : 1 << (tag >= 0xd9 ? tag - 0xd9 : tag - 0xc4);
		value->length = bytes ? big_endian(at, bytes) : (size_t)(tag & 31);
		value->bytes = at + bytes;
		at = value->bytes + value->length;
	} else if (tag == 0xc2 || tag == 0xc3)
		value->number = tag & 1;
	else if (tag >= 0xcc && tag <= 0xd3) {
		int bytes = 1 << ((tag - 0xcc) & 3);
		value->number = big_endian(at, bytes);
		at += bytes;
	} else if (tag >= 0xdc && tag <= 0xdf) {
		int bytes = tag & 1 ? 4 : 2;
		return skip_many(at + bytes, big_endian(at, bytes) * (tag >= 0xde ? 2 : 1));
	}
	return at;
}

static int same(const struct value *value, const char *word)
{
	return value->bytes && value->length == strlen(word) && !memcmp(value->bytes, word, value->length);
}

static unsigned char *put_text(unsigned char *at, const char *word)
{
	size_t length = strlen(word);
	*at++ = 0xa0 | length;
	memcpy(at, word, length);
	return at + length;
}

static unsigned char *put_number(unsigned char *at, uint64_t number)
{
	*at++ = 0xcf;
	for (int shift = 56; shift >= 0; shift -= 8)
		*at++ = number >> shift;
	return at;
}

static void acknowledge(uint64_t notice, size_t freed_bytes)
{
	static uint64_t id = 10;
	unsigned char frame[160], *at = frame + 4;
	*at++ = 0x85;
	at = put_text(put_text(at, "type"), "ack");
	at = put_number(put_text(at, "id"), id++);
	at = put_number(put_text(at, "notice"), notice);
	at = put_text(put_text(at, "answer"), freed_bytes ? "done" : "nothing");
	at = put_number(put_text(at, "freed_bytes"), freed_bytes);
	uint32_t length = htonl(at - frame - 4);
	memcpy(frame, &length, 4);
	if (send(sock, frame, at - frame, MSG_NOSIGNAL) < 0)
		perror("ack");
}

static void hear_frame(const unsigned char *frame)
{
	size_t pairs = *frame <= 0x8f ? *frame & 15 : big_endian(frame + 1, 2);
	const unsigned char *at = *frame <= 0x8f ? frame + 1 : frame + 3;
	struct value key, value, type = {0}, level = {0};
	uint64_t notice = 0, target_bytes = 0;
	while (pairs--) {
		at = read_value(read_value(at, &key), &value);
		if (same(&key, "type"))
			type = value;
		else if (same(&key, "level"))
			level = value;
		else if (same(&key, "notice"))
			notice = value.number;
		else if (same(&key, "target_bytes"))
			target_bytes = value.number;
	}
	if (same(&type, "error")) {
		fprintf(stderr, "lmkd answered with an error\n");
		exit(4);
	}
	if (!same(&type, "notice") || same(&level, "normal"))
		return;
	note_notice(target_bytes);
	acknowledge(notice, shed(target_bytes));
}

static void hear_warning(const unsigned char *message, size_t header_bytes)
{
	if (message[1] != 4 || !memmem(message, header_bytes, "LowMemoryWarning", 16))
		return;
	unsigned char level = message[header_bytes];
	note_notice(0);
	shed(level >= 255 ? sheddable_blocks * MIB : (sheddable_blocks + 1) / 2 * MIB);
}

/* Take one message from the front of what was heard; 0 if there is none that is whole. */
static size_t take_message(void)
{
	if (speaks_lmkd) {
		size_t length = heard_bytes < 4 ? 0 : 4 + big_endian(heard, 4);
		if (!length || heard_bytes < length)
			return 0;
		hear_frame(heard + 4);
		return length;
	}
	if (heard_bytes >= 2 && heard[0] == 'O' && heard[1] == 'K') {
		unsigned char *end = memchr(heard, '\n', heard_bytes);
		return end ? (size_t)(end + 1 - heard) : 0;
	}
	if (heard_bytes < 16)
		return 0;
	uint32_t body, fields;
	memcpy(&body, heard + 4, 4), memcpy(&fields, heard + 12, 4);
	size_t header_bytes = 16 + ((fields + 7) & ~7UL);
	if (heard_bytes < header_bytes + body)
		return 0;
	hear_warning(heard, header_bytes);
	return header_bytes + body;
}

static void listen_for(uint64_t us)
{
	uint64_t until_ns = now_ns() + us * 1000;
	if (sock < 0) {
		sleep_us(us);
		return;
	}
	for (uint64_t now = now_ns(); now < until_ns; now = now_ns()) {
		struct pollfd ready = {sock, POLLIN, 0};
		if (poll(&ready, 1, (until_ns - now) / 1000000 + 1) <= 0)
			continue;
		ssize_t received = recv(sock, heard + heard_bytes, sizeof heard - heard_bytes, MSG_DONTWAIT);
		if (received <= 0) {
			close(sock), sock = -1;
			return;
		}
		heard_bytes += received;
		for (size_t taken; (taken = take_message());) {
			heard_bytes -= taken;
			memmove(heard, heard + taken, heard_bytes);
		}
	}
}

static void greet(const char *path, const char *hex)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	unsigned char greeting[2048];
	size_t length = strlen(hex) / 2;
	snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
	sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (length > sizeof greeting || connect(sock, (struct sockaddr *)&address, sizeof address) < 0)
		die(path);
	for (size_t i = 0; i < length; i++)
		sscanf(hex + 2 * i, "%2hhx", greeting + i);
	if (send(sock, greeting, length, MSG_NOSIGNAL) != (ssize_t)length)
		die("greeting");
}

static void wait_go(uint64_t after_ms)
{
	volatile uint64_t *go = &board->go_ns;
	while (!*go || now_ns() < *go + after_ms * 1000000)
		listen_for(5000);
	me->grow_began_ns = now_ns();
}

static void grew(uint64_t kib)
{
	__sync_fetch_and_add(&me->grown_kib, kib);
	me->grow_last_ns = now_ns();
}

static void finish(void)
{
	__sync_fetch_and_add(&me->finished, 1);
	for (;;)
		listen_for(1000000);
}

/* Take memory at a rate in pages, in ticks of 10 ms, and touch a little of what is held. */
static void grow(uint64_t kib_s, uint64_t most_kib)
{
	unsigned char *memory = map_memory(most_kib * 1024);
	uint64_t began_ns = now_ns(), grown_kib = 0, touched = 0;
	while (grown_kib < most_kib) {
		uint64_t due = (now_ns() - began_ns) / 1000 * kib_s / 1000000;
		due = due > most_kib ? most_kib : due & ~3UL;
		uint64_t tick_kib = 0;
		while (grown_kib < due) {
			memcpy(memory + grown_kib * 1024, base + grown_kib * 1024 % MIB, PAGE);
			grown_kib += 4, tick_kib += 4;
			if (tick_kib % 1024 == 0)
				grew(1024), tick_kib = 0;
		}
		grew(tick_kib);
		for (int i = 0; grown_kib && i < 8; i++, touched += 1021)
			memory[touched % (grown_kib / 4) * PAGE] = 1;
		listen_for(10000);
	}
}

static void sweep(unsigned track)
{
	for (uint64_t next_ns = now_ns();; next_ns += 50000000) {
		uint64_t began_ns = now_ns();
		if (next_ns > began_ns)
			listen_for((next_ns - began_ns) / 1000);
		else
			next_ns = began_ns;
		began_ns = now_ns();
		for (size_t i = 0; i < block_count; i++)
			for (size_t offset = 0; offset < MIB; offset += PAGE)
				(void)*(volatile unsigned char *)(blocks[i] + offset);
		if (board->go_ns && !board->over_ns)
			board->sweeps_us[track][me->sweeps++ % SWEEPS] = (now_ns() - began_ns) / 1000;
	}
}

/* A family of small programs that leak together; the parent is as small as they are. */
static void spread(uint64_t children, uint64_t kib_s, uint64_t most_kib)
{
	for (uint64_t i = 0; i < children; i++) {
		pid_t pid = fork();
		if (pid < 0)
			die("fork");
		if (pid == 0) {
			wait_go(i);
			/* In steps of their own: 300 of them would wake 30,000 times a second otherwise. */
			unsigned char *memory = map_memory(most_kib * 1024);
			for (uint64_t kib = 0; kib < most_kib; kib += 4) {
				memcpy(memory + kib * 1024, base + (kib * 1024 + i * PAGE) % MIB, PAGE);
				if (kib % 32 == 28) {
					grew(32);
					sleep_us(32 * 1000000 / kib_s);
				}
			}
			finish();
		}
		me->forked++;
	}
	me->started = 1;
	wait_go(0);
	finish();
}

/* Each forks on until all together are as many as allowed, and takes some memory. */
static void bomb(uint64_t most, uint64_t kib)
{
	for (;;) {
		unsigned char *memory = map_memory(kib * 1024);
		for (uint64_t done = 0; done < kib; done += 4)
			memcpy(memory + done * 1024, base + done * 1024 % MIB, PAGE);
		grew(kib);
		for (int i = 0; i < 3; i++) {
			sleep_us(20000);
			if (__sync_fetch_and_add(&me->forked, 1) >= most)
				finish();
			if (fork() == 0)
				break;
			if (i == 2)
				finish();
		}
	}
}

static void fill_file(const char *path, uint64_t kib_s, uint64_t most_kib)
{
	int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	uint64_t began_ns = now_ns(), written_kib = 0;
	if (file < 0)
		die(path);
	while (written_kib < most_kib) {
		uint64_t due = (now_ns() - began_ns) / 1000 * kib_s / 1000000;
		for (due = due > most_kib ? most_kib : due; written_kib + 64 <= due; written_kib += 64) {
			if (write(file, base + written_kib * 1024 % MIB, 65536) != 65536)
				finish();
			grew(64);
		}
		listen_for(10000);
	}
}

static void use_file(const char *path, uint64_t span_mib, uint64_t for_ms, int mapped)
{
	static unsigned char buffer[65536];
	int file = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t span = span_mib * MIB, until_ns = now_ns() + for_ms * 1000000, offset = 0;
	unsigned char *memory = mapped ? mmap(NULL, span, PROT_READ, MAP_SHARED, file, 0) : NULL;
	if (file < 0 || memory == MAP_FAILED)
		die(path);
	for (; now_ns() < until_ns; offset = (offset + sizeof buffer) % span) {
		if (!mapped && pread(file, buffer, sizeof buffer, offset) <= 0)
			die(path);
		for (size_t page = 0; mapped && page < sizeof buffer; page += PAGE)
			(void)*(volatile unsigned char *)(memory + offset + page);
		grew(64); /* pages looked at, not taken */
	}
}

int main(int count, char **arguments)
{
	if (count < 4)
		return 2;
	options = arguments + 4;
	int file = open(arguments[1], O_RDWR | O_CLOEXEC);
	board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (board == MAP_FAILED)
		die(arguments[1]);
	me = &board->slots[atoi(arguments[2])];
	me->pid = getpid();
	prctl(PR_SET_NAME, arguments[3]);
	signal(SIGCHLD, SIG_IGN);
	make_base(number("seed", 1) * 1000 + atoi(arguments[2]));
	for (uint64_t i = number("hold", 0); i; i--)
		hold_block();
	sheddable_blocks = number("sheddable", 0);
	const char *part = text("part");
	if (part && !strcmp(part, "spread"))
		spread(number("children", 1), number("kib_s", 1), number("most_kib", 1));
	me->started = 1;
	if (text("socket")) {
		volatile uint64_t *greeting = &board->greet_ns;
		while (!*greeting)
			sleep_us(20000);
		speaks_lmkd = number("lmkd", 0);
		greet(text("socket"), text("greeting"));
		me->started = 2;
	}
	if (!part)
		finish();
	if (!strcmp(part, "sweep"))
		sweep(number("track", 0));
	wait_go(number("after_ms", 0));
	if (!strcmp(part, "grow"))
		grow(number("kib_s", 1), number("most_kib", 1));
	else if (!strcmp(part, "bomb"))
		bomb(number("children", 1), number("kib", 4));
	else if (!strcmp(part, "fill"))
		fill_file(text("path"), number("kib_s", 1), number("most_kib", 1));
	else if (!strcmp(part, "map") || !strcmp(part, "read"))
		use_file(text("path"), number("span", 1), number("for_ms", 1), part[0] == 'm');
	finish();
}

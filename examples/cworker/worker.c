/*
 * A Ringmaster worker in plain C, written from docs/protocol.md alone; section numbers below are that page's.
 *
 *     cc -O2 -o cworker worker.c
 *
 * It is single-threaded and answers two actions: `echo` sends the body back, `count` streams the integers 0 … 4. What it
 * leaves out is what a toy can: replies longer than one frame, and reading anything of a request but its id, action, credit and body.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void die(int status, const char *why)
{
	fprintf(stderr, "cworker: %s\n", why);
	exit(status);
}

/* ---- 2 The segment ---- */

static uint8_t *seg;
static uint64_t incarnation, max_frame, max_message;

static uint64_t u64(uint64_t off) { uint64_t v; memcpy(&v, seg + off, 8); return v; }
static uint32_t u32(uint64_t off) { uint32_t v; memcpy(&v, seg + off, 4); return v; }

static uint32_t crc32c(const uint8_t *p, size_t n)
{
	uint32_t c = 0xFFFFFFFF;
	while (n--) {
		c ^= *p++;
		for (int i = 0; i < 8; i++)
			c = c >> 1 ^ (c & 1 ? 0x82F63B78 : 0);
	}
	return ~c;
}

static int power_of_two(uint64_t v) { return v >= 4096 && v <= 1 << 30 && (v & (v - 1)) == 0; }

static void open_segment(int fd)
{
	struct stat st;
	if (fstat(fd, &st) || st.st_size < 0x2000)
		die(70, "fd 3 is no segment");
	seg = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (seg == MAP_FAILED)
		die(70, "mmap failed");
	uint64_t s2w = u64(0x038), w2s = u64(0x048), least = s2w < w2s ? s2w : w2s;
	max_frame = u64(0x028);
	incarnation = u64(0x018);
	if (memcmp(seg, "RNGSHM\0\1", 8) || u32(0x008) != 1 || u32(0x00C) != 0x2000 || u32(0x024) & ~2u || !incarnation ||
	    crc32c(seg, 0x50) != u32(0x050) || !power_of_two(s2w) || !power_of_two(w2s) || u64(0x010) != (uint64_t)st.st_size ||
	    u64(0x010) != 0x2000 + s2w + w2s || u64(0x030) != 0x2000 || u64(0x040) != 0x2000 + s2w || max_frame < 64 || max_frame > least / 4 - 16)
		die(70, "the segment's geometry is wrong");
}

/* ---- 3 The ring, 4 The semaphore ---- */

struct ring {
	uint8_t *data;
	uint64_t capacity, own; /* own: this side's private position */
	uint32_t seq;
	int eventfd; /* by which the supervisor is woken for messages, or -1 */
	_Atomic uint64_t *tail, *head;
	_Atomic uint32_t *items, *space; /* [0] count, [1] waiters */
};

static struct ring in, out;

static void attach(struct ring *r, uint64_t header, uint64_t data, uint64_t capacity, int eventfd)
{
	*r = (struct ring){
		.data = seg + data, .capacity = capacity, .eventfd = eventfd,
		.tail = (void *)(seg + header), .head = (void *)(seg + header + 0x080),
		.items = (void *)(seg + header + 0x100), .space = (void *)(seg + header + 0x180),
	};
}

/* eventfd: by which the sleeper is woken; -1: in the futex. */
static void post(_Atomic uint32_t *sem, int eventfd)
{
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&sem[1], memory_order_relaxed) == 0)
		return;
	atomic_store(&sem[0], 1);
	if (eventfd < 0)
		syscall(SYS_futex, &sem[0], FUTEX_WAKE, 1, NULL, NULL, 0);
	else if (write(eventfd, &(uint64_t){1}, 8) != 8)
		die(1, "fd 5 is no eventfd");
}

/* Waits until *pos is at least n bytes beyond seen, and returns it. */
static uint64_t wait_for(_Atomic uint32_t *sem, _Atomic uint64_t *pos, uint64_t seen, uint64_t n)
{
	uint64_t now = atomic_load(pos);
	if (now - seen >= n)
		return now;
	atomic_exchange(&sem[1], 1);
	for (;;) {
		atomic_exchange(&sem[0], 0);
		now = atomic_load(pos);
		if (now - seen >= n)
			break;
		struct timespec second = {1, 0};
		syscall(SYS_futex, &sem[0], FUTEX_WAIT, 0, &second, NULL, 0);
	}
	atomic_store(&sem[1], 0);
	return now;
}

static uint32_t guard(uint32_t len, uint32_t type_flags, uint32_t seq) { return 0x5AFEC0DE ^ len ^ type_flags ^ seq ^ (uint32_t)incarnation; }
static uint64_t need(uint64_t len) { return 16 + ((len + 15) & ~15ull); }

static void put_header(struct ring *r, uint64_t off, uint32_t len, uint32_t type)
{
	uint32_t h[4] = {len, type, r->seq, guard(len, type, r->seq)};
	memcpy(r->data + off, h, 16);
	r->seq++;
}

static void send_message(const uint8_t *msg, uint64_t len)
{
	struct ring *r = &out;
	if (len == 0 || len > max_frame)
		die(1, "a reply that this example cannot send");
	uint64_t off = r->own & (r->capacity - 1), pad = 0;
	if (off + need(len) > r->capacity)
		pad = r->capacity - off;
	uint64_t used = r->own - atomic_load(r->head);
	if (used > r->capacity || used % 16)
		die(70, "the supervisor's head is impossible");
	if (r->capacity - used < pad + need(len)) {
		uint64_t target = r->own + pad + need(len) - r->capacity; /* the head that leaves room enough */
		uint64_t head = r->own - used;
		wait_for(r->space, r->head, head, target - head);
	}
	if (pad)
		put_header(r, off, pad - 16, 2);
	off = (r->own + pad) & (r->capacity - 1);
	memcpy(r->data + off + 16, msg, len);
	put_header(r, off, len, 1);
	r->own += pad + need(len);
	atomic_store_explicit(r->tail, r->own, memory_order_release);
	post(r->items, r->eventfd);
}

/* Returns a whole message in memory of its own. */
static uint8_t *recv_message(uint64_t *total)
{
	struct ring *r = &in;
	uint8_t *msg = NULL;
	*total = 0;
	for (;;) {
		uint64_t avail = wait_for(r->items, r->tail, r->own, 1) - r->own, off = r->own & (r->capacity - 1);
		uint32_t h[4]; /* len, type and flags, seq, guard: one private copy */
		memcpy(h, r->data + off, 16);
		uint32_t type = h[1] & 0xFFFF, flags = h[1] >> 16;
		if (avail > r->capacity || avail % 16 || h[3] != guard(h[0], h[1], h[2]) || h[2] != r->seq || need(h[0]) > avail || off + need(h[0]) > r->capacity)
			die(70, "the supervisor broke the ring");
		if (type == 1) {
			if (h[0] < 1 || h[0] > max_frame || flags > 1 || *total + h[0] > max_message)
				die(70, "the supervisor sent a bad frame");
			if (!(msg = realloc(msg, *total + h[0])))
				die(1, "out of memory");
			memcpy(msg + *total, r->data + off + 16, h[0]);
			*total += h[0];
		} else if (type != 2 || flags || off + 16 + h[0] != r->capacity) {
			die(70, "the supervisor sent a bad frame");
		}
		r->own += need(h[0]);
		r->seq++;
		atomic_store_explicit(r->head, r->own, memory_order_release);
		post(r->space, -1);
		if (type == 1 && !(flags & 1))
			return msg;
	}
}

/* ---- 5 Messages: just enough MessagePack ---- */

struct view { const uint8_t *p, *end; };

static uint64_t big_endian(const uint8_t *p, int n)
{
	uint64_t v = 0;
	while (n--)
		v = v << 8 | *p++;
	return v;
}

static void need_bytes(const struct view *v, uint64_t n)
{
	if ((uint64_t)(v->end - v->p) < n)
		die(70, "the supervisor sent bad MessagePack");
}

/* Takes a head: the type byte, a number's value, a length. Returns the class (u integer ≥ 0, s string, B bytes, a array, m map, n nil, i what is complete already) and, in n, the integer, length or count. */
static char take_head(struct view *v, uint64_t *n)
{
	need_bytes(v, 1);
	uint8_t c = *v->p++;
	*n = 0;
	if (c <= 0x7f) return *n = c, 'u';
	if (c <= 0x8f) return *n = c & 15, 'm';
	if (c <= 0x9f) return *n = c & 15, 'a';
	if (c <= 0xbf) return *n = c & 31, 's';
	if (c >= 0xe0) return 'i';
	static const struct { char class; uint8_t size; } forms[32] = {
		{'n', 0}, {'?', 0}, {'i', 0}, {'i', 0},                               /* c0 nil, c1 never, c2 c3 bool */
		{'B', 1}, {'B', 2}, {'B', 4}, {'E', 1}, {'E', 2}, {'E', 4},           /* c4 bin, c7 ext */
		{'i', 4}, {'i', 8}, {'u', 1}, {'u', 2}, {'u', 4}, {'u', 8},           /* ca float, cc uint */
		{'i', 1}, {'i', 2}, {'i', 4}, {'i', 8},                               /* d0 int */
		{'i', 2}, {'i', 3}, {'i', 5}, {'i', 9}, {'i', 17},                    /* d4 fixext: type and payload */
		{'s', 1}, {'s', 2}, {'s', 4}, {'a', 2}, {'a', 4}, {'m', 2}, {'m', 4}, /* d9 str, dc array, de map */
	};
	char k = forms[c - 0xc0].class;
	int w = forms[c - 0xc0].size;
	need_bytes(v, w);
	if (k != 'i')
		*n = big_endian(v->p, w);
	v->p += w;
	if (k == '?')
		die(70, "the supervisor sent bad MessagePack");
	if (k == 'E') /* the type byte comes before the payload */
		return *n += 1, 'B';
	return k;
}

static void skip(struct view *v, int depth)
{
	uint64_t n;
	char k = take_head(v, &n);
	if (depth > 64)
		die(70, "the supervisor nests too deeply");
	switch (k) {
	case 'm': n *= 2; /* fall through */
	case 'a':
		need_bytes(v, n);
		while (n--)
			skip(v, depth + 1);
		break;
	case 's': case 'B':
		need_bytes(v, n);
		v->p += n;
	}
}

static uint64_t take_uint(struct view *v, uint64_t missing)
{
	uint64_t n;
	switch (take_head(v, &n)) {
	case 'u': return n;
	case 'n': return missing;
	}
	die(70, "the supervisor sent another type than an integer");
	return 0;
}

static struct view take_str(struct view *v)
{
	uint64_t n;
	char k = take_head(v, &n);
	if (k != 's' && k != 'n')
		die(70, "the supervisor sent another type than a string");
	need_bytes(v, n);
	struct view s = {v->p, v->p + n};
	v->p += n;
	return s;
}

static int is(struct view s, const char *text) { return (size_t)(s.end - s.p) == strlen(text) && !memcmp(s.p, text, strlen(text)); }

/* A message under construction. */
static uint8_t *msg;
static size_t msg_len;

static void byte(uint8_t c) { msg[msg_len++] = c; }
static void bytes(const void *p, size_t n) { memcpy(msg + msg_len, p, n); msg_len += n; }
static void str(const char *s) { byte(0xd9); byte(strlen(s)); bytes(s, strlen(s)); } /* for strings below 256 bytes */
static void integer(uint64_t v) { byte(0xcf); for (int i = 56; i >= 0; i -= 8) byte(v >> i); }

/* [2, id, flags, headers, body …] */
static void begin_reply(uint64_t id, int end, int positions)
{
	msg_len = 0;
	byte(0x90 | positions);
	byte(2);
	integer(id);
	byte(end);
	byte(0x80);
}

static void reply_error(uint64_t id, const char *code, const char *reason, const char *text)
{
	begin_reply(id, 1, 7);
	byte(0xc0);
	byte(0x90);
	byte(0x95);
	str(code);
	str(reason);
	str(text);
	byte(0);
	byte(0x80);
	send_message(msg, msg_len);
}

/* ---- 6 A worker's life ---- */

static int draining;

static void handle(uint64_t busy, uint64_t *credit, int *cancelled);

static void on_request(struct view v, uint64_t id, uint64_t positions)
{
	struct view action = {0}, body = {(const uint8_t *)"\xc0", (const uint8_t *)"\xc0" + 1};
	uint64_t credit = 1;
	for (uint64_t i = 2; i < positions; i++) {
		const uint8_t *start = v.p;
		if (i == 3) {
			action = take_str(&v);
		} else if (i == 7) {
			credit = take_uint(&v, 1);
			credit = credit ? credit : 1;
		} else {
			skip(&v, 1);
			if (i == 9)
				body = (struct view){start, v.p};
		}
	}
	if (is(action, "echo")) {
		if ((uint64_t)(body.end - body.p) + 64 > max_frame) {
			reply_error(id, "RESOURCE_EXHAUSTED", "too_large", "this example answers in one frame; send a smaller body");
			return;
		}
		begin_reply(id, 1, 5);
		bytes(body.p, body.end - body.p);
		send_message(msg, msg_len);
	} else if (is(action, "count")) {
		int cancelled = 0;
		for (int i = 0; i < 5; i++) {
			while (!credit && !cancelled)
				handle(id, &credit, &cancelled);
			if (cancelled) {
				reply_error(id, "CANCELLED", "cancelled", "the request was cancelled");
				return;
			}
			credit--;
			begin_reply(id, 0, 5);
			byte(i);
			send_message(msg, msg_len);
		}
		begin_reply(id, 1, 4);
		send_message(msg, msg_len);
	} else {
		reply_error(id, "NOT_FOUND", "unknown_action", "this worker has the actions count and echo");
	}
}

/* Takes one message. While a request is busy (its id), its credit and cancellation are noted. */
static void handle(uint64_t busy, uint64_t *credit, int *cancelled)
{
	uint64_t len, positions;
	uint8_t *m = recv_message(&len);
	struct view v = {m, m + len}, whole = v;
	skip(&whole, 0);
	if (whole.p != whole.end || take_head(&v, &positions) != 'a' || positions < 2)
		die(70, "the supervisor sent no message");
	uint64_t kind = take_uint(&v, 0), id = take_uint(&v, 0);
	switch (kind) {
	case 1:
		on_request(v, id, positions);
		break;
	case 3:
		if (busy && id == busy)
			*cancelled = 1;
		break;
	case 4:
		if (busy && id == busy && positions > 2)
			*credit += take_uint(&v, 0);
		break;
	case 6:
		draining = 1;
		break;
	case 7:
		exit(0);
	case 8:
		if (positions > 2 && take_uint(&v, 0) & 1)
			break;
		msg_len = 0;
		byte(0x93);
		byte(8);
		integer(id);
		byte(1);
		send_message(msg, msg_len);
	}
	free(m);
}

static void *watch_lifeline(void *arg)
{
	char ignored[256];
	while (read(4, ignored, sizeof ignored) > 0 || errno == EINTR)
		;
	_exit(1);
	return arg;
}

int main(void)
{
	const char *versions = getenv("PLUGIN_PROTOCOL_VERSIONS"), *limit = getenv("RINGMASTER_MAX_MESSAGE");
	if (!getenv("RINGMASTER_COOKIE") || !versions || !limit)
		die(1, "this program is started by ringmaster, as a pool's command");
	fcntl(3, F_SETFD, FD_CLOEXEC);
	fcntl(4, F_SETFD, FD_CLOEXEC);
	fcntl(5, F_SETFD, FD_CLOEXEC);
	max_message = strtoull(limit, NULL, 10);
	open_segment(3);
	attach(&in, 0x1000, 0x2000, u64(0x038), -1);
	int eventfd = u32(0x024) & 2 ? 5 : -1;
	struct stat st;
	if (eventfd >= 0 && (fstat(eventfd, &st) || st.st_mode & S_IFMT)) /* an eventfd is of no type */
		die(1, "fd 5 is no eventfd");
	attach(&out, 0x1400, u64(0x040), u64(0x048), eventfd);
	msg = malloc(max_frame + 64);
	int common = 0;
	char *list = strdup(versions);
	for (char *p = strtok(list, ","); p; p = strtok(NULL, ","))
		common |= atoi(p) == 1;
	free(list);
	if (!common)
		die(1, "this worker speaks protocol version 1 alone");

	dprintf(1, "1|1|unix|fd:4|netrpc\n");
	dup2(2, 1);
	pthread_t watcher;
	if (pthread_create(&watcher, NULL, watch_lifeline, NULL))
		die(1, "cannot start a thread");

	/* [5, 0, 1, 1, sdk, [["echo", idempotent], ["count", stream]]] */
	msg_len = 0;
	bytes("\x96\x05\x00\x01\x01", 5);
	str("c-example/1");
	bytes("\x92\x92", 2);
	str("echo");
	bytes("\x02\x92", 2);
	str("count");
	byte(0x01);
	send_message(msg, msg_len);
	while (!draining)
		handle(0, NULL, NULL);
	return 0;
}

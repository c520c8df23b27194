/* Messages become frames and come back; the semaphore. In the order in which a message meets it: send, the semaphore,
 * receive. */
#define _GNU_SOURCE
#include "ring.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "crash.h"
#include "rights.h"

#define LONG_COPY (UINT64_C(64) << 10) /* bytes; a copy this long is worth letting other threads run */
#define LONGEST_SLEEP_NS INT64_C(1000000000)
#define LINE_LOOK_NS INT64_C(50000000) /* how often a sender that waits in the futex looks whether its peer is gone */

/* Remembers what the peer did wrong, for good. */
static enum rm_result broken(struct rm_ring *r, const char *why)
{
    r->why = why;
    return RM_PROTOCOL;
}

/* Looks at the peer's position, once, and updates available.
 *
 * Acquire pairs with the release in show: what the peer
 * wrote (or has finished reading) before it is visible (or free) after it. */
static enum rm_result refresh(struct rm_ring *r)
{
    uint64_t distance;
    if (r->consumer)
        distance = atomic_load_explicit(&r->shared->tail, memory_order_acquire) - r->own;
    else
        distance = r->own - atomic_load_explicit(&r->shared->head, memory_order_acquire);
    if (distance > r->capacity || distance % sizeof(struct rm_frame) != 0)
        return broken(r, r->consumer ? "tail is not a possible position" : "head is not a possible position");
    r->available = r->consumer ? distance : r->capacity - distance;
    return RM_OK;
}

static enum rm_result wait_for(struct rm_ring *, struct rm_host *, int64_t deadline, uint64_t bytes);
static void publish(struct rm_ring *, uint64_t bytes, uint32_t frames);
static void show(struct rm_ring *, uint64_t position);

/* Makes sure that bytes are available, from what we know, by a look, or by waiting. */
static enum rm_result ensure(struct rm_ring *r, struct rm_host *host, int64_t deadline, uint64_t bytes)
{
    if (r->why != NULL)
        return RM_PROTOCOL;
    if (atomic_load_explicit(&r->closed, memory_order_relaxed))
        return RM_CLOSED;
    bool gone = atomic_load(&r->gone); /* before looking: what came before is still taken */
    if (gone && !r->consumer)
        return RM_CLOSED;
    if (r->available >= bytes)
        return RM_OK;
    enum rm_result result = refresh(r);
    if (result != RM_OK || r->available >= bytes)
        return result;
    if (gone)
        return RM_CLOSED;
    return deadline <= 0 ? RM_TIMEOUT : wait_for(r, host, deadline, bytes);
}

/* The longest copies run unblocked, so that this process's other threads may. */
static void copy(struct rm_host *host, uint8_t *to, const uint8_t *from, uint64_t n)
{
    bool unblocked = n >= LONG_COPY && host->block != NULL;
    if (unblocked)
        host->block(host);
    memcpy(to, from, n);
    if (unblocked)
        host->unblock(host);
}

/* ---- send ---- */

/* Where we are in the parts of a message. */
struct cursor {
    const struct iovec *part;
    uint64_t offset; /* in *part */
};

static void gather(struct rm_host *host, uint8_t *to, struct cursor *from, uint64_t n)
{
    while (n > 0) {
        uint64_t k = from->part->iov_len - from->offset;
        if (k > n)
            k = n;
        copy(host, to, (const uint8_t *)from->part->iov_base + from->offset, k);
        to += k;
        n -= k;
        from->offset += k;
        if (from->offset == from->part->iov_len) {
            from->part++;
            from->offset = 0;
        }
    }
}

static void write_header(struct rm_ring *r, uint64_t offset, uint32_t len, uint16_t type, uint16_t flags, uint32_t seq)
{
    struct rm_frame f = {.len = len, .type = type, .flags = flags, .seq = seq};
    f.guard = rm_guard(&f, r->incarnation);
    memcpy(r->bytes + offset, &f, sizeof f);
}

static enum rm_result send_frame(struct rm_ring *r, struct rm_host *host, int64_t deadline, struct cursor *from,
                                 uint32_t len, uint16_t flags)
{
    uint64_t offset = r->own & (r->capacity - 1);
    uint64_t need = rm_need(len);
    uint64_t pad = offset + need > r->capacity ? r->capacity - offset : 0;
    enum rm_result result = ensure(r, host, deadline, pad + need);
    if (result != RM_OK)
        return result;
    RM_STEP(r, S1);
    uint32_t seq = r->seq;
    if (pad > 0) {
        write_header(r, offset, (uint32_t)(pad - sizeof(struct rm_frame)), RM_PAD, 0, seq++);
        offset = 0;
    }
    gather(host, r->bytes + offset + sizeof(struct rm_frame), from, len);
    RM_STEP(r, S2);
    write_header(r, offset, len, RM_DATA, flags, seq++);
    RM_STEP(r, S3);
    publish(r, pad + need, seq - r->seq);
    RM_STEP(r, S6);
    return RM_OK;
}

enum rm_result rm_send(struct rm_segment *s, struct rm_host *host, int64_t deadline, const struct iovec *parts,
                       int count)
{
    struct rm_ring *r = &s->out;
    uint64_t left = 0;
    for (int i = 0; i < count; i++)
        left += parts[i].iov_len;
    bool (*interrupted)(struct rm_host *) = host->interrupted;
    struct cursor from = {.part = parts};
    enum rm_result result = RM_OK;
    while (left > 0 && result == RM_OK) {
        uint32_t len = left > r->max_frame ? (uint32_t)r->max_frame : (uint32_t)left;
        left -= len;
        result = send_frame(r, host, deadline, &from, len, left > 0 ? RM_MORE : 0);
        deadline = RM_FOREVER; /* once begun, a message is given up neither for the time nor for a signal */
        host->interrupted = NULL;
    }
    host->interrupted = interrupted;
    return result;
}

bool rm_fits(struct rm_segment *s, uint64_t length)
{
    struct rm_ring *r = &s->out;
    uint64_t frames = length / r->max_frame + 1;
    uint64_t need = rm_need(length) + frames * (sizeof(struct rm_frame) + 15);
    if (length > r->max_frame)
        need += rm_need(r->max_frame); /* a PAD, at worst; there is at most one in less than a ring's length */
    else
        need += rm_need(length);
    if (need > r->capacity)
        return false;
    return r->available >= need || (refresh(r) == RM_OK && r->available >= need);
}

/* ---- the semaphore ---- */

static void futex_wake(_Atomic uint32_t *word, int sleepers)
{
    syscall(SYS_futex, word, FUTEX_WAKE, sleepers, NULL, NULL, 0);
}

/* Wakes the peer where it sleeps. A line that takes no more has so much on it that the peer has not read: it will look. */
static void wake_peer(struct rm_ring *r, struct rm_semaphore *peer)
{
    if (r->eventfd >= 0) {
        const uint64_t one = 1;
        ssize_t n = write(r->eventfd, &one, sizeof one); /* fails only where it was written to 2^64 times */
        (void)n;
        return;
    }
    if (r->bell < 0) {
        futex_wake(&peer->count, 1);
        return;
    }
    const uint8_t what = r->consumer ? RM_RUNG_SPACE : RM_RUNG_ITEMS;
    send(r->bell, &what, sizeof what, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void advance(struct rm_ring *r, uint64_t bytes, uint32_t frames)
{
    r->own += bytes;
    r->available -= bytes;
    r->seq += frames;
}

static void publish(struct rm_ring *r, uint64_t bytes, uint32_t frames)
{
    advance(r, bytes, frames);
    show(r, r->own);
}

/* Publishes a position of ours and wakes the peer if it sleeps. Release pairs with the acquire in refresh. */
static void show(struct rm_ring *r, uint64_t position)
{
    _Atomic uint64_t *shared = r->consumer ? &r->shared->head : &r->shared->tail;
    struct rm_semaphore *peer = r->consumer ? &r->shared->space : &r->shared->items;
    r->shown = position;
    atomic_store_explicit(shared, position, memory_order_release);
    if (r->consumer)
        RM_STEP(r, R4);
    else
        RM_STEP(r, S4);
    /* Orders the store above before the load below; the sleeper's exchange of waiters is the other half. Without it
     * both may miss each other. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&peer->waiters, memory_order_relaxed) == 0)
        return;
    if ((r->bell >= 0 || r->eventfd >= 0) && atomic_load(&peer->count) != 0)
        return; /* it was woken, and has not looked since */
    atomic_store(&peer->count, 1);
    if (r->consumer)
        RM_STEP(r, R5);
    else
        RM_STEP(r, S5);
    wake_peer(r, peer);
}

static struct rm_semaphore *own_semaphore(struct rm_ring *r)
{
    return r->consumer ? &r->shared->items : &r->shared->space;
}

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* Looks again and again for a short time. RM_TIMEOUT: not yet.
 *
 * The time is spent where it lately paid: halved by each
 * failure, restored by a success, and by every 32nd wait so that a change of the load is noticed. */
static enum rm_result spin(struct rm_ring *r, uint64_t bytes)
{
    uint64_t budget = ++r->waits % 32 == 0 ? r->spin_limit : r->spin;
    if (budget == 0)
        return RM_TIMEOUT;
    int64_t until = rm_now() + (int64_t)budget;
    do {
        for (int i = 0; i < 32; i++)
            relax();
        enum rm_result result = refresh(r);
        if (result != RM_OK)
            return result;
        if (r->available >= bytes) {
            r->spin = r->spin_limit;
            return RM_OK;
        }
    } while (rm_now() < until);
    r->spin = r->spin < 2000 ? 0 : r->spin / 2;
    return RM_TIMEOUT;
}

/* Sleeps until there may be something new; true when a signal or the longest sleep ended it. */
static bool futex_sleep(_Atomic uint32_t *word, int64_t ns)
{
    if (ns > LONGEST_SLEEP_NS)
        ns = LONGEST_SLEEP_NS;
    struct timespec t = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
    return syscall(SYS_futex, word, FUTEX_WAIT, 0, &t, NULL, 0) != 0 && (errno == EINTR || errno == ETIMEDOUT);
}

/* Takes what was rung off the line, and a descriptor that came with it; notices its end. false: nothing was there. */
static bool hear(struct rm_ring *r)
{
    uint8_t rung[64];
    int file;
    ssize_t n = rm_receive_with_file(r->bell, rung, sizeof rung, &file);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        atomic_store(&r->gone, true);
    if (file >= 0 && r->file_count < RM_FILES)
        r->files[r->file_count++] = file;
    else if (file >= 0)
        close(file);
    return n > 0;
}

/* Sleeps until the bell is rung, which may have been before, or its line ends; as futex_sleep. */
static bool bell_sleep(struct rm_ring *r, int64_t ns)
{
    if (ns > LONGEST_SLEEP_NS)
        ns = LONGEST_SLEEP_NS;
    struct pollfd p = {.fd = r->bell, .events = POLLIN};
    struct timespec t = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
    int n = ppoll(&p, 1, &t, NULL);
    if (n > 0)
        hear(r);
    return n <= 0;
}

/* Sleeps in the futex, and looks from time to time whether the peer is gone; as futex_sleep. */
static bool futex_sleep_beside_line(struct rm_ring *r, _Atomic uint32_t *word, int64_t ns)
{
    bool look_around = futex_sleep(word, ns < LINE_LOOK_NS ? ns : LINE_LOOK_NS);
    struct pollfd p = {.fd = r->bell, .events = POLLRDHUP};
    if (look_around && poll(&p, 1, 0) > 0)
        atomic_store(&r->gone, true);
    return look_around;
}

static bool sleep_once(struct rm_ring *r, _Atomic uint32_t *word, int64_t ns)
{
    if (r->bell < 0)
        return futex_sleep(word, ns);
    return r->consumer ? bell_sleep(r, ns) : futex_sleep_beside_line(r, word, ns);
}

/* Armed: waiters is 1. Clearing count before looking, and looking before sleeping, is what cannot lose a wake-up. */
static enum rm_result sleep_armed(struct rm_ring *r, struct rm_host *host, int64_t deadline, uint64_t bytes)
{
    struct rm_semaphore *s = own_semaphore(r);
    for (;;) {
        atomic_exchange(&s->count, 0);
        RM_STEP(r, W2);
        bool closed = atomic_load(&r->closed) || atomic_load(&r->gone); /* before looking: what came before the close is still taken */
        enum rm_result result = refresh(r);
        if (result != RM_OK || r->available >= bytes)
            return result;
        if (closed)
            return RM_CLOSED;
        if (atomic_exchange(&r->nudged, false))
            return RM_NUDGED;
        int64_t left = deadline == RM_FOREVER ? RM_FOREVER : deadline - rm_now();
        if (left <= 0)
            return RM_TIMEOUT;
        RM_STEP(r, W3);
        bool look_around = sleep_once(r, &s->count, left);
        RM_STEP(r, W4);
        if (look_around && host->interrupted != NULL && host->interrupted(host))
            return RM_INTERRUPTED;
    }
}

static enum rm_result wait_for(struct rm_ring *r, struct rm_host *host, int64_t deadline, uint64_t bytes)
{
    if (host->block != NULL)
        host->block(host);
    enum rm_result result = host->sleepy ? RM_TIMEOUT : spin(r, bytes);
    if (result == RM_TIMEOUT) {
        struct rm_semaphore *s = own_semaphore(r);
        atomic_exchange(&s->waiters, 1);
        RM_STEP(r, W1);
        result = sleep_armed(r, host, deadline, bytes);
        atomic_store(&s->waiters, 0);
        RM_STEP(r, W5);
    }
    if (host->unblock != NULL)
        host->unblock(host);
    return result;
}

static void wake_own(struct rm_ring *r)
{
    struct rm_semaphore *s = own_semaphore(r);
    atomic_store(&s->count, 1);
    futex_wake(&s->count, INT_MAX);
}

void rm_segment_shutdown(struct rm_segment *s)
{
    atomic_store(&s->in.closed, true);
    atomic_store(&s->out.closed, true);
    wake_own(&s->in);
    wake_own(&s->out);
    if (s->in.bell >= 0)
        shutdown(s->in.bell, SHUT_RDWR); /* wakes our receive, and tells the peer */
}

bool rm_segment_hear(struct rm_segment *s)
{
    hear(&s->in);
    if (atomic_load(&s->in.gone))
        atomic_store(&s->out.gone, true);
    return !atomic_load(&s->in.gone);
}

bool rm_segment_arm(struct rm_segment *s)
{
    struct rm_ring *r = &s->in;
    struct rm_semaphore *own = own_semaphore(r);
    atomic_exchange(&own->waiters, 1);
    atomic_exchange(&own->count, 0);
    bool over = atomic_load(&r->closed) || atomic_load(&r->gone);
    return refresh(r) != RM_OK || r->available > 0 || over;
}

int rm_segment_file(struct rm_segment *s)
{
    struct rm_ring *r = &s->in;
    if (r->bell < 0)
        return -1;
    while (r->file_count == 0 && hear(r))
        ;
    if (r->file_count == 0)
        return -1;
    int file = r->files[0];
    r->file_count--;
    memmove(r->files, r->files + 1, r->file_count * sizeof r->files[0]);
    return file;
}

void rm_segment_nudge(struct rm_segment *s)
{
    atomic_store(&s->in.nudged, true);
    wake_own(&s->in);
}

/* ---- receive ---- */

/* Copies the header at offset, reading each of its words once. */
static struct rm_frame load_header(const uint8_t *at)
{
    uint64_t words[2] = {((const volatile uint64_t *)at)[0], ((const volatile uint64_t *)at)[1]};
    struct rm_frame f;
    memcpy(&f, words, sizeof f);
    return f;
}

/* Says what is wrong with f, a private copy of the header at offset, or NULL. */
static const char *check_frame(const struct rm_ring *r, const struct rm_frame *f, uint64_t offset, uint64_t received)
{
    if (f->guard != rm_guard(f, r->incarnation))
        return "a frame's guard is wrong";
    if (f->seq != r->seq)
        return "a frame's sequence number is wrong";
    if (f->type != RM_DATA && f->type != RM_PAD)
        return "a frame's type is unknown";
    uint64_t need = rm_need(f->len);
    if (need > r->available)
        return "a frame is longer than what was published";
    if (offset + need > r->capacity)
        return "a frame crosses the end of the ring";
    if (f->type == RM_PAD) {
        if (f->flags != 0)
            return "a PAD has flags";
        if (offset + sizeof *f + f->len != r->capacity)
            return "a PAD does not end at the end of the ring";
        return NULL;
    }
    if (f->flags > RM_MORE)
        return "a frame has unknown flags";
    if (f->len < 1 || f->len > r->max_frame)
        return "a frame's length is not in 1 … max frame";
    if (f->flags == RM_MORE && f->len != r->max_frame)
        return "a frame with more to follow is not full";
    if (received + f->len > r->max_message)
        return "a message is longer than the limit";
    return NULL;
}

/* Makes room for a frame; when more follow, for as many again as there are. */
static bool make_room(struct rm_buffer *b, const struct rm_frame *f, uint64_t max_message)
{
    uint64_t want = b->length + f->len;
    if (want <= b->capacity)
        return true;
    if (f->flags == RM_MORE)
        want *= 2;
    return b->grow(b, want < max_message ? want : max_message);
}

/* Whether a frame may be received without saying so: a PAD, or a message that is whole, with room for as much again. */
static bool may_hide(const struct rm_ring *r, const struct rm_frame *f)
{
    return (f->type == RM_PAD || f->flags == 0) && r->own + rm_need(f->len) - r->shown <= r->capacity / 2;
}

static enum rm_result receive(struct rm_segment *s, struct rm_host *host, int64_t deadline, struct rm_buffer *into,
                              bool hidden)
{
    struct rm_ring *r = &s->in;
    for (;;) {
        enum rm_result result = ensure(r, host, deadline, sizeof(struct rm_frame));
        if (result != RM_OK)
            return result;
        RM_STEP(r, R1);
        uint64_t offset = r->own & (r->capacity - 1);
        struct rm_frame f = load_header(r->bytes + offset);
        const char *wrong = check_frame(r, &f, offset, into->length);
        if (wrong != NULL)
            return broken(r, wrong);
        RM_STEP(r, R2);
        if (f.type == RM_DATA) {
            if (!make_room(into, &f, r->max_message))
                return RM_NO_MEMORY;
            copy(host, into->data + into->length, r->bytes + offset + sizeof f, f.len);
            into->length += f.len;
        }
        RM_STEP(r, R3);
        if (hidden && into->length <= f.len && may_hide(r, &f))
            advance(r, rm_need(f.len), 1);
        else
            publish(r, rm_need(f.len), 1);
        RM_STEP(r, R6);
        if (f.type == RM_DATA && f.flags == 0)
            return RM_OK;
    }
}

enum rm_result rm_receive(struct rm_segment *s, struct rm_host *host, int64_t deadline, struct rm_buffer *into)
{
    return receive(s, host, deadline, into, false);
}

enum rm_result rm_peek(struct rm_segment *s, struct rm_host *host, int64_t deadline, struct rm_buffer *into)
{
    return receive(s, host, deadline, into, true);
}

void rm_settle(struct rm_segment *s, uint64_t position)
{
    struct rm_ring *r = &s->in;
    if (position - r->shown <= r->own - r->shown && position != r->shown)
        show(r, position);
}

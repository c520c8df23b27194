/* Messages through a pair of rings in shared memory: docs/protocol.md, sections 2 to 4, in plain C11 for Linux.
 *
 *   segment.c   a segment is created, checked and mapped
 *   ring.c      messages become frames and come back; the semaphore
 *
 * One process holds one side of a segment: the supervisor produces on s2w and consumes from w2s, the worker the
 * reverse. One thread at a time may be in rm_send, and one in rm_receive; a program with more of them brings its own
 * lock for each. Shared memory holds no lock, so a dead peer holds none.
 *
 * The peer is never trusted: its words are loaded once, checked, then used. A check that fails makes that direction
 * return RM_PROTOCOL for ever.
 */
#ifndef RINGMASTER_RING_H
#define RINGMASTER_RING_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "layout.h"

enum rm_result {
    RM_OK = 0,
    RM_TIMEOUT,     /* the deadline passed */
    RM_CLOSED,      /* rm_segment_shutdown was called */
    RM_NUDGED,      /* rm_segment_nudge was called; only from rm_receive */
    RM_INTERRUPTED, /* host->interrupted said so */
    RM_PROTOCOL,    /* the peer broke the protocol, see why */
    RM_NO_MEMORY,   /* buffer->grow failed */
    RM_SYSTEM,      /* errno; only from rm_segment_open */
};

enum rm_role { RM_WORKER, RM_SUPERVISOR };

#define RM_FOREVER INT64_MAX
#define RM_FILES 16 /* descriptors that wait to be taken; further ones are closed */

/* What the ring asks of the program around it: the beginning of a struct of its own. Its functions may be NULL. */
struct rm_host {
    void (*block)(struct rm_host *);       /* this thread is about to sleep or to copy much: let others run */
    void (*unblock)(struct rm_host *);     /* done with that */
    bool (*interrupted)(struct rm_host *); /* called after each signal, and once a second; true ends the wait */
    bool sleepy;                           /* do not spin: others have a use for the processor */
};

/* Where a message is received. grow makes data at least capacity bytes long, keeping what it holds; false: out of
 * memory. */
struct rm_buffer {
    uint8_t *data;
    uint64_t length;   /* bytes of the message so far */
    uint64_t capacity; /* bytes that fit */
    bool (*grow)(struct rm_buffer *, uint64_t capacity);
};

/* One direction as this process sees it.
 *
 * Invariants: own is a multiple of 16 and differs from the peer's position by at most capacity; available is what the
 * peer was last seen to leave us, never more than that. Where we consume, shown is own, or behind it by at most half the
 * capacity: by what rm_peek has received and rm_settle not settled yet.
 */
struct rm_ring {
    const char *name;              /* "s2w" or "w2s"; immutable, like everything up to spin_limit */
    bool consumer;                 /* our part in it */
    struct rm_ring_header *shared;
    uint8_t *bytes;
    uint64_t capacity;
    uint64_t max_frame;
    uint64_t max_message;
    uint64_t incarnation;
    int bell;                      /* a socket on which the peer is woken, and wakes the worker's receive; -1: futexes */
    int eventfd;                   /* what wakes the peer when it waits for messages; -1: the above */
    uint64_t spin_limit;           /* ns */
    uint64_t own;                  /* our position; the shared copy is only for the peer */
    uint64_t shown;                /* the shared copy of own, where we consume */
    uint64_t available;            /* bytes we may consume, or fill */
    uint32_t seq;                  /* of the next frame */
    uint64_t spin;                 /* ns to spin before the next sleep */
    uint32_t waits;
    const char *why;               /* what the peer did wrong; not NULL: this direction is over */
    int files[RM_FILES];           /* descriptors that came with the bell, in order; closed by rm_segment_unmap */
    unsigned file_count;
    _Atomic bool closed;
    _Atomic bool gone;             /* the bell's end of file: what was committed before it is still taken */
    _Atomic bool nudged;
};

struct rm_segment {
    struct rm_segment_header *shared; /* NULL once unmapped */
    uint64_t size;
    uint64_t incarnation;
    uint64_t max_frame;
    struct rm_ring in, out;
    const char *why; /* of RM_PROTOCOL or RM_SYSTEM from rm_segment_open */
};

/* Makes a sealed segment and returns its descriptor, or -1 with errno. max_frame 0 means the largest allowed. For
 * tests: the supervisor pid, which only informs, is 0. */
int rm_segment_create(uint64_t s2w_capacity, uint64_t w2s_capacity, uint64_t max_frame, uint64_t incarnation);

/* Checks and maps the segment behind fd, which may be closed afterwards. RM_OK, RM_PROTOCOL or RM_SYSTEM.
 * bell is the connected socket of a client's segment, which has to stay open while the segment is used; eventfd wakes the supervisor, should the segment say that it has one,
 * and is copied; -1: there is none.
 * Preconditions: nobody has used this side before, since positions start at 0; with either of them the role is RM_WORKER. */
enum rm_result rm_segment_open(struct rm_segment *, int fd, enum rm_role, uint64_t max_message, int bell, int eventfd);

/* For a program that waits for the bell's socket to be readable by itself: takes what was rung off the socket. false: the
 * peer is gone. Precondition: nobody is in rm_receive. */
bool rm_segment_hear(struct rm_segment *);

/* For the same: asks to be rung at when there is a message, and reports whether rm_receive has something to say already.
 * Precondition: nobody is in rm_receive. */
bool rm_segment_arm(struct rm_segment *);

/* Takes the next of the descriptors that came with the bell, after reading on if none has come yet: it is the caller's to
 * close. -1: there is none. Precondition: nobody is in rm_receive. */
int rm_segment_file(struct rm_segment *);

/* Ends every send and receive, now and later, with RM_CLOSED. The peer notices nothing. */
void rm_segment_shutdown(struct rm_segment *);

/* Makes one receive that waits, now or next, return RM_NUDGED. Safe in a signal handler. */
void rm_segment_nudge(struct rm_segment *);

/* Unmaps. Precondition: no other thread is in a function of this segment, and none will be. */
void rm_segment_unmap(struct rm_segment *);

/* Sends the parts, together one message of 1 … max_message bytes (precondition). deadline is CLOCK_MONOTONIC ns, 0 to
 * not wait at all, and holds for the first frame: a message once begun is finished, or this direction is over. After
 * any result but RM_OK before that, nothing was sent. */
enum rm_result rm_send(struct rm_segment *, struct rm_host *, int64_t deadline, const struct iovec *parts, int count);

/* Whether a message of so many bytes finds space for all of it now. */
bool rm_fits(struct rm_segment *, uint64_t length);

/* Receives one message into buffer, which begins with length 0. After any result but RM_OK the call may be repeated
 * with the same buffer: it holds the message's frames so far. */
enum rm_result rm_receive(struct rm_segment *, struct rm_host *, int64_t deadline, struct rm_buffer *);

/* rm_receive, except that to the peer the message remains unread until rm_settle or the next rm_receive, if there is room
 * to leave it in the ring: it is one frame, and half the ring is free of such. Otherwise all is read. */
enum rm_result rm_peek(struct rm_segment *, struct rm_host *, int64_t deadline, struct rm_buffer *);

/* Says that what has been received up to that position has been read. Precondition: s->in.own was position once. */
void rm_settle(struct rm_segment *, uint64_t position);

/* Says what the worker is doing: words the supervisor shows to people. */
void rm_worker_status(struct rm_segment *, enum rm_worker_state, uint64_t request);

void rm_worker_beat(struct rm_segment *); /* it lives */

int64_t rm_now(void); /* CLOCK_MONOTONIC, ns */

#endif

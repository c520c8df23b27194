/* The segment's bytes: docs/protocol.md, sections 2 and 3, as types. Nothing here runs.
 *
 *   0x0000  geometry, crc (immutable)
 *   0x0080  supervisor state
 *   0x0100  worker state, advisory
 *   0x1000  s2w ring header            supervisor → worker
 *   0x1400  w2s ring header            worker → supervisor
 *   0x2000  s2w bytes, then w2s bytes
 */
#ifndef RINGMASTER_LAYOUT_H
#define RINGMASTER_LAYOUT_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* Between processes only lock-free atomics work. */
static_assert(ATOMIC_INT_LOCK_FREE == 2, "32-bit atomics are not lock-free");
static_assert(ATOMIC_LONG_LOCK_FREE == 2 && sizeof(long) == 8, "64-bit atomics are not lock-free");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the segment is little-endian");

#define RM_MAGIC "RNGSHM\0\1"
#define RM_VERSION 1u
#define RM_HEADER_BYTES 0x2000u
#define RM_FLAG_BELL 1u /* the supervisor sleeps at its bell, and the worker when it waits for messages */
#define RM_FLAG_EVENTFD 2u /* the supervisor sleeps at an eventfd when it waits for messages */
#define RM_MIN_CAPACITY (UINT64_C(4) << 10)
#define RM_MAX_CAPACITY (UINT64_C(1) << 30)
#define RM_MIN_MAX_FRAME 64u

struct rm_geometry { /* 0x000, immutable after creation */
    uint8_t magic[8];
    uint32_t version;
    uint32_t header_bytes;
    uint64_t segment_bytes;
    uint64_t incarnation;
    uint32_t supervisor_pid;
    uint32_t flags;
    uint64_t max_frame;
    uint64_t s2w_offset, s2w_capacity;
    uint64_t w2s_offset, w2s_capacity;
    uint32_t crc; /* CRC-32C of everything before it */
};
static_assert(offsetof(struct rm_geometry, segment_bytes) == 0x10, "layout");
static_assert(offsetof(struct rm_geometry, max_frame) == 0x28, "layout");
static_assert(offsetof(struct rm_geometry, w2s_capacity) == 0x48, "layout");
static_assert(offsetof(struct rm_geometry, crc) == 0x50, "layout");

/* What each says of itself. The other never decides by it. */
enum rm_supervisor_state { RM_RUN = 1 };
enum rm_worker_state { RM_BOOT = 0, RM_LOADING = 1, RM_READY = 2, RM_BUSY = 3, RM_DRAIN = 4 };

struct rm_worker_words { /* 0x100, written by the worker */
    _Atomic uint32_t state;
    _Atomic uint32_t pid;
    _Atomic uint64_t beat;       /* CLOCK_MONOTONIC ns of the last sign of life */
    _Atomic uint64_t request;    /* id of the request being worked on, 0 if none */
    _Atomic uint64_t busy_since; /* CLOCK_MONOTONIC ns */
};

struct rm_semaphore { /* section 4: the positions are the truth, this only tells a sleeper to look again */
    _Atomic uint32_t count;
    _Atomic uint32_t waiters;
};

struct rm_ring_header {
    _Alignas(128) _Atomic uint64_t tail;       /* bytes ever published; written by the producer */
    _Alignas(128) _Atomic uint64_t head;       /* bytes ever consumed; written by the consumer */
    _Alignas(128) struct rm_semaphore items;   /* the consumer sleeps here */
    _Alignas(128) struct rm_semaphore space;   /* the producer sleeps here */
};
static_assert(offsetof(struct rm_ring_header, head) == 0x80, "layout");
static_assert(offsetof(struct rm_ring_header, items) == 0x100, "layout");
static_assert(offsetof(struct rm_ring_header, space) == 0x180, "layout");

struct rm_segment_header {
    struct rm_geometry geometry;
    _Alignas(128) _Atomic uint32_t supervisor_state;
    _Alignas(128) struct rm_worker_words worker;
    _Alignas(0x1000) struct rm_ring_header s2w;
    _Alignas(0x400) struct rm_ring_header w2s;
};
static_assert(offsetof(struct rm_segment_header, supervisor_state) == 0x80, "layout");
static_assert(offsetof(struct rm_segment_header, worker) == 0x100, "layout");
static_assert(offsetof(struct rm_segment_header, worker.request) == 0x110, "layout");
static_assert(offsetof(struct rm_segment_header, s2w) == 0x1000, "layout");
static_assert(offsetof(struct rm_segment_header, w2s) == 0x1400, "layout");
static_assert(sizeof(struct rm_segment_header) == RM_HEADER_BYTES, "layout");

/* A frame: 16 bytes of header at a multiple of 16, the payload, padding to a multiple of 16. It never wraps. */
struct rm_frame {
    uint32_t len; /* of the payload */
    uint16_t type;
    uint16_t flags;
    uint32_t seq; /* counts this ring's frames, PADs too */
    uint32_t guard;
};
static_assert(sizeof(struct rm_frame) == 16, "layout");

enum { RM_DATA = 1, RM_PAD = 2 };
enum { RM_MORE = 1 };
enum { RM_RUNG_ITEMS = 1, RM_RUNG_SPACE = 2 }; /* what is rung: there are messages, there is space */

static inline uint32_t rm_guard(const struct rm_frame *f, uint64_t incarnation)
{
    return 0x5AFEC0DEu ^ f->len ^ ((uint32_t)f->type | (uint32_t)f->flags << 16) ^ f->seq ^ (uint32_t)incarnation;
}

/* The bytes a payload of len bytes takes in the ring, its header included. */
static inline uint64_t rm_need(uint64_t len)
{
    return sizeof(struct rm_frame) + ((len + 15) & ~UINT64_C(15));
}

#endif

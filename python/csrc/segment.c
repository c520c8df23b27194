/* A segment is created, checked and mapped. */
#define _GNU_SOURCE
#include "ring.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SPIN_LIMIT_NS 50000 /* longer than a round trip between two cores that are awake, shorter than a time slice */

int64_t rm_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* CRC-32C, reflected; bit by bit, since it runs over 80 bytes once. */
static uint32_t crc32c(const uint8_t *p, size_t n)
{
    uint32_t crc = 0xFFFFFFFFu;
    while (n-- > 0) {
        crc ^= *p++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    }
    return ~crc;
}

static bool is_capacity(uint64_t n)
{
    return n >= RM_MIN_CAPACITY && n <= RM_MAX_CAPACITY && (n & (n - 1)) == 0;
}

static uint64_t largest_frame(uint64_t s2w, uint64_t w2s)
{
    return (s2w < w2s ? s2w : w2s) / 4 - sizeof(struct rm_frame);
}

/* Says what is wrong with g, a private copy, or NULL. */
static const char *check_geometry(const struct rm_geometry *g, uint64_t file_bytes, uint32_t flags)
{
    if (memcmp(g->magic, RM_MAGIC, sizeof g->magic) != 0)
        return "the segment's magic is wrong";
    if (g->version != RM_VERSION)
        return "the segment's version is not 1";
    if (g->crc != crc32c((const uint8_t *)g, offsetof(struct rm_geometry, crc)))
        return "the segment's CRC is wrong";
    if (g->header_bytes != RM_HEADER_BYTES)
        return "the segment's header size is not 0x2000";
    if (!is_capacity(g->s2w_capacity) || !is_capacity(g->w2s_capacity))
        return "a ring's capacity is not a power of two from 4 KiB to 1 GiB";
    if (g->s2w_offset != RM_HEADER_BYTES || g->w2s_offset != RM_HEADER_BYTES + g->s2w_capacity)
        return "a ring's offset is wrong";
    if (g->segment_bytes != RM_HEADER_BYTES + g->s2w_capacity + g->w2s_capacity)
        return "the segment's size is not the sum of its parts";
    if (g->segment_bytes != file_bytes)
        return "the segment's size is not the file's";
    if (g->incarnation == 0)
        return "the segment's incarnation is 0";
    if (g->flags != flags)
        return "the segment's flags are not those of its kind";
    if (g->max_frame < RM_MIN_MAX_FRAME || g->max_frame > largest_frame(g->s2w_capacity, g->w2s_capacity))
        return "the largest frame is less than 64 bytes or more than a quarter of a ring";
    return NULL;
}

int rm_segment_create(uint64_t s2w_capacity, uint64_t w2s_capacity, uint64_t max_frame, uint64_t incarnation)
{
    struct rm_geometry g = {
        .magic = RM_MAGIC,
        .version = RM_VERSION,
        .header_bytes = RM_HEADER_BYTES,
        .segment_bytes = RM_HEADER_BYTES + s2w_capacity + w2s_capacity,
        .incarnation = incarnation,
        .max_frame = max_frame != 0 ? max_frame : largest_frame(s2w_capacity, w2s_capacity),
        .s2w_offset = RM_HEADER_BYTES,
        .s2w_capacity = s2w_capacity,
        .w2s_offset = RM_HEADER_BYTES + s2w_capacity,
        .w2s_capacity = w2s_capacity,
    };
    g.crc = crc32c((const uint8_t *)&g, offsetof(struct rm_geometry, crc));
    if (check_geometry(&g, g.segment_bytes, 0) != NULL) {
        errno = EINVAL;
        return -1;
    }
    int fd = memfd_create("ringmaster", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    off_t size = (off_t)g.segment_bytes;
    const uint32_t run = RM_RUN;
    if (ftruncate(fd, size) != 0 || (errno = posix_fallocate(fd, 0, size)) != 0 ||
        pwrite(fd, &g, sizeof g, 0) != (ssize_t)sizeof g ||
        pwrite(fd, &run, sizeof run, offsetof(struct rm_segment_header, supervisor_state)) != (ssize_t)sizeof run ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        int e = errno;
        close(fd);
        errno = e;
        return -1;
    }
    return fd;
}

/* Spinning for a peer that needs our CPU to run is time lost. */
static uint64_t spin_limit(void)
{
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) < 2)
        return 0;
    return SPIN_LIMIT_NS;
}

static void ring_init(struct rm_ring *r, const char *name, bool consumer, const struct rm_geometry *g,
                      struct rm_ring_header *shared, uint8_t *bytes, uint64_t capacity, uint64_t max_message)
{
    *r = (struct rm_ring){
        .name = name,
        .consumer = consumer,
        .shared = shared,
        .bytes = bytes,
        .capacity = capacity,
        .max_frame = g->max_frame,
        .max_message = max_message,
        .incarnation = g->incarnation,
        .bell = -1,
        .eventfd = -1,
        .spin_limit = spin_limit(),
    };
    r->spin = r->spin_limit;
}

enum rm_result rm_segment_open(struct rm_segment *s, int fd, enum rm_role role, uint64_t max_message, int bell,
                               int eventfd)
{
    memset(s, 0, sizeof *s);
    struct stat st;
    if (fstat(fd, &st) != 0) {
        s->why = "fstat";
        return RM_SYSTEM;
    }
    uint64_t size = (uint64_t)st.st_size;
    if (st.st_size < (off_t)(RM_HEADER_BYTES + 2 * RM_MIN_CAPACITY)) {
        s->why = "the file is too small for a segment";
        return RM_PROTOCOL;
    }
    uint8_t *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        s->why = "mmap";
        return RM_SYSTEM;
    }
    struct rm_geometry g;
    memcpy(&g, base, sizeof g); /* the only time it is read */
    bool has_eventfd = eventfd >= 0 && (g.flags & RM_FLAG_EVENTFD) != 0;
    s->why = check_geometry(&g, size, (bell >= 0 ? RM_FLAG_BELL : 0) | (has_eventfd ? RM_FLAG_EVENTFD : 0));
    if (s->why != NULL) {
        munmap(base, size);
        return RM_PROTOCOL;
    }
    if (has_eventfd && (eventfd = fcntl(eventfd, F_DUPFD_CLOEXEC, 0)) < 0) {
        munmap(base, size);
        s->why = "dup";
        return RM_SYSTEM;
    }
    madvise(base, size, MADV_DONTFORK); /* a fork must not produce or consume beside us */
    struct rm_segment_header *shared = (struct rm_segment_header *)base;
    s->shared = shared;
    s->size = size;
    s->incarnation = g.incarnation;
    s->max_frame = g.max_frame;
    bool worker = role == RM_WORKER;
    struct rm_ring *s2w = worker ? &s->in : &s->out, *w2s = worker ? &s->out : &s->in;
    ring_init(s2w, "s2w", worker, &g, &shared->s2w, base + g.s2w_offset, g.s2w_capacity, max_message);
    ring_init(w2s, "w2s", !worker, &g, &shared->w2s, base + g.w2s_offset, g.w2s_capacity, max_message);
    s->in.bell = s->out.bell = bell;
    if (has_eventfd)
        s->out.eventfd = eventfd;
    if (worker)
        atomic_store(&shared->worker.pid, (uint32_t)getpid());
    return RM_OK;
}

void rm_segment_unmap(struct rm_segment *s)
{
    if (s->shared == NULL)
        return;
    while (s->in.file_count > 0)
        close(s->in.files[--s->in.file_count]);
    if (s->out.eventfd >= 0)
        close(s->out.eventfd);
    munmap(s->shared, s->size);
    s->shared = NULL;
}

void rm_worker_status(struct rm_segment *s, enum rm_worker_state state, uint64_t request)
{
    struct rm_worker_words *w = &s->shared->worker;
    uint64_t now = (uint64_t)rm_now();
    atomic_store_explicit(&w->request, request, memory_order_relaxed);
    atomic_store_explicit(&w->busy_since, request != 0 ? now : 0, memory_order_relaxed);
    atomic_store_explicit(&w->beat, now, memory_order_relaxed);
    atomic_store_explicit(&w->state, state, memory_order_relaxed);
}

void rm_worker_beat(struct rm_segment *s)
{
    atomic_store_explicit(&s->shared->worker.beat, (uint64_t)rm_now(), memory_order_relaxed);
}

/* ring.h without Python: both sides of a segment in one process, with sequence numbers about to wrap. Exits with 0 if
 * all went well. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ring.h"

static bool grow(struct rm_buffer *b, uint64_t capacity)
{
    uint8_t *data = realloc(b->data, capacity);
    if (data == NULL)
        return false;
    b->data = data;
    b->capacity = capacity;
    return true;
}

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
            return 1; \
        } \
    } while (0)

/* A host is the beginning of a struct of the program's own. */
struct counting {
    struct rm_host base;
    long blocked, unblocked;
};

static void block(struct rm_host *h)
{
    ((struct counting *)h)->blocked++;
}

static void unblock(struct rm_host *h)
{
    ((struct counting *)h)->unblocked++;
}

static void *send_long(void *segment)
{
    static uint8_t message[100000];
    struct counting host = {.base = {.block = block, .unblock = unblock}};
    struct iovec part = {message, sizeof message};
    for (int i = 0; i < 20; i++)
        if (rm_send(segment, &host.base, RM_FOREVER, &part, 1) != RM_OK)
            return NULL;
    return host.blocked > 0 && host.blocked == host.unblocked ? segment : NULL;
}

int main(void)
{
    struct rm_host host = {0};
    struct rm_segment supervisor, worker;
    int fd = rm_segment_create(4096, 4096, 0, 0xFEDCBA9876543210);
    CHECK(fd >= 0);
    CHECK(rm_segment_open(&supervisor, fd, RM_SUPERVISOR, 1 << 20, -1, -1) == RM_OK);
    CHECK(rm_segment_open(&worker, fd, RM_WORKER, 1 << 20, -1, -1) == RM_OK);
    close(fd);
    supervisor.out.seq = worker.in.seq = UINT32_MAX - 5;
    struct rm_buffer got = {.grow = grow};
    CHECK(rm_receive(&worker, &host, 0, &got) == RM_TIMEOUT);
    CHECK(rm_receive(&worker, &host, rm_now() + 1000000, &got) == RM_TIMEOUT);
    for (int i = 0; i < 1000; i++) {
        uint8_t message[2500];
        size_t n = 1 + (size_t)(i * 37) % sizeof message;
        memset(message, i, sizeof message);
        struct iovec parts[] = {{message, n / 3}, {message, n - n / 3}};
        CHECK(rm_send(&supervisor, &host, RM_FOREVER, parts, 2) == RM_OK);
        got.length = 0;
        CHECK(rm_receive(&worker, &host, RM_FOREVER, &got) == RM_OK);
        CHECK(got.length == n && memcmp(got.data, message, n) == 0);
    }
    CHECK(worker.in.seq == supervisor.out.seq && worker.in.seq < UINT32_MAX / 2);
    pthread_t sender;
    CHECK(pthread_create(&sender, NULL, send_long, &supervisor) == 0);
    for (int i = 0; i < 20; i++) {
        got.length = 0;
        CHECK(rm_receive(&worker, &host, RM_FOREVER, &got) == RM_OK);
        CHECK(got.length == 100000);
    }
    void *sent_well;
    pthread_join(sender, &sent_well);
    CHECK(sent_well != NULL);
    rm_segment_nudge(&worker);
    got.length = 0;
    CHECK(rm_receive(&worker, &host, RM_FOREVER, &got) == RM_NUDGED);
    rm_segment_shutdown(&worker);
    CHECK(rm_receive(&worker, &host, RM_FOREVER, &got) == RM_CLOSED);
    CHECK(rm_send(&worker, &host, RM_FOREVER, &(struct iovec){"x", 1}, 1) == RM_CLOSED);
    rm_segment_unmap(&worker);
    rm_segment_unmap(&supervisor);
    free(got.data);
    return 0;
}

/* One pass over MessagePack bytes from a peer, before anything else looks at them: docs/protocol.md, section 5,
 * Validation. */
#ifndef RINGMASTER_SCAN_H
#define RINGMASTER_SCAN_H

#include <stdint.h>

#define RM_MAX_DEPTH 64 /* of nested arrays and maps that have elements, the message's own array included */

/* The head of one value: what it is and how much follows. */
struct rm_value {
    enum { RM_NIL, RM_BOOL, RM_UINT, RM_INT, RM_FLOAT, RM_STR, RM_BIN, RM_EXT, RM_ARRAY, RM_MAP } type;
    uint64_t bits;  /* of BOOL, UINT, INT (two's complement), FLOAT (IEEE, of 4 or 8 bytes) */
    uint64_t bytes; /* that follow the head: of STR, BIN, EXT (its type byte included), else 0 */
    uint64_t items; /* that follow the head: of ARRAY; of MAP, keys and values */
};

/* Reads the head of the value at data[*at] and moves *at behind it. Returns NULL, or what is wrong; then what a head
 * claims to follow does lie inside length. */
const char *rm_scan_head(const uint8_t *data, uint64_t length, uint64_t *at, struct rm_value *);

/* Moves *at behind the whole value at data[*at], which lies in depth containers. Returns NULL, or what is wrong. No
 * recursion, no allocation. */
const char *rm_scan_value(const uint8_t *data, uint64_t length, uint64_t *at, int depth);

#endif

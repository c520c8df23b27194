/* One pass over MessagePack bytes from a peer. */
#include "scan.h"

static uint64_t big_endian(const uint8_t *p, uint64_t width)
{
    uint64_t v = 0;
    while (width-- > 0)
        v = v << 8 | *p++;
    return v;
}

/* Reads the width bytes after the type byte. */
static const char *number(const uint8_t *data, uint64_t length, uint64_t *at, uint64_t width, uint64_t *v)
{
    if (width > length - *at)
        return "the message is cut off";
    *v = big_endian(data + *at, width);
    *at += width;
    return 0;
}

static uint64_t sign_extend(uint64_t v, uint64_t width)
{
    unsigned shift = 64 - 8 * (unsigned)width;
    return (uint64_t)((int64_t)(v << shift) >> shift);
}

const char *rm_scan_head(const uint8_t *data, uint64_t length, uint64_t *at, struct rm_value *v)
{
    *v = (struct rm_value){.type = RM_NIL};
    if (*at >= length)
        return "the message is cut off";
    uint8_t c = data[(*at)++];
    const char *wrong = 0;
    if (c <= 0x7f) {
        v->type = RM_UINT;
        v->bits = c;
    } else if (c <= 0x8f) {
        v->type = RM_MAP;
        v->items = 2 * (uint64_t)(c & 0x0f);
    } else if (c <= 0x9f) {
        v->type = RM_ARRAY;
        v->items = c & 0x0f;
    } else if (c <= 0xbf) {
        v->type = RM_STR;
        v->bytes = c & 0x1f;
    } else if (c >= 0xe0) {
        v->type = RM_INT;
        v->bits = sign_extend(c, 1);
    } else switch (c) {
    case 0xc0:
        break;
    case 0xc1:
        return "the reserved byte c1 occurs";
    case 0xc2: case 0xc3:
        v->type = RM_BOOL;
        v->bits = c & 1;
        break;
    case 0xc4: case 0xc5: case 0xc6:
        v->type = RM_BIN;
        wrong = number(data, length, at, UINT64_C(1) << (c - 0xc4), &v->bytes);
        break;
    case 0xc7: case 0xc8: case 0xc9:
        v->type = RM_EXT;
        wrong = number(data, length, at, UINT64_C(1) << (c - 0xc7), &v->bytes);
        v->bytes++;
        break;
    case 0xca: case 0xcb:
        v->type = RM_FLOAT;
        wrong = number(data, length, at, UINT64_C(4) << (c - 0xca), &v->bits);
        break;
    case 0xcc: case 0xcd: case 0xce: case 0xcf:
        v->type = RM_UINT;
        wrong = number(data, length, at, UINT64_C(1) << (c - 0xcc), &v->bits);
        break;
    case 0xd0: case 0xd1: case 0xd2: case 0xd3:
        v->type = RM_INT;
        wrong = number(data, length, at, UINT64_C(1) << (c - 0xd0), &v->bits);
        v->bits = sign_extend(v->bits, UINT64_C(1) << (c - 0xd0));
        break;
    case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8:
        v->type = RM_EXT;
        v->bytes = (UINT64_C(1) << (c - 0xd4)) + 1;
        break;
    case 0xd9: case 0xda: case 0xdb:
        v->type = RM_STR;
        wrong = number(data, length, at, UINT64_C(1) << (c - 0xd9), &v->bytes);
        break;
    case 0xdc: case 0xdd:
        v->type = RM_ARRAY;
        wrong = number(data, length, at, UINT64_C(2) << (c - 0xdc), &v->items);
        break;
    case 0xde: case 0xdf:
        v->type = RM_MAP;
        wrong = number(data, length, at, UINT64_C(2) << (c - 0xde), &v->items);
        v->items *= 2;
        break;
    }
    if (wrong != 0)
        return wrong;
    if (v->bytes > length - *at || v->items > length - *at) /* an element takes at least one byte */
        return "a length exceeds the bytes that are left";
    return 0;
}

const char *rm_scan_value(const uint8_t *data, uint64_t length, uint64_t *at, int depth)
{
    uint64_t left[RM_MAX_DEPTH]; /* values still to come in each container we are in */
    const int outside = depth;
    for (;;) {
        struct rm_value v;
        const char *wrong = rm_scan_head(data, length, at, &v);
        if (wrong != 0)
            return wrong;
        *at += v.bytes;
        if (v.items > 0) {
            if (depth == RM_MAX_DEPTH)
                return "arrays and maps are nested deeper than 64";
            left[depth++] = v.items;
            continue;
        }
        /* A value is complete, and with it perhaps the containers that end here. */
        while (depth > outside && --left[depth - 1] == 0)
            depth--;
        if (depth == outside)
            return 0;
    }
}

/* ringmaster._ring.Codec.request and .reply: one message as one bytes object. */
#include "envelope.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MOST_BYTES (32u << 10) /* of a message; a longer one's arrays are worth not copying twice */
#define FEW_BYTES 1024         /* for which no memory is allocated */

/* A message under way. */
struct writer {
    Codec *codec;
    uint8_t *data;
    size_t length, capacity;
    bool over; /* it does not go this way, or there is an exception */
    uint8_t few[FEW_BYTES];
};

static bool give_up(struct writer *w)
{
    w->over = true;
    return false;
}

/* Returns where n more bytes go, or NULL. */
static uint8_t *room(struct writer *w, size_t n)
{
    if (w->over)
        return NULL;
    if (n > MOST_BYTES - w->length) {
        give_up(w);
        return NULL;
    }
    if (n > w->capacity - w->length) {
        uint8_t *more = malloc(MOST_BYTES);
        if (more == NULL) {
            give_up(w);
            return NULL;
        }
        memcpy(more, w->data, w->length);
        w->data = more; /* what it was is few: there is no third size */
        w->capacity = MOST_BYTES;
    }
    uint8_t *at = w->data + w->length;
    w->length += n;
    return at;
}

static void put(struct writer *w, const void *bytes, size_t n)
{
    uint8_t *at = room(w, n);
    if (at != NULL && n > 0)
        memcpy(at, bytes, n);
}

/* A type byte and the lowest width bytes of v, big-endian. */
static void put_number(struct writer *w, uint8_t type, uint64_t v, unsigned width)
{
    uint8_t *at = room(w, 1 + width);
    if (at == NULL)
        return;
    *at = type;
    for (unsigned i = width; i > 0; i--, v >>= 8)
        at[i] = (uint8_t)v;
}

static void put_uint(struct writer *w, uint64_t v)
{
    if (v < 0x80)
        put_number(w, (uint8_t)v, 0, 0);
    else if (v <= UINT8_MAX)
        put_number(w, 0xcc, v, 1);
    else if (v <= UINT16_MAX)
        put_number(w, 0xcd, v, 2);
    else if (v <= UINT32_MAX)
        put_number(w, 0xce, v, 4);
    else
        put_number(w, 0xcf, v, 8);
}

static void put_negative(struct writer *w, int64_t v)
{
    if (v >= -32)
        put_number(w, (uint8_t)v, 0, 0);
    else if (v >= INT8_MIN)
        put_number(w, 0xd0, (uint64_t)v, 1);
    else if (v >= INT16_MIN)
        put_number(w, 0xd1, (uint64_t)v, 2);
    else if (v >= INT32_MIN)
        put_number(w, 0xd2, (uint64_t)v, 4);
    else
        put_number(w, 0xd3, (uint64_t)v, 8);
}

static void put_array_head(struct writer *w, uint64_t n)
{
    if (n < 16)
        put_number(w, (uint8_t)(0x90 | n), 0, 0);
    else if (n <= UINT16_MAX)
        put_number(w, 0xdc, n, 2);
    else
        put_number(w, 0xdd, n, 4);
}

/* The head of a binary, which is shorter than MOST_BYTES. */
static void put_bin_head(struct writer *w, uint64_t n)
{
    if (n <= UINT8_MAX)
        put_number(w, 0xc4, n, 1);
    else
        put_number(w, 0xc5, n, 2);
}

/* false: it is no plain string, or has a lone surrogate, which stands for a byte that is not UTF-8. */
static bool put_string(struct writer *w, PyObject *s)
{
    Py_ssize_t n;
    const char *utf8 = PyUnicode_CheckExact(s) ? PyUnicode_AsUTF8AndSize(s, &n) : NULL;
    if (utf8 == NULL || (size_t)n > MOST_BYTES) {
        if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_UnicodeError))
            PyErr_Clear();
        return give_up(w);
    }
    if (n < 32)
        put_number(w, (uint8_t)(0xa0 | n), 0, 0);
    else if (n <= UINT8_MAX)
        put_number(w, 0xd9, (uint64_t)n, 1);
    else
        put_number(w, 0xda, (uint64_t)n, 2);
    put(w, utf8, (size_t)n);
    return !w->over;
}

static bool put_bytes(struct writer *w, PyObject *b)
{
    char *data;
    Py_ssize_t n;
    if (!PyBytes_CheckExact(b) || PyBytes_AsStringAndSize(b, &data, &n) != 0 || (size_t)n > MOST_BYTES)
        return give_up(w);
    put_bin_head(w, (uint64_t)n);
    put(w, data, (size_t)n);
    return !w->over;
}

static bool put_int(struct writer *w, PyObject *v)
{
    int overflow;
    long long small = PyLong_AsLongLongAndOverflow(v, &overflow);
    if (overflow < 0)
        return give_up(w);
    if (overflow > 0) {
        unsigned long long large = PyLong_AsUnsignedLongLong(v);
        if (PyErr_Occurred()) {
            PyErr_Clear();
            return give_up(w);
        }
        put_uint(w, large);
    } else if (small < 0)
        put_negative(w, small);
    else
        put_uint(w, (uint64_t)small);
    return !w->over;
}

/* What encodes to these bytes. */
static bool put_encoded(struct writer *w, PyObject *data)
{
    Py_buffer b;
    if (PyObject_GetBuffer(data, &b, PyBUF_SIMPLE) != 0)
        return give_up(w);
    put(w, b.buf, (size_t)b.len);
    PyBuffer_Release(&b);
    return !w->over;
}

static bool put_body(struct writer *w, PyObject *body)
{
    if (body == Py_None)
        put_number(w, 0xc0, 0, 0);
    else if (PyBool_Check(body))
        put_number(w, body == Py_True ? 0xc3 : 0xc2, 0, 0);
    else if (PyLong_CheckExact(body))
        return put_int(w, body);
    else if (PyUnicode_CheckExact(body))
        return put_string(w, body);
    else if (PyBytes_CheckExact(body))
        return put_bytes(w, body);
    else {
        bool encoded = Py_TYPE(body) == (PyTypeObject *)w->codec->encoded;
        PyObject *data = encoded ? PyObject_GetAttr(body, w->codec->data)
                                 : PyObject_CallFunctionObjArgs(w->codec->pack, body, NULL);
        bool done = data != NULL && put_encoded(w, data);
        Py_XDECREF(data);
        return done || give_up(w);
    }
    return !w->over;
}

/* The index in rm_dtypes of what a buffer has as elements; -1. */
static int dtype_of(const Py_buffer *b)
{
    const char *format = b->format != NULL ? b->format : "B";
    size_t n = strlen(format);
    for (int i = 0; i < RM_DTYPES && n > 0; i++) {
        if (rm_dtypes[i].size != (uint64_t)b->itemsize)
            continue;
        for (const char *f = rm_dtypes[i].formats; *f != '\0';) {
            size_t k = strcspn(f, " ");
            if (k == n && memcmp(f, format, n) == 0)
                return i;
            f += k + strspn(f + k, " ");
        }
    }
    return -1;
}

static bool put_array(struct writer *w, PyObject *a)
{
    Py_buffer b;
    if (PyObject_GetBuffer(a, &b, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0) {
        if (PyErr_ExceptionMatches(PyExc_ValueError) || PyErr_ExceptionMatches(PyExc_BufferError) ||
            PyErr_ExceptionMatches(PyExc_TypeError))
            PyErr_Clear(); /* it is copied, or refused, in Python */
        return give_up(w);
    }
    int dtype = dtype_of(&b);
    if (dtype < 0 || (size_t)b.len > MOST_BYTES)
        give_up(w);
    else {
        size_t n = strlen(rm_dtypes[dtype].name);
        put_number(w, (uint8_t)(0xa0 | n), 0, 0);
        put(w, rm_dtypes[dtype].name, n);
        put_array_head(w, (uint64_t)b.ndim);
        for (int i = 0; i < b.ndim; i++)
            put_uint(w, (uint64_t)b.shape[i]);
        put_bin_head(w, (uint64_t)b.len);
        put(w, b.buf, (size_t)b.len);
    }
    PyBuffer_Release(&b);
    return !w->over;
}

/* Arrays of NumPy's by name. */
static bool put_tensors(struct writer *w, PyObject *tensors)
{
    put_array_head(w, (uint64_t)PyDict_Size(tensors));
    PyObject *name, *value;
    Py_ssize_t at = 0;
    while (!w->over && PyDict_Next(tensors, &at, &name, &value)) {
        if (Py_TYPE(value) != (PyTypeObject *)w->codec->array)
            return give_up(w);
        put_number(w, 0x94, 0, 0);
        Py_INCREF(value); /* getting its buffer is NumPy's Python in part */
        if (put_string(w, name))
            put_array(w, value);
        Py_DECREF(value);
    }
    return !w->over;
}

/* A map of at most one entry: more would have to be sorted. */
static bool put_headers(struct writer *w, PyObject *headers)
{
    PyObject *key, *value;
    Py_ssize_t at = 0;
    put_number(w, (uint8_t)(0x80 | PyDict_Size(headers)), 0, 0);
    if (PyDict_Next(headers, &at, &key, &value) && put_string(w, key))
        put_string(w, value);
    return !w->over;
}

/* Whether an object is a dict with at most so many entries. */
static bool is_dict(PyObject *op, Py_ssize_t most)
{
    return PyDict_CheckExact(op) && PyDict_Size(op) <= most;
}

static PyObject *finish(struct writer *w)
{
    PyObject *message = w->over ? NULL : PyBytes_FromStringAndSize((const char *)w->data, (Py_ssize_t)w->length);
    if (w->data != w->few)
        free(w->data);
    if (message == NULL && !PyErr_Occurred())
        Py_RETURN_NONE;
    return message;
}

static void start(struct writer *w, PyObject *codec)
{
    w->codec = (Codec *)codec;
    w->data = w->few;
    w->length = 0;
    w->capacity = sizeof w->few;
    w->over = false;
}


PyObject *rm_codec_request(PyObject *codec, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 10) {
        PyErr_SetString(PyExc_TypeError,
                        "request(id, pool, action, trace_id, context, timeout_us, credit, headers, body, tensors)");
        return NULL;
    }
    PyObject *headers = args[7], *body = args[8], *tensors = args[9];
    if (!is_dict(headers, 1) || !is_dict(tensors, PY_SSIZE_T_MAX) || !PyLong_CheckExact(args[0]) ||
        !PyLong_CheckExact(args[5]) || !PyLong_CheckExact(args[6]))
        Py_RETURN_NONE;
    if (body == Py_None && PyDict_Size(tensors) == 0)
        Py_RETURN_NONE; /* its defaults are left off */
    struct writer w;
    start(&w, codec);
    bool with_tensors = PyDict_Size(tensors) > 0;
    put_array_head(&w, with_tensors ? 11 : 10);
    put_uint(&w, RM_REQUEST);
    if (put_int(&w, args[0]) && put_string(&w, args[1]) && put_string(&w, args[2]) && put_string(&w, args[3]) &&
        put_bytes(&w, args[4]) && put_int(&w, args[5]) && put_int(&w, args[6]) && put_headers(&w, headers) &&
        put_body(&w, body) && with_tensors)
        put_tensors(&w, tensors);
    return finish(&w);
}

PyObject *rm_codec_reply(PyObject *codec, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 5) {
        PyErr_SetString(PyExc_TypeError, "reply(id, flags, headers, body, tensors)");
        return NULL;
    }
    PyObject *headers = args[2], *body = args[3], *tensors = args[4];
    if (!is_dict(headers, 1) || !is_dict(tensors, PY_SSIZE_T_MAX) || !PyLong_CheckExact(args[0]) ||
        !PyLong_CheckExact(args[1]))
        Py_RETURN_NONE;
    if (body == Py_None && PyDict_Size(tensors) == 0)
        Py_RETURN_NONE;
    struct writer w;
    start(&w, codec);
    bool with_tensors = PyDict_Size(tensors) > 0;
    put_array_head(&w, with_tensors ? 6 : 5);
    put_uint(&w, RM_REPLY);
    if (put_int(&w, args[0]) && put_int(&w, args[1]) && put_headers(&w, headers) &&
        put_body(&w, body) && with_tensors)
        put_tensors(&w, tensors);
    return finish(&w);
}

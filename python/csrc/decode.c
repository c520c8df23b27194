/* ringmaster._ring.Codec.decode: one pass that checks a message and makes its objects. */
#include "envelope.h"

#include <stdbool.h>
#include <string.h>

#include "scan.h"

#define MOST_DIMENSIONS 32

/* A message under way. What a function returns NULL for without an exception is left to Python. */
struct reader {
    Codec *codec;
    PyObject *data;      /* whose memory bytes is */
    const uint8_t *bytes;
    uint64_t length;
    uint64_t at;         /* behind the field that was read last */
    uint64_t left;       /* fields to come */
    struct rm_value v;   /* the head of that field */
    uint64_t start;      /* where it began */
    uint64_t inside;     /* where what follows its head begins */
};

/* Reads the next field, which is checked as a whole; nil if there is none. false: it is malformed. */
static bool next(struct reader *r)
{
    r->v = (struct rm_value){.type = RM_NIL};
    if (r->left == 0)
        return true;
    r->left--;
    r->start = r->at;
    uint64_t stop = r->at;
    if (rm_scan_value(r->bytes, r->length, &stop, 1) != NULL)
        return false;
    if (rm_scan_head(r->bytes, r->length, &r->at, &r->v) != NULL)
        return false;
    r->inside = r->at;
    r->at = stop;
    return true;
}

static PyObject *string_at(const struct reader *r, uint64_t at, uint64_t length)
{
    return PyUnicode_DecodeUTF8((const char *)r->bytes + at, (Py_ssize_t)length, "surrogateescape");
}

/* Reads the head of the value at *at inside a field. The field's scan has found it well-formed; should the bytes have
 * changed since, nothing worse comes of it than a wrong value. */
static bool inner(const struct reader *r, uint64_t *at, struct rm_value *v)
{
    return rm_scan_head(r->bytes, r->length, at, v) == NULL;
}

/* The value at *at inside a field, if it is a string. */
static PyObject *inner_string(const struct reader *r, uint64_t *at)
{
    struct rm_value v;
    if (!inner(r, at, &v) || v.type != RM_STR)
        return NULL;
    PyObject *s = string_at(r, *at, v.bytes);
    *at += v.bytes;
    return s;
}

static PyObject *read_string(struct reader *r)
{
    if (!next(r))
        return NULL;
    if (r->v.type == RM_NIL)
        return Py_NewRef(r->codec->empty);
    return r->v.type == RM_STR ? string_at(r, r->inside, r->v.bytes) : NULL;
}

static PyObject *read_bytes(struct reader *r)
{
    if (!next(r))
        return NULL;
    if (r->v.type == RM_NIL)
        return Py_NewRef(r->codec->nothing);
    if (r->v.type != RM_BIN)
        return NULL;
    return PyBytes_FromStringAndSize((const char *)r->bytes + r->inside, (Py_ssize_t)r->v.bytes);
}

static bool is_unsigned(const struct rm_value *v)
{
    return v->type == RM_UINT || (v->type == RM_INT && v->bits >> 63 == 0);
}

static bool read_number(struct reader *r, uint64_t *n)
{
    *n = 0;
    if (!next(r))
        return false;
    if (is_unsigned(&r->v))
        *n = r->v.bits;
    return r->v.type == RM_NIL || is_unsigned(&r->v);
}

/* A map from strings to strings. */
static PyObject *read_headers(struct reader *r)
{
    if (!next(r) || (r->v.type != RM_NIL && r->v.type != RM_MAP))
        return NULL;
    PyObject *map = PyDict_New();
    uint64_t at = r->inside;
    for (uint64_t i = 0; map != NULL && i < r->v.items; i += 2) {
        PyObject *key = inner_string(r, &at);
        PyObject *value = key != NULL ? inner_string(r, &at) : NULL;
        if (value == NULL || PyDict_SetItem(map, key, value) != 0)
            Py_CLEAR(map);
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    return map;
}

/* What _codec._body makes of a field. */
static PyObject *read_body(struct reader *r)
{
    if (!next(r))
        return NULL;
    switch (r->v.type) {
    case RM_NIL:
        return Py_NewRef(Py_None);
    case RM_BOOL:
        return PyBool_FromLong((long)r->v.bits);
    case RM_UINT:
        return PyLong_FromUnsignedLongLong(r->v.bits);
    case RM_STR:
        return string_at(r, r->inside, r->v.bytes);
    case RM_BIN:
        return PyBytes_FromStringAndSize((const char *)r->bytes + r->inside, (Py_ssize_t)r->v.bytes);
    case RM_INT:
        if (r->v.bits >> 63 == 0)
            return PyLong_FromUnsignedLongLong(r->v.bits);
        break;
    default:
        break;
    }
    PyObject *whole = PyMemoryView_FromObject(r->data);
    PyObject *part = whole != NULL ? PySequence_GetSlice(whole, (Py_ssize_t)r->start, (Py_ssize_t)r->at) : NULL;
    PyObject *body = part != NULL ? PyObject_CallFunctionObjArgs(r->codec->encoded, part, NULL) : NULL;
    Py_XDECREF(whole);
    Py_XDECREF(part);
    return body;
}

/* The index of a dtype's name in rm_dtypes, which is at bytes[*at]; -1. */
static int dtype_at(const struct reader *r, uint64_t *at)
{
    struct rm_value v;
    if (!inner(r, at, &v) || v.type != RM_STR)
        return -1;
    const char *name = (const char *)r->bytes + *at;
    *at += v.bytes;
    for (int i = 0; i < RM_DTYPES; i++)
        if (strlen(rm_dtypes[i].name) == v.bytes && memcmp(rm_dtypes[i].name, name, v.bytes) == 0)
            return i;
    return -1;
}

/* The shape at bytes[*at], whose lengths times size is *total. */
static PyObject *shape_at(const struct reader *r, uint64_t *at, uint64_t size, uint64_t *total)
{
    struct rm_value v;
    if (!inner(r, at, &v) || v.type != RM_ARRAY || v.items > MOST_DIMENSIONS)
        return NULL;
    PyObject *shape = PyTuple_New((Py_ssize_t)v.items);
    *total = size;
    for (uint64_t i = 0; shape != NULL && i < v.items; i++) {
        struct rm_value n;
        PyObject *length = NULL;
        if (inner(r, at, &n) && is_unsigned(&n) && !__builtin_mul_overflow(*total, n.bits, total))
            length = PyLong_FromUnsignedLongLong(n.bits);
        if (length == NULL || PyTuple_SetItem(shape, (Py_ssize_t)i, length) != 0)
            Py_CLEAR(shape);
    }
    return shape;
}

/* NumPy's array over length bytes of the message, at at. */
static PyObject *array_over(const struct reader *r, PyObject *shape, PyObject *kind, uint64_t at)
{
    PyObject *offset = PyLong_FromUnsignedLongLong(at);
    if (offset == NULL)
        return NULL;
    PyObject *a = PyObject_CallFunctionObjArgs(r->codec->array, shape, kind, r->data, offset, NULL);
    Py_DECREF(offset);
    if (a == NULL && (PyErr_ExceptionMatches(PyExc_ValueError) || PyErr_ExceptionMatches(PyExc_TypeError)))
        PyErr_Clear(); /* Python says what NumPy does not like */
    return a;
}

/* The tensor at bytes[*at], [name, dtype, shape, data], put into tensors. */
static bool tensor_at(const struct reader *r, uint64_t *at, PyObject *tensors)
{
    struct rm_value v;
    if (!inner(r, at, &v) || v.type != RM_ARRAY || v.items != 4)
        return false;
    PyObject *name = inner_string(r, at), *shape = NULL, *array = NULL;
    uint64_t total = 0;
    int dtype = name != NULL ? dtype_at(r, at) : -1;
    if (dtype >= 0)
        shape = shape_at(r, at, rm_dtypes[dtype].size, &total);
    if (shape != NULL && inner(r, at, &v)) {
        if (v.type == RM_BIN && v.bytes > 0 && v.bytes == total && PyDict_Contains(tensors, name) == 0)
            array = array_over(r, shape, r->codec->dtypes[dtype], *at);
        *at += v.bytes;
    }
    bool done = array != NULL && PyDict_SetItem(tensors, name, array) == 0;
    Py_XDECREF(name);
    Py_XDECREF(shape);
    Py_XDECREF(array);
    return done;
}

static PyObject *read_tensors(struct reader *r)
{
    if (!next(r) || (r->v.type != RM_NIL && r->v.type != RM_ARRAY))
        return NULL;
    PyObject *tensors = PyDict_New();
    uint64_t at = r->inside;
    for (uint64_t i = 0; tensors != NULL && i < r->v.items; i++)
        if (!tensor_at(r, &at, tensors))
            Py_CLEAR(tensors);
    return tensors;
}

/* Checks that a field is nil or an array without elements. */
static bool read_nothing(struct reader *r)
{
    return next(r) && (r->v.type == RM_NIL || (r->v.type == RM_ARRAY && r->v.items == 0));
}

/* Checks what is left of the message. */
static bool read_rest(struct reader *r)
{
    while (r->left > 0)
        if (!next(r))
            return false;
    return r->at == r->length;
}

/* Puts a new object, or NULL, into a tuple; false: it was NULL. */
static bool put(PyObject *fields, int i, PyObject *value)
{
    return value != NULL && PyTuple_SetItem(fields, i, value) == 0;
}

static PyObject *read_request(struct reader *r, uint64_t id)
{
    PyObject *f = PyTuple_New(12), *made = NULL;
    uint64_t n;
    if (f == NULL)
        return NULL;
    if (put(f, 0, PyLong_FromUnsignedLongLong(id)) && put(f, 1, read_string(r)) && put(f, 2, read_string(r)) &&
        put(f, 3, read_string(r)) && put(f, 4, read_bytes(r)) && read_number(r, &n) &&
        put(f, 5, PyLong_FromUnsignedLongLong(n)) && read_number(r, &n) &&
        put(f, 6, PyLong_FromUnsignedLongLong(n != 0 ? n : 1)) && put(f, 7, read_headers(r)) &&
        put(f, 8, read_body(r)) && put(f, 9, read_tensors(r)) && read_number(r, &n) &&
        put(f, 10, PyBool_FromLong((n & RM_HELD) != 0)) && read_nothing(r) && put(f, 11, PyDict_New()) && read_rest(r))
        made = PyObject_Call(r->codec->request, f, NULL);
    Py_DECREF(f);
    return made;
}

static PyObject *read_reply(struct reader *r, uint64_t id)
{
    PyObject *f = PyTuple_New(8), *made = NULL;
    uint64_t flags;
    if (f == NULL)
        return NULL;
    if (put(f, 0, PyLong_FromUnsignedLongLong(id)) && read_number(r, &flags) &&
        put(f, 1, PyBool_FromLong((flags & RM_END) != 0)) && put(f, 2, read_headers(r)) && put(f, 3, read_body(r)) &&
        put(f, 4, read_tensors(r)) && next(r) && r->v.type == RM_NIL && put(f, 5, Py_NewRef(Py_None)) &&
        put(f, 6, PyBool_FromLong((flags & RM_LEASED) != 0)) && put(f, 7, read_bytes(r)) && read_rest(r))
        made = PyObject_Call(r->codec->reply, f, NULL);
    Py_DECREF(f);
    return made;
}

/* Reads the message; NULL without an exception: Python is to do it. */
static PyObject *message(struct reader *r)
{
    struct rm_value v;
    if (rm_scan_head(r->bytes, r->length, &r->at, &v) != NULL || v.type != RM_ARRAY || v.items < 2)
        return NULL;
    r->left = v.items;
    if (!next(r) || r->v.type != RM_UINT)
        return NULL;
    uint64_t kind = r->v.bits;
    if (!next(r) || r->v.type != RM_UINT)
        return NULL;
    switch (kind) {
    case RM_REQUEST:
        return read_request(r, r->v.bits);
    case RM_REPLY:
        return read_reply(r, r->v.bits);
    default:
        return NULL;
    }
}

PyObject *rm_codec_decode(PyObject *op, PyObject *data)
{
    Py_buffer b;
    if (PyObject_GetBuffer(data, &b, PyBUF_SIMPLE) != 0)
        return NULL;
    struct reader r = {.codec = (Codec *)op, .data = data, .bytes = b.buf, .length = (uint64_t)b.len};
    PyObject *made = message(&r);
    PyBuffer_Release(&b);
    if (made == NULL && !PyErr_Occurred())
        Py_RETURN_NONE;
    return made;
}

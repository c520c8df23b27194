/* ringmaster._ring.split: a message's array, checked, and its elements as Python objects. */
#include "module.h"

#include "scan.h"

/* A slice object for what has to be decoded by somebody else. */
static PyObject *span(uint64_t start, uint64_t stop)
{
    PyObject *a = PyLong_FromUnsignedLongLong(start), *b = PyLong_FromUnsignedLongLong(stop);
    PyObject *result = a != NULL && b != NULL ? PySlice_New(a, b, NULL) : NULL;
    Py_XDECREF(a);
    Py_XDECREF(b);
    return result;
}

static PyObject *view_of(PyObject *data, uint64_t start, uint64_t length)
{
    PyObject *whole = PyMemoryView_FromObject(data);
    if (whole == NULL)
        return NULL;
    PyObject *part = PySequence_GetSlice(whole, (Py_ssize_t)start, (Py_ssize_t)(start + length));
    Py_DECREF(whole);
    return part;
}

/* The element at bytes[start], whose head v ends at bytes[at] and which itself ends at bytes[stop]. */
static PyObject *element(PyObject *data, const uint8_t *bytes, const struct rm_value *v, uint64_t start, uint64_t at,
                         uint64_t stop)
{
    switch (v->type) {
    case RM_NIL:
        Py_RETURN_NONE;
    case RM_BOOL:
        return PyBool_FromLong((long)v->bits);
    case RM_UINT:
        return PyLong_FromUnsignedLongLong(v->bits);
    case RM_INT: /* a sender may encode a small unsigned integer as a signed one */
        return v->bits >> 63 == 0 ? PyLong_FromUnsignedLongLong(v->bits) : span(start, stop);
    case RM_STR:
        return PyUnicode_DecodeUTF8((const char *)bytes + at, (Py_ssize_t)v->bytes, "surrogateescape");
    case RM_BIN:
        return view_of(data, at, v->bytes);
    default:
        return span(start, stop);
    }
}

/* Returns the tuple; NULL with *wrong, or with an exception. */
static PyObject *elements(PyObject *data, const uint8_t *bytes, uint64_t length, uint64_t most, const char **wrong)
{
    uint64_t at = 0;
    struct rm_value array;
    *wrong = rm_scan_head(bytes, length, &at, &array);
    if (*wrong == NULL && array.type != RM_ARRAY)
        *wrong = "it is not an array";
    if (*wrong != NULL)
        return NULL;
    PyObject *result = PyTuple_New((Py_ssize_t)(array.items < most ? array.items : most));
    if (result == NULL)
        return NULL;
    for (uint64_t i = 0; i < array.items; i++) {
        uint64_t start = at, stop = at;
        struct rm_value v;
        *wrong = rm_scan_value(bytes, length, &stop, 1);
        if (*wrong != NULL)
            goto failed;
        if (i < most) {
            rm_scan_head(bytes, length, &at, &v);
            PyObject *e = element(data, bytes, &v, start, at, stop);
            if (e == NULL)
                goto failed;
            PyTuple_SetItem(result, (Py_ssize_t)i, e);
        }
        at = stop;
    }
    if (at != length) {
        *wrong = "bytes follow the message";
        goto failed;
    }
    return result;
failed:
    Py_DECREF(result);
    return NULL;
}

PyObject *rm_split(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 2) {
        PyErr_SetString(PyExc_TypeError, "split(data, most=16)");
        return NULL;
    }
    Py_ssize_t most = nargs > 1 ? PyLong_AsSsize_t(args[1]) : 16;
    if (most < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "most is negative");
        return NULL;
    }
    Py_buffer b;
    if (PyObject_GetBuffer(args[0], &b, PyBUF_SIMPLE) != 0)
        return NULL;
    const char *wrong = NULL;
    PyObject *result = elements(args[0], b.buf, (uint64_t)b.len, (uint64_t)most, &wrong);
    PyBuffer_Release(&b);
    if (result == NULL && wrong != NULL)
        PyErr_SetString(PyExc_ValueError, wrong);
    return result;
}

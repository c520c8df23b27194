/* What the two halves of ringmaster._ring.Codec share: decode.c and encode.c. */
#ifndef RINGMASTER_ENVELOPE_H
#define RINGMASTER_ENVELOPE_H

#include "module.h"

#include <stdint.h>

enum { RM_REQUEST = 1, RM_REPLY = 2 };               /* kinds */
enum { RM_HELD = 1 };                                /* a request's flags */
enum { RM_END = 1, RM_LEASED = 2 };                  /* a reply's */

/* The element types that NumPy has by itself. */
#define RM_DTYPES 14

struct rm_dtype {
    const char *name;     /* the protocol's */
    uint64_t size;        /* bytes of an element */
    const char *formats;  /* PEP 3118's for it, in native order, separated by spaces */
};

extern const struct rm_dtype rm_dtypes[RM_DTYPES];

/* The Python objects that messages are made of; immutable. */
typedef struct {
    PyObject_HEAD
    PyObject *request, *reply;    /* classes of _codec */
    PyObject *encoded;            /* a value that is still encoded, with data */
    PyObject *pack;               /* encodes any value */
    PyObject *array;              /* numpy.ndarray */
    PyObject *dtypes[RM_DTYPES];  /* NumPy's, as rm_dtypes */
    PyObject *nothing;            /* b"" */
    PyObject *empty;              /* "" */
    PyObject *data;               /* "data" */
} Codec;

PyObject *rm_codec_decode(PyObject *codec, PyObject *data);
PyObject *rm_codec_request(PyObject *codec, PyObject *const *args, Py_ssize_t nargs);
PyObject *rm_codec_reply(PyObject *codec, PyObject *const *args, Py_ssize_t nargs);

#endif

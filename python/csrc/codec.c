/* ringmaster._ring.Codec: the requests and replies that are like most, between bytes and the objects of _codec.
 *
 *   decode.c   bytes ─▶ Request or Reply
 *   encode.c   what they are made of ─▶ bytes
 *
 * Each function returns None for what it does not do: unusual forms, and whatever is malformed. Then the same is done in
 * Python, by _codec.py, which alone says what is wrong. So what is here refuses nothing, and may only accept what is
 * accepted there, with the same result; tests hold the two together.
 */
#include "envelope.h"

#include <string.h>

const struct rm_dtype rm_dtypes[RM_DTYPES] = {
    {"uint8", 1, "B"},      {"float32", 4, "f"},    {"float64", 8, "d"},     {"int64", 8, "l q"},     {"int32", 4, "i"},
    {"float16", 2, "e"},    {"bool", 1, "?"},       {"int8", 1, "b"},        {"int16", 2, "h"},       {"uint16", 2, "H"},
    {"uint32", 4, "I"},     {"uint64", 8, "L Q"},   {"complex64", 8, "Zf"},  {"complex128", 16, "Zd"},
};

static int keep_dtypes(Codec *self, PyObject *dtypes)
{
    for (int i = 0; i < RM_DTYPES; i++) {
        PyObject *name = PyUnicode_FromString(rm_dtypes[i].name);
        PyObject *kind = name != NULL ? PyObject_GetItem(dtypes, name) : NULL;
        Py_XDECREF(name);
        if (kind == NULL)
            return -1;
        self->dtypes[i] = kind;
    }
    return 0;
}

static PyObject *Codec_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"request", "reply", "encoded", "pack", "array", "dtypes", NULL};
    PyObject *request, *reply, *encoded, *pack, *array, *dtypes;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOOO", names, &request, &reply, &encoded, &pack, &array, &dtypes))
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Codec *self = (Codec *)alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->request = Py_NewRef(request);
    self->reply = Py_NewRef(reply);
    self->encoded = Py_NewRef(encoded);
    self->pack = Py_NewRef(pack);
    self->array = Py_NewRef(array);
    self->nothing = PyBytes_FromStringAndSize(NULL, 0);
    self->empty = PyUnicode_FromStringAndSize(NULL, 0);
    self->data = PyUnicode_InternFromString("data");
    if (keep_dtypes(self, dtypes) != 0 || self->nothing == NULL || self->empty == NULL || self->data == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int Codec_traverse(PyObject *op, visitproc visit, void *arg)
{
    Codec *self = (Codec *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->request);
    Py_VISIT(self->reply);
    Py_VISIT(self->encoded);
    Py_VISIT(self->pack);
    Py_VISIT(self->array);
    for (int i = 0; i < RM_DTYPES; i++)
        Py_VISIT(self->dtypes[i]);
    return 0;
}

static int Codec_clear(PyObject *op)
{
    Codec *self = (Codec *)op;
    Py_CLEAR(self->request);
    Py_CLEAR(self->reply);
    Py_CLEAR(self->encoded);
    Py_CLEAR(self->pack);
    Py_CLEAR(self->array);
    for (int i = 0; i < RM_DTYPES; i++)
        Py_CLEAR(self->dtypes[i]);
    Py_CLEAR(self->nothing);
    Py_CLEAR(self->empty);
    Py_CLEAR(self->data);
    return 0;
}

static void Codec_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Codec_clear(op);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(op);
    Py_DECREF(type);
}

#define FAST(name) (PyCFunction)(void (*)(void))name, METH_FASTCALL

static PyMethodDef methods[] = {
    {"decode", rm_codec_decode, METH_O, "decode(data) -> a Request or Reply, or None: decode it in Python"},
    {"request", FAST(rm_codec_request),
     "request(id, pool, action, trace_id, context, timeout_us, credit, headers, body, tensors) -> bytes, or None: encode "
     "it in Python"},
    {"reply", FAST(rm_codec_reply), "reply(id, flags, headers, body, tensors) -> bytes, or None: encode it in Python"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Codec(request, reply, encoded, pack, array, dtypes): requests and replies that are like most"},
    {Py_tp_new, Codec_new},
    {Py_tp_dealloc, Codec_dealloc},
    {Py_tp_traverse, Codec_traverse},
    {Py_tp_clear, Codec_clear},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec rm_codec_spec = {
    .name = "ringmaster._ring.Codec",
    .basicsize = sizeof(Codec),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

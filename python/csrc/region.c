/* ringmaster._ring.Region and Block: memory that another process made, as buffers for NumPy.
 *
 *   array, array ─▶ Block ─▶ Region ─▶ mmap
 *
 * A buffer's user holds a reference to its exporter, and NumPy's views hold one to their array's. So a Block goes when the
 * last array in it does, a Region when its last Block or array does, and what is looked at is never unmapped.
 */
#define _GNU_SOURCE
#include "module.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

typedef struct {
    PyObject_HEAD
    uint8_t *memory; /* MAP_FAILED: none */
    uint64_t size;
    PyObject *done; /* called with address and size before the memory is unmapped; NULL: none */
    pid_t process;  /* that mapped it: done is for that one. A fork's child has a mapping of its own */
} Region;

typedef struct {
    PyObject_HEAD
    Region *region;
    uint64_t offset, length; /* inside the region */
    PyObject *done;          /* called when this is deallocated; NULL: none */
} Block;

static void free_object(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(op);
    Py_DECREF(type);
}

static PyObject *allocate(PyTypeObject *type)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    return alloc(type, 0);
}

/* Calls done, if there is one, from a dealloc: in the middle of anything, perhaps of an exception. */
static void call_done(PyObject *done, PyObject *args)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *result = done != NULL && args != NULL ? PyObject_CallObject(done, args) : NULL;
    if (result == NULL && PyErr_Occurred())
        PyErr_WriteUnraisable(done);
    Py_XDECREF(result);
    PyErr_Restore(type, value, traceback);
}

static bool is_none_or_callable(PyObject *done)
{
    if (done == Py_None || PyCallable_Check(done))
        return true;
    PyErr_SetString(PyExc_TypeError, "done must be callable or None");
    return false;
}

/* ---- Region ---- */

/* Says what is wrong with the file, or NULL. *wrong is not set for a system call's errno, which is. */
static bool check(int fd, uint64_t size, const char **wrong)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return false;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0)
        *wrong = "the region is not a memfd";
    else if ((seals & SEALS) != SEALS)
        *wrong = "the region is not sealed against shrinking, growing and other seals";
    else if (size == 0 || st.st_size < 0 || (uint64_t)st.st_size != size)
        *wrong = "the region's size is not what was announced";
    return *wrong == NULL;
}

static PyObject *Region_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fd", "size", "done", NULL};
    int fd;
    unsigned long long size;
    PyObject *done = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iK|O", names, &fd, &size, &done) || !is_none_or_callable(done))
        return NULL;
    struct rm_module *m = PyType_GetModuleState(type);
    const char *wrong = NULL;
    if (!check(fd, size, &wrong)) {
        if (wrong == NULL)
            return PyErr_SetFromErrno(PyExc_OSError);
        PyErr_SetString(m->protocol_error, wrong);
        return NULL;
    }
    Region *self = (Region *)allocate(type);
    if (self == NULL)
        return NULL;
    self->size = size;
    self->process = getpid();
    Py_BEGIN_ALLOW_THREADS /* a page takes a tenth of a microsecond */
    self->memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    Py_END_ALLOW_THREADS
    if (self->memory == MAP_FAILED) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    if (done != Py_None)
        self->done = Py_NewRef(done);
    return (PyObject *)self;
}

static void Region_dealloc(PyObject *op)
{
    Region *self = (Region *)op;
    if (self->memory != NULL && self->memory != MAP_FAILED) {
        if (self->done != NULL && self->process == getpid()) {
            PyObject *args = Py_BuildValue("(KK)", (unsigned long long)(uintptr_t)self->memory,
                                           (unsigned long long)self->size);
            call_done(self->done, args);
            Py_XDECREF(args);
        }
        munmap(self->memory, self->size);
    }
    Py_CLEAR(self->done);
    free_object(op);
}

static int Region_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    Region *self = (Region *)op;
    return PyBuffer_FillInfo(view, op, self->memory, (Py_ssize_t)self->size, 0, flags);
}

static PyObject *Region_get_address(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromVoidPtr(((Region *)op)->memory);
}

static PyObject *Region_get_size(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((Region *)op)->size);
}

/* ---- Block ---- */

static PyObject *Region_block(PyObject *op, PyObject *args)
{
    Region *region = (Region *)op;
    unsigned long long offset, length;
    PyObject *done = Py_None;
    if (!PyArg_ParseTuple(args, "KK|O", &offset, &length, &done) || !is_none_or_callable(done))
        return NULL;
    if (offset > region->size || length > region->size - offset)
        return PyErr_Format(PyExc_ValueError, "%llu bytes at %llu are not inside a region of %llu", length, offset,
                            (unsigned long long)region->size);
    struct rm_module *m = PyType_GetModuleState(Py_TYPE(op));
    Block *self = (Block *)allocate((PyTypeObject *)m->block_type);
    if (self == NULL)
        return NULL;
    self->region = (Region *)Py_NewRef(op);
    self->offset = offset;
    self->length = length;
    if (done != Py_None)
        self->done = Py_NewRef(done);
    return (PyObject *)self;
}

static void Block_dealloc(PyObject *op)
{
    Block *self = (Block *)op;
    if (self->done != NULL) {
        PyObject *none = PyTuple_New(0);
        call_done(self->done, none);
        Py_XDECREF(none);
    }
    Py_CLEAR(self->done);
    Py_CLEAR(self->region);
    free_object(op);
}

static int Block_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    Block *self = (Block *)op;
    return PyBuffer_FillInfo(view, op, self->region->memory + self->offset, (Py_ssize_t)self->length, 0, flags);
}

static PyMethodDef region_methods[] = {
    {"block", Region_block, METH_VARARGS,
     "block(offset, length, done=None) -> Block: length bytes of the region; done() when nobody has them any more"},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef region_getters[] = {
    {"address", Region_get_address, NULL, "where it is mapped", NULL},
    {"size", Region_get_size, NULL, "bytes", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot region_slots[] = {
    {Py_tp_doc, "Region(fd, size, done=None): a sealed memfd of size bytes, mapped; done(address, size) before it is unmapped"},
    {Py_tp_new, Region_new},
    {Py_tp_dealloc, Region_dealloc},
    {Py_tp_methods, region_methods},
    {Py_tp_getset, region_getters},
    {Py_bf_getbuffer, Region_getbuffer},
    {0, NULL},
};

PyType_Spec rm_region_spec = {
    .name = "ringmaster._ring.Region",
    .basicsize = sizeof(Region),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = region_slots,
};

static PyType_Slot block_slots[] = {
    {Py_tp_doc, "a part of a Region, whose block() makes it"},
    {Py_tp_dealloc, Block_dealloc},
    {Py_bf_getbuffer, Block_getbuffer},
    {0, NULL},
};

PyType_Spec rm_block_spec = {
    .name = "ringmaster._ring.Block",
    .basicsize = sizeof(Block),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = block_slots,
};

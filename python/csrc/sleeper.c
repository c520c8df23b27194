/* ringmaster._ring.Sleeper: where one thread sleeps until another one wakes it.
 *
 * What a lock of Python's lacks is the order: a thread that wakes another and then sleeps itself lets go of the GIL
 * first. Whoever is woken before needs the GIL while it is still held, sleeps once more for it, and has to be woken
 * once more.
 */
#define _GNU_SOURCE
#include "module.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

typedef struct {
    PyObject_HEAD
    _Atomic uint32_t woken; /* 1: the sleep is over, or the next one will not begin */
} Sleeper;

/* Wakes it. No GIL is needed, but somebody who keeps the object. */
static void wake(Sleeper *s)
{
    atomic_store(&s->woken, 1);
    syscall(SYS_futex, &s->woken, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Sleeps until it is woken, the deadline or a signal: 0, ETIMEDOUT or EINTR. */
static int sleep_until(Sleeper *s, int64_t deadline)
{
    while (atomic_exchange(&s->woken, 0) == 0) {
        struct timespec t, *timeout = NULL;
        if (deadline != RM_FOREVER) {
            int64_t left = deadline - rm_now();
            if (left <= 0)
                return ETIMEDOUT;
            t = (struct timespec){.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
            timeout = &t;
        }
        if (syscall(SYS_futex, &s->woken, FUTEX_WAIT_PRIVATE, 0, timeout, NULL, 0) != 0 && errno == EINTR)
            return EINTR;
    }
    return 0;
}

static PyObject *Sleeper_sleep(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    Sleeper *self = (Sleeper *)op, *other = NULL;
    int64_t deadline;
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "sleep(timeout, other)");
        return NULL;
    }
    if (!rm_deadline(args[0], &deadline))
        return NULL;
    if (args[1] != Py_None) {
        if (Py_TYPE(args[1]) != Py_TYPE(op)) {
            PyErr_SetString(PyExc_TypeError, "other must be a Sleeper or None");
            return NULL;
        }
        other = (Sleeper *)args[1];
    }
    for (;;) {
        int result;
        Py_BEGIN_ALLOW_THREADS
        if (other != NULL)
            wake(other);
        other = NULL;
        result = sleep_until(self, deadline);
        Py_END_ALLOW_THREADS
        if (result == EINTR && PyErr_CheckSignals() != 0)
            return NULL;
        if (result != EINTR)
            return PyBool_FromLong(result == 0);
    }
}

static PyObject *Sleeper_wake(PyObject *op, PyObject *Py_UNUSED(none))
{
    wake((Sleeper *)op);
    Py_RETURN_NONE;
}

static PyObject *Sleeper_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "", names))
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    return alloc(type, 0);
}

static void Sleeper_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(op);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"sleep", (PyCFunction)(void (*)(void))Sleeper_sleep, METH_FASTCALL,
     "sleep(timeout, other): wake the other Sleeper, if there is one, and sleep for timeout seconds (None: ever) -> True "
     "if woken, perhaps before"},
    {"wake", Sleeper_wake, METH_NOARGS, "wake(): end its sleep, or the next one"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Sleeper(): where one thread sleeps until another one wakes it"},
    {Py_tp_new, Sleeper_new},
    {Py_tp_dealloc, Sleeper_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec rm_sleeper_spec = {
    .name = "ringmaster._ring.Sleeper",
    .basicsize = sizeof(Sleeper),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

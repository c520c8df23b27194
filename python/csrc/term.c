/* ringmaster._ring.tell_on_term and tell_where: what SIGTERM does first.
 *
 *   SIGTERM ─▶ on_term ─ if there is something to tell ─▶ tell (faulthandler's: where each thread is)
 *                      └─▶ go_on (Python's)
 *
 * A worker has something to tell while it has a request. Installing and removing faulthandler's handler for each would
 * be two system calls for a request; here it is a word in memory.
 */
#define _GNU_SOURCE
#include "module.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>

static struct {
    _Atomic bool yes;
    int as;              /* the signal that tell was made for */
    void (*tell)(int);
    void (*go_on)(int);
} term;

static void on_term(int number)
{
    int e = errno;
    if (atomic_load_explicit(&term.yes, memory_order_relaxed))
        term.tell(term.as);
    term.go_on(number);
    errno = e;
}

/* Looks what a signal does; false with an exception if that is nothing that can be called. */
static bool handler_of(int number, struct sigaction *a)
{
    if (sigaction(number, NULL, a) != 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return false;
    }
    if ((a->sa_flags & SA_SIGINFO) != 0 || a->sa_handler == SIG_DFL || a->sa_handler == SIG_IGN ||
        a->sa_handler == on_term) {
        PyErr_Format(PyExc_RuntimeError, "signal %d has no handler that can be called", number);
        return false;
    }
    return true;
}

/* Has install make the handler, of a signal that nobody uses, so that there is no moment at which SIGTERM is lost. */
static bool handler_made_by(PyObject *install, struct sigaction *made)
{
    term.as = SIGRTMAX;
    struct sigaction before;
    if (sigaction(term.as, NULL, &before) != 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return false;
    }
    PyObject *number = PyLong_FromLong(term.as);
    PyObject *result = number != NULL ? PyObject_CallFunctionObjArgs(install, number, NULL) : NULL;
    Py_XDECREF(number);
    Py_XDECREF(result);
    bool done = result != NULL && handler_of(term.as, made);
    sigaction(term.as, &before, NULL);
    return done;
}

PyObject *rm_tell_on_term(PyObject *Py_UNUSED(module), PyObject *install)
{
    struct sigaction go_on, tell;
    if (!handler_of(SIGTERM, &go_on) || !handler_made_by(install, &tell))
        return NULL;
    term.go_on = go_on.sa_handler;
    term.tell = tell.sa_handler;
    /* As Python's own, it interrupts system calls: whoever waits is to come back and look. faulthandler's stack, if it
     * has one, is there when the thread's has overflowed. */
    struct sigaction both = {.sa_handler = on_term, .sa_flags = tell.sa_flags & SA_ONSTACK};
    if (sigaction(SIGTERM, &both, NULL) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

PyObject *rm_tell_where(PyObject *Py_UNUSED(module), PyObject *yes)
{
    atomic_store_explicit(&term.yes, yes == Py_True, memory_order_relaxed);
    Py_RETURN_NONE;
}

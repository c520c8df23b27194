/* ringmaster._ring.Segment: ring.h for Python.
 *
 * Invariants: shared memory is touched only between enter and leave, and unmapped only when nobody is there (uses,
 * guarded by the GIL); never after a fork, whose child has no such mapping. in_lock guards s.in and incoming,
 * out_lock guards s.out; neither is awaited while the GIL is held.
 */
#define _GNU_SOURCE
#include "module.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "ring.h"

#define FEW_PARTS 16 /* buffers of a message for which no memory is allocated */

/* The message being received, a bytearray. */
struct incoming {
    struct rm_buffer base;
    PyObject *bytes;
};

typedef struct {
    PyObject_HEAD
    struct rm_segment s;
    pthread_mutex_t in_lock, out_lock;
    struct incoming incoming;
    enum rm_role role;
    unsigned generation; /* of processes; see forks */
    Py_ssize_t uses;
    bool closing;
} Segment;

/* Counts the forks between the process that loaded this module and this one. */
static _Atomic unsigned forks;

static void forked(void)
{
    atomic_fetch_add(&forks, 1);
}

static void register_fork(void)
{
    pthread_atfork(NULL, NULL, forked);
}

static struct rm_module *module_of(Segment *self)
{
    return PyType_GetModuleState(Py_TYPE((PyObject *)self));
}

static bool enter(Segment *self)
{
    if (self->generation != atomic_load_explicit(&forks, memory_order_relaxed)) {
        PyErr_SetString(PyExc_RuntimeError, "this segment belongs to the process that forked this one");
        return false;
    }
    if (self->closing) {
        PyErr_SetString(module_of(self)->closed, "the segment is closed");
        return false;
    }
    self->uses++;
    return true;
}

static void leave(Segment *self)
{
    if (--self->uses == 0 && self->closing)
        rm_segment_unmap(&self->s);
}

/* Waits without the GIL: the holder may need it to go on. */
static void lock(pthread_mutex_t *m)
{
    if (pthread_mutex_trylock(m) == 0)
        return;
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(m);
    Py_END_ALLOW_THREADS
}

/* ---- what the ring asks of Python ---- */

struct host {
    struct rm_host base;
    Segment *self;
    PyThreadState *state;
};

static void block(struct rm_host *h)
{
    ((struct host *)h)->state = PyEval_SaveThread();
}

static void unblock(struct rm_host *h)
{
    PyEval_RestoreThread(((struct host *)h)->state);
}

static bool interrupted(struct rm_host *h)
{
    Segment *self = ((struct host *)h)->self;
    if (self->role == RM_WORKER)
        rm_worker_beat(&self->s);
    unblock(h);
    int raised = PyErr_CheckSignals();
    block(h);
    return raised != 0;
}

static struct host new_host(Segment *self)
{
    return (struct host){.base = {.block = block, .unblock = unblock, .interrupted = interrupted}, .self = self};
}

static bool grow(struct rm_buffer *b, uint64_t capacity)
{
    struct incoming *in = (struct incoming *)b;
    if (in->bytes == NULL)
        in->bytes = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)capacity);
    else if (PyByteArray_Resize(in->bytes, (Py_ssize_t)capacity) != 0)
        return false;
    if (in->bytes == NULL)
        return false;
    b->data = (uint8_t *)PyByteArray_AsString(in->bytes);
    b->capacity = capacity;
    return true;
}

/* The exception for a result that is not RM_OK. */
static PyObject *fail(Segment *self, enum rm_result result, const struct rm_ring *r)
{
    struct rm_module *m = module_of(self);
    switch (result) {
    case RM_PROTOCOL:
        return PyErr_Format(m->protocol_error, "%s: %s", r->name, r->why);
    case RM_CLOSED:
        PyErr_SetString(m->closed, "the segment is shut down");
        return NULL;
    case RM_NO_MEMORY:
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    default: /* RM_INTERRUPTED: a signal handler raised */
        return NULL;
    }
}

/* ---- receive ---- */

static PyObject *take(struct incoming *in)
{
    PyObject *message = in->bytes;
    int err = in->base.capacity == in->base.length ? 0 : PyByteArray_Resize(message, (Py_ssize_t)in->base.length);
    in->bytes = NULL;
    in->base = (struct rm_buffer){.grow = grow};
    if (err != 0)
        Py_CLEAR(message);
    return message;
}

typedef enum rm_result receive_fn(struct rm_segment *, struct rm_host *, int64_t deadline, struct rm_buffer *);

/* Returns the next message, None for none by the deadline or for a nudge, or NULL. in_lock is held. */
static PyObject *receive_one(Segment *self, receive_fn *how, int64_t deadline, bool sleepy)
{
    struct host h = new_host(self);
    h.base.sleepy = sleepy;
    enum rm_result result = how(&self->s, &h.base, deadline, &self->incoming.base);
    if (result == RM_OK)
        return take(&self->incoming);
    if (result == RM_TIMEOUT || result == RM_NUDGED)
        return Py_NewRef(Py_None);
    return fail(self, result, &self->s.in);
}

/* Takes in_lock; false if another thread has it and the deadline is not to wait. */
static bool lock_in(Segment *self, int64_t deadline)
{
    if (deadline <= 0)
        return pthread_mutex_trylock(&self->in_lock) == 0;
    lock(&self->in_lock);
    return true;
}

static PyObject *receive(Segment *self, receive_fn *how, int64_t deadline)
{
    if (!enter(self))
        return NULL;
    PyObject *message = NULL;
    if (!lock_in(self, deadline))
        message = Py_NewRef(Py_None);
    else {
        message = receive_one(self, how, deadline, false);
        pthread_mutex_unlock(&self->in_lock);
    }
    leave(self);
    return message;
}

/* Returns a list of the next messages: waits for the first, and takes those that are there already. What goes wrong
 * after the first is told by the next call. */
static PyObject *receive_many(Segment *self, int64_t deadline, Py_ssize_t most, bool sleepy)
{
    PyObject *list = PyList_New(0);
    for (Py_ssize_t i = 0; list != NULL && i < most; i++) {
        PyObject *message = receive_one(self, rm_receive, i == 0 ? deadline : 0, sleepy);
        if (message == Py_None || (message == NULL && i > 0)) {
            Py_XDECREF(message);
            PyErr_Clear();
            break;
        }
        if (message == NULL || PyList_Append(list, message) != 0)
            Py_CLEAR(list);
        Py_XDECREF(message);
    }
    return list;
}

bool rm_deadline(PyObject *timeout, int64_t *deadline)
{
    *deadline = RM_FOREVER;
    if (timeout == Py_None)
        return true;
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred())
        return false;
    if (seconds <= 0)
        *deadline = 0;
    else if (seconds < 1e9)
        *deadline = rm_now() + (int64_t)(seconds * 1e9);
    return true;
}

static PyObject *Segment_recv(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs > 1) {
        PyErr_SetString(PyExc_TypeError, "recv(timeout=None)");
        return NULL;
    }
    int64_t deadline;
    if (!rm_deadline(nargs == 1 ? args[0] : Py_None, &deadline))
        return NULL;
    return receive((Segment *)self, rm_receive, deadline);
}

static PyObject *Segment_peek(PyObject *self, PyObject *timeout)
{
    int64_t deadline;
    if (!rm_deadline(timeout, &deadline))
        return NULL;
    return receive((Segment *)self, rm_peek, deadline);
}

static PyObject *Segment_settle(PyObject *op, PyObject *position)
{
    Segment *self = (Segment *)op;
    bool all = position == Py_None;
    unsigned long long to = all ? 0 : PyLong_AsUnsignedLongLong(position);
    if (PyErr_Occurred() || !enter(self))
        return NULL;
    lock(&self->in_lock);
    rm_settle(&self->s, all ? self->s.in.own : to);
    pthread_mutex_unlock(&self->in_lock);
    leave(self);
    Py_RETURN_NONE;
}

static PyObject *Segment_recv_many(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    Segment *self = (Segment *)op;
    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "recv_many(timeout, most, sleepy)");
        return NULL;
    }
    int64_t deadline;
    Py_ssize_t most = PyLong_AsSsize_t(args[1]);
    if (PyErr_Occurred() || !rm_deadline(args[0], &deadline) || !enter(self))
        return NULL;
    PyObject *list = NULL;
    if (!lock_in(self, deadline))
        list = PyList_New(0);
    else {
        list = receive_many(self, deadline, most, args[2] == Py_True);
        pthread_mutex_unlock(&self->in_lock);
    }
    leave(self);
    return list;
}

static PyObject *Segment_try_recv(PyObject *self, PyObject *Py_UNUSED(none))
{
    return receive((Segment *)self, rm_receive, 0);
}

/* ---- send ---- */

/* A deadline that means: only if there is space for all of it now. */
#define ALL_NOW INT64_C(-1)

/* Sends what the Py_buffers show; True, False at the deadline, or an exception. */
static PyObject *send_parts(Segment *self, const struct iovec *parts, int count, int64_t deadline)
{
    unsigned long long length = 0, most = self->s.out.max_message;
    for (int i = 0; i < count; i++)
        length += parts[i].iov_len;
    if (length < 1 || length > most)
        return PyErr_Format(PyExc_ValueError, "a message of %llu bytes; it must have 1 to %llu", length, most);
    if (deadline > 0)
        lock(&self->out_lock);
    else if (pthread_mutex_trylock(&self->out_lock) != 0)
        Py_RETURN_FALSE;
    if (deadline == ALL_NOW && self->s.out.why == NULL && !atomic_load(&self->s.out.closed) &&
        !rm_fits(&self->s, length)) {
        pthread_mutex_unlock(&self->out_lock);
        Py_RETURN_FALSE;
    }
    struct host h = new_host(self);
    enum rm_result result = rm_send(&self->s, &h.base, deadline, parts, count);
    PyObject *done = NULL;
    if (result == RM_OK)
        done = Py_NewRef(Py_True);
    else if (result == RM_TIMEOUT)
        done = Py_NewRef(Py_False);
    else
        fail(self, result, &self->s.out);
    pthread_mutex_unlock(&self->out_lock);
    return done;
}

static PyObject *send_buffers(Segment *self, PyObject *const *args, Py_ssize_t nargs, int64_t deadline)
{
    Py_buffer few[FEW_PARTS], *buffers = few;
    struct iovec few_parts[FEW_PARTS], *parts = few_parts;
    PyObject *done = NULL;
    Py_ssize_t held = 0;
    if (!enter(self))
        return NULL;
    if (nargs > FEW_PARTS) {
        buffers = malloc((size_t)nargs * sizeof *buffers);
        parts = malloc((size_t)nargs * sizeof *parts);
        if (buffers == NULL || parts == NULL) {
            PyErr_NoMemory();
            goto out;
        }
    }
    for (; held < nargs; held++) {
        if (PyObject_GetBuffer(args[held], &buffers[held], PyBUF_SIMPLE) != 0)
            goto out;
        parts[held] = (struct iovec){.iov_base = buffers[held].buf, .iov_len = (size_t)buffers[held].len};
    }
    done = send_parts(self, parts, (int)nargs, deadline);
out:
    while (held > 0)
        PyBuffer_Release(&buffers[--held]);
    if (buffers != few)
        free(buffers);
    if (parts != few_parts)
        free(parts);
    leave(self);
    return done;
}

static PyObject *Segment_send(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *done = send_buffers((Segment *)self, args, nargs, RM_FOREVER);
    if (done == NULL)
        return NULL;
    Py_DECREF(done);
    Py_RETURN_NONE;
}

static PyObject *Segment_try_send(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return send_buffers((Segment *)self, args, nargs, 0);
}

static PyObject *Segment_send_now(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return send_buffers((Segment *)self, args, nargs, ALL_NOW);
}

static PyObject *Segment_send_within(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t deadline;
    if (nargs < 1) {
        PyErr_SetString(PyExc_TypeError, "send_within(timeout, *buffers)");
        return NULL;
    }
    if (!rm_deadline(args[0], &deadline))
        return NULL;
    return send_buffers((Segment *)self, args + 1, nargs - 1, deadline);
}

/* ---- the rest ---- */

struct rm_segment *rm_segment_keep(PyObject *module, PyObject *op)
{
    struct rm_module *m = PyModule_GetState(module);
    if (Py_TYPE(op) != (PyTypeObject *)m->segment_type) {
        PyErr_SetString(PyExc_TypeError, "the segment must be a Segment");
        return NULL;
    }
    Segment *self = (Segment *)op;
    if (!enter(self)) /* without leave: close never unmaps it */
        return NULL;
    Py_INCREF(op);
    return &self->s;
}

static PyObject *Segment_set_status(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    Segment *self = (Segment *)op;
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "set_status(state, request)");
        return NULL;
    }
    long state = PyLong_AsLong(args[0]);
    unsigned long long request = PyLong_AsUnsignedLongLong(args[1]);
    if (PyErr_Occurred() || !enter(self))
        return NULL;
    rm_worker_status(&self->s, (enum rm_worker_state)state, request);
    leave(self);
    Py_RETURN_NONE;
}

static PyObject *Segment_hear(PyObject *op, PyObject *Py_UNUSED(none))
{
    Segment *self = (Segment *)op;
    if (!enter(self))
        return NULL;
    lock(&self->in_lock);
    bool there = rm_segment_hear(&self->s);
    pthread_mutex_unlock(&self->in_lock);
    leave(self);
    return PyBool_FromLong(there);
}

static PyObject *Segment_file(PyObject *op, PyObject *Py_UNUSED(none))
{
    Segment *self = (Segment *)op;
    if (!enter(self))
        return NULL;
    lock(&self->in_lock);
    int file = rm_segment_file(&self->s);
    pthread_mutex_unlock(&self->in_lock);
    leave(self);
    if (file < 0)
        Py_RETURN_NONE;
    return PyLong_FromLong(file);
}

static PyObject *Segment_arm(PyObject *op, PyObject *Py_UNUSED(none))
{
    Segment *self = (Segment *)op;
    if (!enter(self))
        return NULL;
    lock(&self->in_lock);
    bool more = rm_segment_arm(&self->s);
    pthread_mutex_unlock(&self->in_lock);
    leave(self);
    return PyBool_FromLong(more);
}

static PyObject *Segment_nudge(PyObject *op, PyObject *Py_UNUSED(none))
{
    Segment *self = (Segment *)op;
    if (!enter(self))
        return NULL;
    rm_segment_nudge(&self->s);
    leave(self);
    Py_RETURN_NONE;
}

static PyObject *Segment_shutdown(PyObject *op, PyObject *Py_UNUSED(none))
{
    Segment *self = (Segment *)op;
    if (!enter(self))
        return NULL;
    rm_segment_shutdown(&self->s);
    leave(self);
    Py_RETURN_NONE;
}

static PyObject *Segment_close(PyObject *op, PyObject *Py_UNUSED(none))
{
    Segment *self = (Segment *)op;
    if (self->closing)
        Py_RETURN_NONE;
    if (!enter(self))
        return NULL;
    rm_segment_shutdown(&self->s);
    self->closing = true;
    leave(self);
    Py_RETURN_NONE;
}

static PyObject *Segment_create(PyObject *Py_UNUSED(type), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"s2w", "w2s", "incarnation", "max_frame", NULL};
    unsigned long long s2w = 1 << 20, w2s = 1 << 20, incarnation = 1, max_frame = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|KKKK", names, &s2w, &w2s, &incarnation, &max_frame))
        return NULL;
    int fd = rm_segment_create(s2w, w2s, max_frame, incarnation);
    if (fd < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromLong(fd);
}

static PyObject *position(Segment *self, const uint64_t *of)
{
    lock(&self->in_lock);
    uint64_t there = *of;
    pthread_mutex_unlock(&self->in_lock);
    return PyLong_FromUnsignedLongLong(there);
}

static PyObject *Segment_get_received(PyObject *self, void *Py_UNUSED(closure))
{
    return position((Segment *)self, &((Segment *)self)->s.in.own);
}

static PyObject *Segment_get_read(PyObject *self, void *Py_UNUSED(closure))
{
    return position((Segment *)self, &((Segment *)self)->s.in.shown);
}

static PyObject *Segment_get_incarnation(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((Segment *)self)->s.incarnation);
}

static PyObject *Segment_get_max_frame(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((Segment *)self)->s.max_frame);
}

static PyObject *Segment_get_max_message(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((Segment *)self)->s.out.max_message);
}

static PyObject *Segment_get_has_eventfd(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((Segment *)self)->s.out.eventfd >= 0);
}

static PyObject *Segment_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fd", "role", "max_message", "bell", "eventfd", NULL};
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int fd, bell = -1, eventfd = -1;
    const char *role = "worker";
    unsigned long long max_message = 64 << 20;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i|sKii", names, &fd, &role, &max_message, &bell, &eventfd))
        return NULL;
    bool worker = strcmp(role, "worker") == 0;
    if (!worker && strcmp(role, "supervisor") != 0)
        return PyErr_Format(PyExc_ValueError, "role is '%s'; it must be 'worker' or 'supervisor'", role);
    if (!worker && bell >= 0)
        return PyErr_Format(PyExc_ValueError, "bell is %d; only a worker's side, which a client has, may have one", bell);
    if (!worker && eventfd >= 0)
        return PyErr_Format(PyExc_ValueError, "eventfd is %d; only a worker's side may have one", eventfd);
    struct rm_module *m = PyType_GetModuleState(type);
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Segment *self = (Segment *)alloc(type, 0);
    if (self == NULL)
        return NULL;
    pthread_once(&once, register_fork);
    pthread_mutex_init(&self->in_lock, NULL);
    pthread_mutex_init(&self->out_lock, NULL);
    self->role = worker ? RM_WORKER : RM_SUPERVISOR;
    self->generation = atomic_load(&forks);
    self->incoming.base.grow = grow;
    enum rm_result result = rm_segment_open(&self->s, fd, self->role, max_message, bell < 0 ? -1 : bell, eventfd < 0 ? -1 : eventfd);
    if (result == RM_OK)
        return (PyObject *)self;
    if (result == RM_SYSTEM)
        PyErr_SetFromErrno(PyExc_OSError);
    else
        PyErr_SetString(m->protocol_error, self->s.why);
    Py_DECREF(self);
    return NULL;
}

static void Segment_dealloc(PyObject *op)
{
    Segment *self = (Segment *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->generation == atomic_load(&forks))
        rm_segment_unmap(&self->s);
    else if (self->s.shared != NULL && self->s.out.eventfd >= 0)
        close(self->s.out.eventfd); /* this process's descriptor; the memory is not here */
    Py_CLEAR(self->incoming.bytes);
    pthread_mutex_destroy(&self->in_lock);
    pthread_mutex_destroy(&self->out_lock);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(op);
    Py_DECREF(type);
}

#define FAST(name) (PyCFunction)(void (*)(void))name, METH_FASTCALL
#define KEYWORDS(name) (PyCFunction)(void (*)(void))name, METH_VARARGS | METH_KEYWORDS

static PyMethodDef methods[] = {
    {"create", KEYWORDS(Segment_create) | METH_STATIC,
     "create(s2w=1 MiB, w2s=1 MiB, incarnation=1, max_frame=0) -> descriptor of a new sealed segment"},
    {"recv", FAST(Segment_recv),
     "recv(timeout=None) -> the next message as a bytearray of its own, or None after timeout seconds or a nudge"},
    {"try_recv", Segment_try_recv, METH_NOARGS, "try_recv() -> the next message, or None if none is there"},
    {"recv_many", FAST(Segment_recv_many),
     "recv_many(timeout, most, sleepy) -> list of the next messages: recv, and try_recv for those that are there already"},
    {"peek", Segment_peek, METH_O,
     "peek(timeout) -> as recv, but to the peer the message remains unread until settle or the next recv"},
    {"settle", Segment_settle, METH_O, "settle(position): what was received up to there has been read; None: all of it"},
    {"send", FAST(Segment_send), "send(*buffers): their concatenation as one message; waits for space"},
    {"try_send", FAST(Segment_try_send), "try_send(*buffers) -> False if there is no space for it to begin"},
    {"send_within", FAST(Segment_send_within),
     "send_within(timeout, *buffers) -> False if there is no space for it to begin within timeout seconds (None: ever)"},
    {"send_now", FAST(Segment_send_now), "send_now(*buffers) -> False if there is no space for all of it now"},
    {"hear", Segment_hear, METH_NOARGS, "hear(): take what was rung off the bell -> False if the peer is gone"},
    {"file", Segment_file, METH_NOARGS, "file() -> the next descriptor that came with the bell, the caller's to close, or None"},
    {"arm", Segment_arm, METH_NOARGS, "arm(): have the bell rung for the next message -> True if try_recv has one now"},
    {"set_status", FAST(Segment_set_status), "set_status(state, request): the worker's advisory words"},
    {"nudge", Segment_nudge, METH_NOARGS, "nudge(): one recv, waiting now or next, returns None"},
    {"shutdown", Segment_shutdown, METH_NOARGS, "shutdown(): every recv and send, now and later, raises Closed"},
    {"close", Segment_close, METH_NOARGS, "close(): shutdown, and unmap as soon as nobody is inside"},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getters[] = {
    {"received", Segment_get_received, NULL, "the position up to which messages have been received", NULL},
    {"read", Segment_get_read, NULL, "the position up to which, to the peer, they have been read", NULL},
    {"incarnation", Segment_get_incarnation, NULL, "the supervisor's number for this segment", NULL},
    {"max_frame", Segment_get_max_frame, NULL, "bytes", NULL},
    {"max_message", Segment_get_max_message, NULL, "bytes", NULL},
    {"has_eventfd", Segment_get_has_eventfd, NULL, "whether the supervisor is woken by an eventfd", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Segment(fd, role='worker', max_message=64 MiB): one process's side of a pair of rings"},
    {Py_tp_new, Segment_new},
    {Py_tp_dealloc, Segment_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {0, NULL},
};

PyType_Spec rm_segment_spec = {
    .name = "ringmaster._ring.Segment",
    .basicsize = sizeof(Segment),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

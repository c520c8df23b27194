/* The module ringmaster._ring: what of the SDK has to be C, namely atomics, futexes, waiting without the GIL, descriptors
 * that come with a byte, one scan of a peer's bytes, memory that is unmapped when nobody looks at it any more, and a
 * signal's handler; and what is C because every request goes through it. */
#include "module.h"

static PyObject *new_exception(PyObject *module, const char *name, const char *attribute, const char *doc)
{
    PyObject *e = PyErr_NewExceptionWithDoc(name, doc, NULL, NULL);
    if (e != NULL && PyModule_AddObjectRef(module, attribute, e) != 0)
        Py_CLEAR(e);
    return e;
}

static PyObject *new_type(PyObject *module, PyType_Spec *spec, const char *attribute)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type != NULL && PyModule_AddObjectRef(module, attribute, type) != 0)
        Py_CLEAR(type);
    return type;
}

static int module_exec(PyObject *module)
{
    struct rm_module *m = PyModule_GetState(module);
    m->protocol_error = new_exception(module, "ringmaster._ring.ProtocolError", "ProtocolError",
                                      "The peer broke the protocol; the segment is of no more use.");
    m->closed = new_exception(module, "ringmaster._ring.Closed", "Closed",
                              "The segment was shut down or closed in this process.");
    m->segment_type = new_type(module, &rm_segment_spec, "Segment");
    m->block_type = new_type(module, &rm_block_spec, "Block");
    PyObject *region_type = new_type(module, &rm_region_spec, "Region");
    PyObject *codec_type = new_type(module, &rm_codec_spec, "Codec");
    PyObject *sleeper_type = new_type(module, &rm_sleeper_spec, "Sleeper");
    int err = m->protocol_error == NULL || m->closed == NULL || m->segment_type == NULL || m->block_type == NULL ||
              region_type == NULL || codec_type == NULL || sleeper_type == NULL;
    Py_XDECREF(region_type);
    Py_XDECREF(codec_type);
    Py_XDECREF(sleeper_type);
    return err ? -1 : 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct rm_module *m = PyModule_GetState(module);
    Py_VISIT(m->protocol_error);
    Py_VISIT(m->closed);
    Py_VISIT(m->segment_type);
    Py_VISIT(m->block_type);
    return 0;
}

static int module_clear(PyObject *module)
{
    struct rm_module *m = PyModule_GetState(module);
    Py_CLEAR(m->protocol_error);
    Py_CLEAR(m->closed);
    Py_CLEAR(m->segment_type);
    Py_CLEAR(m->block_type);
    return 0;
}

static PyMethodDef functions[] = {
    {"split", (PyCFunction)(void (*)(void))rm_split, METH_FASTCALL,
     "split(data, most=16) -> tuple of the first elements of the MessagePack array that data is\n\n"
     "All of data is checked (ValueError). nil, booleans, unsigned integers and strings come decoded, binaries as\n"
     "views of data, anything else as the slice of data where it lies."},
    {"watch_lifeline", (PyCFunction)(void (*)(void))rm_watch_lifeline, METH_FASTCALL,
     "watch_lifeline(fd, segment): from now on end of file on this socket ends the process at once, with status 1, and\n"
     "packets are kept for lifeline_packets and nudge the segment. Once in a process."},
    {"lifeline_pending", rm_lifeline_pending, METH_NOARGS, "lifeline_pending() -> whether packets have been kept"},
    {"lifeline_packets", rm_lifeline_packets, METH_NOARGS,
     "lifeline_packets() -> list of (bytes, descriptor or None), in order: what has come by now; descriptors are the caller's"},
    {"tell_on_term", rm_tell_on_term, METH_O,
     "tell_on_term(install): from now on SIGTERM first calls the handler that install(number) installs for a signal of that "
     "number, if tell_where says so, and then the one there is now"},
    {"tell_where", rm_tell_where, METH_O, "tell_where(yes): whether SIGTERM calls it"},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "ringmaster._ring",
    .m_doc = "Messages through shared memory: docs/protocol.md, sections 2 to 5.",
    .m_size = sizeof(struct rm_module),
    .m_methods = functions,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC PyInit__ring(void)
{
    return PyModuleDef_Init(&definition);
}

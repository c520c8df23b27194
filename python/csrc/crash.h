/* The numbered steps of docs/protocol.md, section 10, at which crash tests kill a process.
 *
 * Compiled in only with -DRINGMASTER_CRASHPOINTS. Then RINGMASTER_CRASH_AT=S3:5 kills this process (SIGKILL) when it
 * passes step S3 for the fifth time, and S3:5:w2s counts the passes on that ring alone.
 */
#ifndef RINGMASTER_CRASH_H
#define RINGMASTER_CRASH_H

#ifndef RINGMASTER_CRASHPOINTS

#define RM_STEP(ring, step) ((void)0)

#else

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline void rm_crash_step(const char *ring, const char *step)
{
    static _Atomic long passes;
    const char *at = getenv("RINGMASTER_CRASH_AT");
    if (at == NULL || strncmp(at, step, 2) != 0 || at[2] != ':')
        return;
    char *rest;
    long nth = strtol(at + 3, &rest, 10);
    if (*rest == ':' && strcmp(rest + 1, ring) != 0)
        return;
    if (atomic_fetch_add(&passes, 1) + 1 == nth)
        kill(getpid(), SIGKILL);
}

#define RM_STEP(ring, step) rm_crash_step((ring)->name, #step)

#endif
#endif

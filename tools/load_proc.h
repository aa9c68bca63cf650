/* load_proc.h - what a running process has used: CPU time and memory.
 *
 * Reads /proc; all threads, not its children.  For the measuring programs in
 * tools/. */
#ifndef LLM_TOOLS_LOAD_PROC_H
#define LLM_TOOLS_LOAD_PROC_H

#include <stdint.h>

struct load_proc {
    int64_t  cpu_ns;          /* on a CPU, from /proc/PID/task/TID/schedstat */
    int64_t  rss_kb;          /* VmRSS: private, shared and file pages */
    int64_t  anon_kb;         /* RssAnon: what is its own */
};

/* ERROR: there is no such process, or /proc does not say. */
int load_proc_read(struct load_proc *out, int64_t pid);

#endif

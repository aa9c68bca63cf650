/* load_proc.c - schedstat counts nanoseconds, stat only hundredths of a second. */
#include "tools/load_proc.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/status.h"

#define PATH_BYTES  128

static int64_t
thread_cpu_ns(int64_t pid, int64_t tid)
{
    char       path[PATH_BYTES];
    long long  ns = 0;
    FILE      *f;

    (void) snprintf(path, sizeof path, "/proc/%lld/task/%lld/schedstat",
                    (long long) pid, (long long) tid);
    f = fopen(path, "r");
    if (f != NULL) {
        if (fscanf(f, "%lld", &ns) != 1) {
            ns = 0;
        }
        (void) fclose(f);
    }
    return ns;
}

static int
read_cpu(struct load_proc *out, int64_t pid)
{
    char            path[PATH_BYTES];
    DIR            *dir;
    struct dirent  *entry;

    (void) snprintf(path, sizeof path, "/proc/%lld/task", (long long) pid);
    dir = opendir(path);
    if (dir == NULL) {
        return ERROR;
    }
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] != '.') {
            out->cpu_ns += thread_cpu_ns(pid, atoll(entry->d_name));
        }
    }
    (void) closedir(dir);
    return OK;
}

int
load_proc_read(struct load_proc *out, int64_t pid)
{
    char   path[PATH_BYTES], line[256];
    FILE  *f;

    *out = (struct load_proc) { 0 };
    (void) snprintf(path, sizeof path, "/proc/%lld/status", (long long) pid);
    f = fopen(path, "r");
    if (f == NULL) {
        return ERROR;
    }
    while (fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "VmRSS:", 6) == 0) {
            out->rss_kb = atoll(line + 6);
        } else if (strncmp(line, "RssAnon:", 8) == 0) {
            out->anon_kb = atoll(line + 8);
        }
    }
    (void) fclose(f);
    return read_cpu(out, pid);
}

/* backend_load.c - dlopen() of the backend that is not linked in. */
#include "engine/backend/backend_load.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef int create_fn(struct backend **out,
                      const struct backend_cuda_options *options,
                      struct err *err);

/* "/path/of/the/program/nginx-llm-cuda.so" */
static int
library_path(char *out, size_t bytes, struct err *err)
{
    char     self[PATH_MAX];
    ssize_t  len = readlink("/proc/self/exe", self, sizeof self - 1);
    if (len <= 0) {
        return err_set(err, "CUDA: cannot read /proc/self/exe to look beside "
                       "the program");
    }
    self[len] = '\0';
    char  *slash = strrchr(self, '/');
    int    dir_len = slash == NULL ? 0 : (int) (slash - self);
    int    n = snprintf(out, bytes, "%.*s/%s", dir_len, self,
                        BACKEND_CUDA_LIBRARY);
    if (n < 0 || (size_t) n >= bytes) {
        return err_set(err, "CUDA: the path of %s is longer than %zu bytes",
                       BACKEND_CUDA_LIBRARY, bytes);
    }
    return OK;
}

int
backend_load_cuda(struct backend **out,
                  const struct backend_cuda_options *options, struct err *err)
{
    char        path[PATH_MAX];
    create_fn  *create = NULL;
    *out = NULL;
    if (library_path(path, sizeof path, err) != OK) {
        return ERROR;
    }
    if (access(path, F_OK) != 0) {
        (void) err_set(err, "no CUDA: %s is not there; `make cuda` builds it "
                       "where the CUDA Toolkit is installed", path);
        return AGAIN;
    }
    void  *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        (void) err_set(err, "no CUDA: %s", dlerror());
        return AGAIN;
    }
    void  *symbol = dlsym(library, "backend_cuda_create");
    if (symbol == NULL) {
        return err_set(err, "CUDA: %s has no backend_cuda_create; build it "
                       "again with `make cuda`", path);
    }
    memcpy(&create, &symbol, sizeof create);
    return create(out, options, err);
}

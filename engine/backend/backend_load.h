/* backend_load.h - opens the CUDA backend, if this machine has one.
 *
 * Looks for nginx-llm-cuda.so beside the running program and calls its
 * backend_cuda_create(); the library is never unloaded.  For the options and
 * an example see cuda/backend_cuda.h.
 *
 * OK; AGAIN, with the reason in *err: no library, no driver or no GPU, so
 * `--device auto` goes on with the CPU; ERROR: the GPU or the library is there
 * but does not work. */
#ifndef LLM_BACKEND_BACKEND_LOAD_H
#define LLM_BACKEND_BACKEND_LOAD_H

#include "engine/backend/backend.h"
#include "engine/base/err.h"

#define BACKEND_CUDA_LIBRARY  "nginx-llm-cuda.so"

struct backend_cuda_options;

int backend_load_cuda(struct backend **out,
                      const struct backend_cuda_options *options,
                      struct err *err);

#endif

/* fake_gpu.h - what the files of the fake GPU share.
 *
 *   fake_device.c     life, properties, what every launch must be
 *   fake_memory.c     device and pinned memory
 *   fake_stream.c     the queue, events, graphs
 *   fake_cublas.c     cuBLASLt
 *   fake_launch.c     a step's arrays, embedding, norms, products
 *   fake_sample.c     sampling
 *   fake_attention.c  rope and attention
 *   fake_fused.c      steps in one launch
 *   fake_plan.c       work lists of attention
 *   fake_step.c       a step's arrays, as they should be on the device */
#ifndef LLM_SIM_FAKE_GPU_H
#define LLM_SIM_FAKE_GPU_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stdbool.h>

#include "kernels/kernels.h"
#include "tests/sim/cuda/fake_cuda.h"

#define FAKE_AREAS_MAX  512
#define FAKE_QUEUE      8192      /* jobs; a power of two */
#define FAKE_HOPPER     9

/* Device memory: the host sees `content` only.  Pinned: content is address. */
struct fake_area {
    char   *address, *content;
    size_t  bytes;
};

/* `args` are the job's own copy. */
struct fake_job {
    void   (*run)(void *args);
    void    *args;
    size_t   bytes;
};

struct fake_graph {
    struct fake_job *jobs;
    int              num, max;
};

/* A step as step_begin() was given it: copies. */
struct fake_step {
    struct fake_step *next;
    int               num_tokens, num_seqs, num_logits;
    int32_t          *ids;          /* [num_tokens], INPUT_SAMPLED until the
                                       device has them */
    int32_t          *positions, *slots;               /* [num_tokens] */
    int32_t          *seq_of;       /* [num_tokens] */
    int32_t          *cu_seqlens_q, *context_lens;
    int32_t          *logits_idx;
    int32_t         **blocks;       /* [num_seqs] tables, as long as needed */
    int32_t          *tables;       /* [num_seqs] where the device has them; -1:
                                       not looked at yet */
    unsigned char    *seen;         /* [num_tokens * num_kv_heads] of a launch */
    int64_t           roped, attended;     /* rows, over all layers */
};

struct fake_gpu {
    struct fake_cuda_options   options;
    uint64_t                   rng;
    bool                       failed;       /* the call that was to */
    int                        made[FAKE_CALLS], launched[FAKE_KERNELS];
    int                        live_events, live_streams, live_graphs,
                               live_handles;
    struct fake_area           device[FAKE_AREAS_MAX], pinned[FAKE_AREAS_MAX];
    int                        num_device, num_pinned;
    size_t                     used;
    cudaStream_t               stream;       /* there is one */
    struct fake_job            queue[FAKE_QUEUE];
    uint64_t                   head, tail;   /* run, issued */
    struct fake_graph         *recording;
    bool                       first;        /* of a step: the next launch */
    /* steps */
    struct backend_ops         ops;
    const struct backend_ops  *watched;
    struct kv_cache            kv;
    struct fake_step          *steps, *last; /* begun; the first is running once
                                                `running` */
    bool                       running;
    uint64_t                   num_samples;  /* launched */
    int32_t                   *sampled;      /* ids of the last that has run */
    int                        num_sampled;
    unsigned char             *partial_seen;
    size_t                     partials_max;
};

/* CUDA's functions have no argument that could carry it. */
extern struct fake_gpu  fake;

/* Ends the test. */
_Noreturn void fake_fault(const char *fmt, ...)
    __attribute__((format(printf, 1, 2)));
#define FAKE_CHECK(x)                                                         \
    do { if (!(x)) { fake_fault("%s: %s", __func__, #x); } } while (0)

/* Whether this call is the one that fails. */
bool fake_fails(enum fake_call call);
/* Counts a launch and checks what holds for all. */
void fake_launch(enum fake_kernel kernel, cudaStream_t stream, int pdl);

/* Content of device memory, all of it in one allocation. */
void *fake_at(const void *address, size_t bytes, const char *what);
/* The same of pinned memory. */
void fake_in_pinned(const void *address, size_t bytes, const char *what);
void fake_memory_drop(void);

/* Puts a job, with copies of args and what follows it, on the stream. */
void fake_push(void (*run)(void *args), const void *args, size_t bytes,
               const void *more, size_t more_bytes);
#define FAKE_PUSH(run, args)  fake_push(run, args, sizeof *(args), NULL, 0)
void fake_run_until(uint64_t job);
void fake_queue_drop(void);

/* The running step.  fake_step_run(): the next one is, with ids as unpack has
 * put them together; fake_step_finish(): all of it has been done. */
struct fake_step *fake_step_of(void);
void fake_step_run(const int32_t *ids);
void fake_step_finish(void);
void fake_steps_drop(void);
/* The first rows are the step's, those after them have no slot. */
void fake_check_ids(const int32_t *ids, int num);
void fake_check_slots(const int32_t *slots, int num);
void fake_check_positions(const int32_t *positions, int num);
void fake_check_logits(const int32_t *rows, int num);
/* block_tables has the sequence's table at `table`. */
void fake_check_table(const int32_t *block_tables, int seq, int32_t table);

/* A work list, one (row, kv head) after the other. */
struct fake_work {
    struct decode_item *items;        /* will be sorted */
    int                 num;
    int                 heads;        /* kv heads that items are of */
    int                 tile;         /* keys an item begins at a multiple of */
    bool                all_partial;  /* rows of one part have a place too */
    int                 partial_heads, head_dim;
    const float        *partial_out, *partial_ml;
    const int32_t      *block_tables;
    void              (*row)(const void *data, int row);    /* each row once */
    const void         *data;
};
/* Every row of its own sequence, and all of its keys, once. */
void fake_check_decode(const struct fake_work *w);
struct decode_item *fake_items_of(const struct attention_item *items, int num);
/* Rows of sequences with more than one, once. */
void fake_check_prefill(const struct attention_params *p);

static inline size_t
fake_dtype_bytes(int dtype)
{
    return dtype == KERNEL_F32 ? 4 : dtype == KERNEL_F8_E4M3 ? 1 : 2;
}

struct fake_product {
    const void  *y, *x, *w;
    const float *bias;
    int          dtype, num, n, k, silu_mul, y_f32;
};
void fake_check_product(const struct fake_product *p);

static inline bool
fake_is_hopper(void)
{
    return fake.options.major == FAKE_HOPPER;
}

#endif

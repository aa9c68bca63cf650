/* step.cu - a step's arrays from pinned host memory to their places. */
#include "kernels/common.cuh"

#define THREADS     256
#define BLOCKS_MAX  128

/* Read over the bus, 16 bytes a thread, all segments at once: a read there and
 * back takes some microseconds, so there is one, and it is under way before the
 * kernel before this one, most often the one that samples, has ended.  They lie
 * one after the other at src. */
static __global__ void
unpack_kernel(struct unpack_params p, int words)
{
    const int4  *src = reinterpret_cast<const int4 *>(p.src);
    int          i = blockIdx.x * THREADS + threadIdx.x;
    int4         v = i < words ? __ldcv(src + i) : make_int4(0, 0, 0, 0);
    pdl_wait();
    while (i < words) {
        int  s = 0, at = i;
        while (at >= p.segments[s].words) {
            at -= p.segments[s++].words;
        }
        if (s == 0) {                      /* ids: INPUT_SAMPLED(k) */
            v.x = v.x < 0 ? p.sampled[-1 - v.x] : v.x;
            v.y = v.y < 0 ? p.sampled[-1 - v.y] : v.y;
            v.z = v.z < 0 ? p.sampled[-1 - v.z] : v.z;
            v.w = v.w < 0 ? p.sampled[-1 - v.w] : v.w;
        }
        reinterpret_cast<int4 *>(p.dst + p.segments[s].dst)[at] = v;
        i += gridDim.x * THREADS;
        if (i < words) {
            v = __ldcv(src + i);
        }
    }
}

cudaError_t
unpack_launch(const struct unpack_params *p, cudaStream_t stream)
{
    int  words = 0;
    for (int s = 0; s < p->num_segments; s++) {
        words += p->segments[s].words;
    }
    int  blocks = min(max((words + THREADS - 1) / THREADS, 1), BLOCKS_MAX);
    return launch_kernel(unpack_kernel, static_cast<unsigned int>(blocks),
                         THREADS, 0, stream, p->pdl, *p, words);
}

/* step.cu - a step's arrays from pinned host memory to their places. */
#include "kernels/common.cuh"

#define THREADS     256
#define BLOCKS_MAX  128

/* Read over the bus, 16 bytes a thread, by enough threads to fill it. */
static __global__ void
unpack_kernel(struct unpack_params p)
{
    int  first = blockIdx.x * THREADS + threadIdx.x;
    int  step = gridDim.x * THREADS;
    for (int s = 0; s < p.num_segments; s++) {
        const struct unpack_segment  seg = p.segments[s];
        const int4  *src = reinterpret_cast<const int4 *>(p.src + seg.src);
        int4        *dst = reinterpret_cast<int4 *>(p.dst + seg.dst);
        for (int i = first; i < seg.words; i += step) {
            int4  v = __ldcv(src + i);
            if (s == 0) {                  /* ids: INPUT_SAMPLED(k) */
                v.x = v.x < 0 ? p.sampled[-1 - v.x] : v.x;
                v.y = v.y < 0 ? p.sampled[-1 - v.y] : v.y;
                v.z = v.z < 0 ? p.sampled[-1 - v.z] : v.z;
                v.w = v.w < 0 ? p.sampled[-1 - v.w] : v.w;
            }
            dst[i] = v;
        }
    }
}

cudaError_t
unpack_launch(const struct unpack_params *p, cudaStream_t stream)
{
    int  words = 0;
    for (int s = 0; s < p->num_segments; s++) {
        words = max(words, p->segments[s].words);
    }
    int  blocks = min(max((words + THREADS - 1) / THREADS, 1), BLOCKS_MAX);
    return launch_kernel(unpack_kernel, static_cast<unsigned int>(blocks),
                         THREADS, 0, stream, 0, *p);
}

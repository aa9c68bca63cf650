/* fused_linear.cuh - products of the fused step, see decode_fused.cu.
 *
 * A tile is 16 rows of weights (32 with two pieces; silu_mul: 8 of gate and
 * their 8 of up) and all of k.  Weights are the left operand of mma.sync
 * m16n8k16, the rows of x its 8 columns; two groups of warps take stages in
 * turns, a warp 128 k of one.  As in gemv.cu a lane's 16 bytes serve two
 * products, with the order of k permuted in both operands alike.  The warps'
 * sums meet once a tile.
 *
 * With a norm, x is normed once into shared memory.  Without, every lane brings
 * its own operands of x some stages ahead into places that only it reads. */
#ifndef LLM_KERNELS_FUSED_LINEAR_CUH
#define LLM_KERNELS_FUSED_LINEAR_CUH

#include "kernels/fused_stream.cuh"

#if SM90_CODE

/* ---- x ---- */

/* Row of x for row m of y. */
static __device__ __forceinline__ int
x_row(const struct fused_params &p, const struct fused_op &op, int m)
{
    return op.gather ? __ldg(&p.logits_idx[m]) : m;
}

/* Element of a row where pass i of this thread begins. */
static __device__ __forceinline__ int
pass_at(int i)
{
    return (i * FUSED_CONSUMERS + static_cast<int>(threadIdx.x)) * 8;
}

/* Sums over the warp of eight values a lane; lane i gets that of value i / 4. */
static __device__ __forceinline__ float
warp_sum_8(const float (&v)[8])
{
    int    lane = threadIdx.x % WARP;
    float  a[4], b[2], c;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float  send = lane & 16 ? v[i] : v[i + 4];
        a[i] = (lane & 16 ? v[i + 4] : v[i])
               + __shfl_xor_sync(0xffffffffu, send, 16);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float  send = lane & 8 ? a[i] : a[i + 2];
        b[i] = (lane & 8 ? a[i + 2] : a[i])
               + __shfl_xor_sync(0xffffffffu, send, 8);
    }
    c = (lane & 4 ? b[1] : b[0])
        + __shfl_xor_sync(0xffffffffu, lane & 4 ? b[0] : b[1], 4);
    c += __shfl_xor_sync(0xffffffffu, c, 2);
    return c + __shfl_xor_sync(0xffffffffu, c, 1);
}

/* Row m of x, this thread's elements; zeros past the end. */
template <typename T, int PASSES> static __device__ __forceinline__ void
row_load(const struct fused_params &p, const struct fused_op &op, int m, int k,
         uint4 (&x)[PASSES])
{
    const T  *from = static_cast<const T *>(op.x)
                     + static_cast<size_t>(x_row(p, op, m)) * k;
#pragma unroll
    for (int i = 0; i < PASSES; i++) {
        x[i] = pass_at(i) < k ? load_16(from + pass_at(i))
                              : make_uint4(0, 0, 0, 0);
    }
}

template <typename T, int PASSES> static __device__ __forceinline__ float
square_sum(const uint4 (&x)[PASSES])
{
    float  sum = 0.0f;
#pragma unroll
    for (int i = 0; i < PASSES; i++) {
        T  e[8];
        memcpy(e, &x[i], sizeof e);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            sum += to_float(e[j]) * to_float(e[j]);
        }
    }
    return sum;
}

/* Not kept as floats, which take twice the registers. */
static __device__ __forceinline__ void
keep_packed(uint4 &x)
{
    asm volatile("" : "+r"(x.x), "+r"(x.y), "+r"(x.z), "+r"(x.w));
}

template <typename T> static __device__ __forceinline__ uint4
scaled(const uint4 &x, float r, const float (&weight)[8])
{
    T      e[8];
    uint4  v;
    memcpy(e, &x, sizeof e);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        e[j] = from_float<T>(to_float(e[j]) * r * weight[j]);
    }
    memcpy(&v, e, sizeof v);
    return v;
}

/* Sums over the warp to s->sums, each in the same order whatever ROWS. */
template <int ROWS> static __device__ __forceinline__ void
rows_sum(const struct fused_block &b, int first, float (&sum)[ROWS])
{
    if constexpr (ROWS == 8) {
        float  mine = warp_sum_8(sum);
        if (b.lane % 4 == 0) {
            b.s->sums[b.lane / 4][b.warp] = mine;
        }
    } else {
#pragma unroll
        for (int m = 0; m < ROWS; m++) {
            float  all = warp_sum(sum[m]);
            if (b.lane == 0) {
                b.s->sums[first + m][b.warp] = all;
            }
        }
    }
}

/* Rows first .. first + ROWS - 1 of x, normed and rounded, to shared memory. */
template <typename T, int PASSES, int ROWS> static __device__ __forceinline__
void
norm_some(const struct fused_params &p, const struct fused_op &op,
          const struct fused_block &b, int first, int k,
          const float (&weight)[PASSES][8])
{
    float  sum[ROWS], total = 0.0f;
    uint4  x[ROWS][PASSES];
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
        row_load<T, PASSES>(p, op, first + m, k, x[m]);
    }
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
        sum[m] = square_sum<T, PASSES>(x[m]);
    }
    rows_sum<ROWS>(b, first, sum);
    consumers_sync();
    const float  *sums = b.s->sums[first + b.lane % ROWS];
#pragma unroll
    for (int w = 0; w < FUSED_WARPS; w++) {
        total += sums[w];
    }
    float  r = __frsqrt_rn(total / static_cast<float>(k) + op.eps);
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
        float  r_m = ROWS == 1 ? r : __shfl_sync(0xffffffffu, r, m);
        char  *to = b.x + (first + m) * (k * 2 + FUSED_X_PAD);
#pragma unroll
        for (int i = 0; i < PASSES; i++) {
            keep_packed(x[m][i]);
            if (pass_at(i) < k) {
                *reinterpret_cast<uint4 *>(to + pass_at(i) * 2)
                    = scaled<T>(x[m][i], r_m, weight[i]);
            }
        }
    }
}

/* All rows, after the meeting; AT_ONCE of them. */
template <typename T, int PASSES, int ROWS, int AT_ONCE> static __device__
__forceinline__ void
norm_rows(const struct fused_params &p, const struct fused_op &op,
          const struct fused_block &b, unsigned int target)
{
    float  weight[PASSES][8];
    int    k = op.k;
#pragma unroll
    for (int i = 0; i < PASSES; i++) {
        /* never undefined: that would keep registers for the whole program */
        load_8(weight[i], op.norm_weight + (pass_at(i) < k ? pass_at(i) : 0));
    }
    meet_wait(p.barrier, target);
#pragma unroll 1
    for (int m = 0; m < ROWS; m += AT_ONCE) {
        norm_some<T, PASSES, AT_ONCE>(p, op, b, m, k, weight);
    }
    consumers_sync();
}

/* A lane's operands of x, some stages ahead of their use: in a place 4 pieces of
 * 16 bytes, `APART` bytes from one to the next. */
template <int ROWS> struct x_fifo {
    static constexpr int  DEPTH = fifo_depth(ROWS), LANES = 4 * ROWS;
    static constexpr int  APART = LANES * 16, PLACE = 4 * APART;
    const char  *x;         /* the lane's first bytes */
    char        *places;
    int          k;         /* bytes of a row, from x on */
    int          next, tiles;    /* stage of k, tiles to come */
    int          put, get;       /* places */
    bool         mine;           /* the lane has a row */
};

template <int ROWS> static __device__ __forceinline__ void
fifo_bring(struct x_fifo<ROWS> &f, int steps, int group)
{
    using F = struct x_fifo<ROWS>;
    if (f.tiles > 0) {
        const char  *from = f.x + f.next * (FUSED_STAGE_K * 2);
        char        *to = f.places + f.put * F::PLACE;
        int          left = f.k - f.next * (FUSED_STAGE_K * 2);
#pragma unroll
        for (int c = 0; c < FUSED_CHUNKS; c++) {
            if (f.mine && c * FUSED_CHUNK * 2 < left) {
                copy_16(to + 2 * c * F::APART, from + c * FUSED_CHUNK * 2);
                copy_16(to + (2 * c + 1) * F::APART,
                        from + c * FUSED_CHUNK * 2 + 64);
            }
        }
    }
    copy_commit();
    f.put = (f.put + 1) & (F::DEPTH - 1);
    f.next += FUSED_GROUPS;
    if (f.next >= steps) {
        f.next = group;
        f.tiles--;
    }
}

template <typename T, int ROWS> static __device__ __forceinline__
struct x_fifo<ROWS>
fifo_begin(const struct fused_params &p, const struct fused_op &op,
           const struct fused_block &b, int steps, int tiles)
{
    using F = struct x_fifo<ROWS>;
    struct x_fifo<ROWS>  f = {};
    int  group = b.warp / (FUSED_WARPS / FUSED_GROUPS);
    int  begin = b.warp % (FUSED_WARPS / FUSED_GROUPS) * FUSED_CHUNKS
                 * FUSED_CHUNK * 2;
    f.mine = b.lane < F::LANES;
    f.x = static_cast<const char *>(op.x)
          + static_cast<size_t>(x_row(p, op, f.mine ? b.lane / 4 : 0))
            * op.k * 2 + begin + b.lane % 4 * 16;
    f.places = b.x + b.warp * (F::DEPTH * F::PLACE) + b.lane * 16;
    f.k = op.k * 2 - begin;
    f.next = group;
    f.tiles = group < steps ? tiles : 0;
#pragma unroll 1
    for (int i = 0; i < F::DEPTH - 1; i++) {
        fifo_bring<ROWS>(f, steps, group);
    }
    return f;
}

/* ---- tiles ---- */

template <typename T> static __device__ __forceinline__ void
multiply_pieces(float (&sum)[2][4], const uint4 (&low)[2],
                const uint4 (&high)[2], const uint4 (&x)[2])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        unsigned int  a[4] = { low[i].x, high[i].x, low[i].y, high[i].y };
        unsigned int  b[2] = { x[i].x, x[i].y };
        multiply_add(sum[0], a, b, T());
        unsigned int  a2[4] = { low[i].z, high[i].z, low[i].w, high[i].w };
        unsigned int  b2[2] = { x[i].z, x[i].w };
        multiply_add(sum[1], a2, b2, T());
    }
}

/* An output of the tile, or none, for each of the first threads. */
struct output {
    size_t  at;          /* in y */
    int     col, row, m, piece;
    bool    valid;
    float   old;         /* y, to be added to */
};

template <typename T, int ROWS, int PIECES> static __device__ __forceinline__
struct output
output_of(const struct fused_op &op, int tile)
{
    int            shift = op.silu_mul ? 3 : 4;     /* of outputs a piece */
    int            i = static_cast<int>(threadIdx.x) >> shift;
    struct output  o;
    o.row = static_cast<int>(threadIdx.x) & ((1 << shift) - 1);
    o.piece = i / ROWS;
    o.m = i % ROWS;
    o.col = ((tile * PIECES + o.piece) << shift) + o.row;
    o.valid = o.piece < PIECES && o.col < op.n;
    o.at = static_cast<size_t>(o.m) * op.n + o.col;
    o.old = o.valid && op.add ? load_one(static_cast<const T *>(op.y) + o.at)
                              : 0.0f;
    return o;
}

template <typename T, int ROWS, int PIECES> static __device__ __forceinline__
void
output_finish(const struct fused_op &op, const struct fused_block &b,
              const struct output &o)
{
    constexpr int  warp = PIECES * ROWS * FUSED_SUM_PITCH;
    float          a = 0.0f, up = 0.0f;
    if (!o.valid) {
        return;
    }
    const float  *sum = b.sum + (o.piece * ROWS + o.m) * FUSED_SUM_PITCH
                        + o.row;
#pragma unroll
    for (int w = 0; w < FUSED_WARPS; w++) {
        a += sum[w * warp];
    }
    if (op.silu_mul) {
#pragma unroll
        for (int w = 0; w < FUSED_WARPS; w++) {
            up += sum[w * warp + 8];
        }
    }
    if (op.bias != NULL) {
        a += __ldg(&op.bias[o.col]);
        up += op.silu_mul ? __ldg(&op.bias[op.n + o.col]) : 0.0f;
    }
    if (op.y_f32) {
        static_cast<float *>(op.y)[o.at] = a;
        return;
    }
    a = round_to<T>(a);
    if (op.silu_mul) {
        a = a / (1.0f + expf(-a)) * round_to<T>(up);
    } else if (op.add) {
        a += o.old;
    }
    static_cast<T *>(op.y)[o.at] = from_float<T>(a);
}

/* Row of a box that a lane has: two groups of four lanes that read together are
 * four rows apart, so that the swizzle gives them all banks. */
static __device__ __forceinline__ int
box_row(int lane)
{
    return lane / 8 + lane / 4 % 2 * 4;
}

/* Sums of a tile: [piece][chunk][half of a piece of 16 bytes]. */
template <int PIECES> struct tile_sum {
    float  at[PIECES][FUSED_CHUNKS][2][4];
};

template <int ROWS, int PIECES> static __device__ __forceinline__ void
sums_store(const struct fused_block &b, const struct tile_sum<PIECES> &sum)
{
    float  *to = b.sum + b.warp * PIECES * ROWS * FUSED_SUM_PITCH
                 + box_row(b.lane);
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int          m = b.lane % 4 * 2 + i % 2;
            const float  (*at)[2][4] = sum.at[piece];
            if (m < ROWS) {
                to[(piece * ROWS + m) * FUSED_SUM_PITCH + i / 2 * 8]
                    = (at[0][0][i] + at[0][1][i]) + (at[1][0][i] + at[1][1][i]);
            }
        }
    }
}

/* Operands of x for a stage: of the normed rows, at x, or brought. */
struct x_stage {
    uint4  x[FUSED_CHUNKS][2];
};

template <int ROWS> static __device__ __forceinline__ void
x_normed(struct x_stage &to, const char *x, bool mine)
{
#pragma unroll
    for (int c = 0; c < FUSED_CHUNKS; c++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            to.x[c][j] = mine ? *reinterpret_cast<const uint4 *>(
                                    x + c * FUSED_CHUNK * 2 + j * 64)
                              : make_uint4(0, 0, 0, 0);
        }
    }
}

template <int ROWS> static __device__ __forceinline__ void
x_brought(struct x_stage &to, struct x_fifo<ROWS> &f)
{
    using F = struct x_fifo<ROWS>;
    copy_wait<F::DEPTH - 2>();
    const char  *x = f.places + f.get * F::PLACE;
#pragma unroll
    for (int c = 0; c < FUSED_CHUNKS; c++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            to.x[c][j] = f.mine ? *reinterpret_cast<const uint4 *>(
                                      x + (2 * c + j) * F::APART)
                                : make_uint4(0, 0, 0, 0);
        }
    }
    f.get = (f.get + 1) & (F::DEPTH - 1);
}

/* A stage of weights; the lane's pieces are at piece[0] and piece[1] of each
 * 64 k.  left: k from the warp's first on. */
template <typename T> static __device__ __forceinline__ void
stage_multiply(float (&sum)[FUSED_CHUNKS][2][4], const char *stage,
               const int (&piece)[2], const struct x_stage &x, int left,
               uint64_t *empty, bool leads)
{
    uint4  low[FUSED_CHUNKS][2], high[FUSED_CHUNKS][2];
#pragma unroll
    for (int c = 0; c < FUSED_CHUNKS; c++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const char  *at = stage + c * 1024 + piece[j];
            low[c][j] = *reinterpret_cast<const uint4 *>(at);
            high[c][j] = *reinterpret_cast<const uint4 *>(
                at + FUSED_BOX_BYTES);
        }
    }
    __syncwarp();
    if (leads) {
        barrier_arrive(empty);
    }
#pragma unroll
    for (int c = 0; c < FUSED_CHUNKS; c++) {
        if (c * FUSED_CHUNK < left) {
            multiply_pieces<T>(sum[c], low[c], high[c], x.x[c]);
        }
    }
}

/* One after the other; `at` is left where the next op's first stage is. */
template <typename T, int ROWS, bool NORMED> static __device__ __forceinline__
void
linear_tiles(const struct fused_params &p, const struct fused_op &op,
             const struct fused_block &b, struct ring_place &at)
{
    constexpr int  PIECES = pieces_of_rows(ROWS, NORMED);
    const int      k = op.k, num_tiles = op.tiles, num_blocks = p.num_blocks;
    const int      steps = (k + FUSED_STAGE_K - 1) / FUSED_STAGE_K;
    const int      group = b.warp / (FUSED_WARPS / FUSED_GROUPS);
    const int      chunk = b.warp % (FUSED_WARPS / FUSED_GROUPS)
                           * FUSED_CHUNKS;
    const int      t = b.lane % 4, r = box_row(b.lane);
    const int      piece[2] = { chunk * 1024 + r * 128 + (t ^ r) * 16,
                                chunk * 1024 + r * 128 + ((t + 4) ^ r) * 16 };
    const char    *x_at = b.x + b.lane / 4 * (k * 2 + FUSED_X_PAD)
                          + chunk * FUSED_CHUNK * 2 + t * 16;
    int            begin = first_tile(p, op.first);
    bool           mine = b.lane / 4 < ROWS;
    struct x_fifo<ROWS>  f = {};
    if constexpr (!NORMED) {
        f = fifo_begin<T, ROWS>(p, op, b, steps, (num_tiles - begin + num_blocks
                                                  - 1) / num_blocks);
    }
    ring_step(at, group * PIECES, b.stages);
#pragma unroll 1
    for (int tile = begin; tile < num_tiles; tile += num_blocks) {
        struct tile_sum<PIECES>  sum = {};
        struct output            o = output_of<T, ROWS, PIECES>(op, tile);
#pragma unroll 1
        for (int s = group; s < steps; s += FUSED_GROUPS) {
            int             left = k - s * FUSED_STAGE_K - chunk * FUSED_CHUNK;
            struct x_stage  x = {};
            if constexpr (NORMED) {
                x_normed<ROWS>(x, x_at + s * (FUSED_STAGE_K * 2),
                               mine && left > 0);
            } else {
                x_brought<ROWS>(x, f);
                fifo_bring<ROWS>(f, steps, group);
            }
#pragma unroll
            for (int i = 0; i < PIECES; i++) {
                int  slot = at.slot;
                ring_wait(&b.s->full[slot], at.parity);
                /* the last of a tile: to the first of the next */
                ring_step(at, i < PIECES - 1 ? 1
                              : s + FUSED_GROUPS < steps
                                ? (FUSED_GROUPS - 1) * PIECES + 1
                                : (steps + group - s - 1) * PIECES + 1,
                          b.stages);
                stage_multiply<T>(sum.at[i], b.ring + slot * FUSED_STAGE_BYTES,
                                  piece, x, left, &b.s->empty[slot],
                                  b.lane == 0);
            }
        }
        if (group >= steps) {
            ring_step(at, steps * PIECES, b.stages);
        }
        consumers_sync();          /* the last tile's sums have been read */
        sums_store<ROWS, PIECES>(b, sum);
        consumers_sync();
        output_finish<T, ROWS, PIECES>(op, b, o);
    }
    ring_step(at, -group * PIECES, b.stages);
}

template <typename T, int ROWS> static __device__ __forceinline__ void
linear_op(const struct fused_params &p, const struct fused_op &op,
          const struct fused_block &b, struct ring_place &at,
          unsigned int target)
{
    if (first_tile(p, op.first) >= op.tiles) {
        meet_wait(p.barrier, target);     /* who arrives has met before */
        return;
    }
    if (op.norm_weight == NULL) {
        meet_wait(p.barrier, target);
        linear_tiles<T, ROWS, false>(p, op, b, at);
        return;
    }
    if (op.k <= 2 * 8 * FUSED_CONSUMERS) {
        norm_rows<T, 2, ROWS, ROWS>(p, op, b, target);
    } else {
        norm_rows<T, 4, ROWS, ROWS == 8 ? 4 : ROWS>(p, op, b, target);
    }
    linear_tiles<T, ROWS, true>(p, op, b, at);
}

#endif /* SM90_CODE */

#endif

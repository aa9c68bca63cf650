/* cuda_graph.c - steps recorded as CUDA graphs, one a (model, bucket of rows).
 *
 * A step in which every sequence has one row is padded to a bucket, so that a
 * few graphs serve every number of sequences.  All that changes from step to
 * step is in device memory before the graph starts (cuda_step.c); padded rows
 * have no slot, no keys and no logits anybody reads.  The first step of a
 * bucket is issued (kernels are loaded, cuBLASLt's algorithms chosen), the
 * second recorded, later ones replayed.
 *
 * A model whose decode attention exists in several kernels, or whose steps are
 * one launch up to a number of keys, has several graphs a bucket.  When all
 * places are taken, steps are issued. */
#include "engine/backend/cuda/cuda_internal.h"
#include "engine/base/check.h"

#define BUCKET_STEP      64
#define BUCKET_LAST      1024

int
cuda_graph_bucket(int rows)
{
    static const int  small[] = { 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128,
                                  160, 192, 224, 256 };
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) {
        if (rows <= small[i]) {
            return small[i];
        }
    }
    return rows > BUCKET_LAST ? 0 : (rows + BUCKET_STEP - 1) / BUCKET_STEP
                                    * BUCKET_STEP;
}

struct cuda_model *
cuda_model_of(struct cuda_backend *cb, uint64_t model_id)
{
    for (int i = 0; i < CUDA_MODELS_MAX && model_id != 0; i++) {
        struct cuda_model  *m = &cb->models[i];
        if (m->id == model_id) {
            return m;
        }
        if (m->id == 0) {
            *m = (struct cuda_model) { .id = model_id };
            return m;
        }
    }
    return NULL;
}

void
cuda_graphs_drop(struct cuda_backend *cb)
{
    for (int i = 0; i < CUDA_GRAPHS_MAX; i++) {
        if (cb->record[i].state == GRAPH_READY) {
            (void) cudaGraphExecDestroy(cb->record[i].exec);
        }
        cb->record[i] = (struct cuda_graph) { .state = GRAPH_FREE };
    }
    for (int i = 0; i < CUDA_MODELS_MAX; i++) {
        cb->models[i] = (struct cuda_model) { .id = 0 };
    }
}

static struct cuda_graph *
graph_of(struct cuda_backend *cb)
{
    for (int i = 0; i < CUDA_GRAPHS_MAX; i++) {
        struct cuda_graph  *g = &cb->record[i];
        if (g->state == GRAPH_FREE
            || (g->model_id == cb->model->id && g->rows == cb->rows
                && g->shares == (cb->num_shares > 0)
                && g->block_shares == cb->block_shares
                && g->fused == cb->fuse.on))
        {
            return g;
        }
    }
    return NULL;
}

void
cuda_graph_begin(struct cuda_backend *cb)
{
    struct cuda_graph  *g = graph_of(cb);
    if (g == NULL || cb->failed) {
        return;
    }
    switch (g->state) {
    case GRAPH_FREE:
        *g = (struct cuda_graph) {
            .state = GRAPH_WARM, .model_id = cb->model->id, .rows = cb->rows,
            .shares = cb->num_shares > 0, .block_shares = cb->block_shares,
            .fused = cb->fuse.on };
        return;
    case GRAPH_WARM:
        if (cuda_keep(cb, cudaStreamBeginCapture(
                cb->stream, cudaStreamCaptureModeRelaxed), "recording"))
        {
            cb->recording = g;
        }
        return;
    case GRAPH_READY:
        cb->replaying = g;
        return;
    }
}

void
cuda_graph_end(struct cuda_backend *cb)
{
    struct cuda_graph  *g = cb->recording;
    cudaGraph_t         graph = NULL;
    if (g != NULL) {
        cb->recording = NULL;
        if (cuda_keep(cb, cudaStreamEndCapture(cb->stream, &graph),
                      "recording")
            && cuda_keep(cb, cudaGraphInstantiate(&g->exec, graph, 0),
                         "recording"))
        {
            g->state = GRAPH_READY;
            cb->replaying = g;
        }
        if (graph != NULL) {
            (void) cudaGraphDestroy(graph);
        }
    }
    if (cb->replaying != NULL) {
        (void) cuda_keep(cb, cudaGraphLaunch(cb->replaying->exec, cb->stream),
                         "a recorded step");
        cb->replaying = NULL;
    }
}

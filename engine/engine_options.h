/* engine_options.h - every switch of nginx-llm-engine, one field each.
 *
 * Names and meanings are vLLM's where vLLM has the switch.  The table behind
 * it (engine_options.c) is what --help prints. */
#ifndef LLM_ENGINE_OPTIONS_H
#define LLM_ENGINE_OPTIONS_H

#include "engine/base/options.h"

struct engine_cli {
    /* model */
    const char         *model;
    struct option_list  served_model_name;
    const char         *load_format;
    const char         *dtype;
    int64_t             max_model_len;
    bool                skip_tokenizer_init;
    const char         *chat_template;
    const char         *generation_config;
    const char         *special_tokens_in_content;
    /* device and memory */
    const char         *device;
    int64_t             threads;
    double              gpu_memory_utilization;
    const char         *gemm_cache;
    bool                batch_invariant;
    int64_t             kv_cache_memory_bytes;
    int64_t             num_blocks_override;
    int64_t             block_size;
    const char         *kv_cache_dtype;
    /* scheduler */
    int64_t             max_num_seqs;
    int64_t             max_num_batched_tokens;
    int64_t             max_num_mixed_tokens;
    int64_t             max_num_queued_reqs;
    bool                enable_chunked_prefill;
    const char         *async_scheduling;     /* "auto", "true" or "false" */
    int64_t             seed;
    /* server */
    const char         *socket;
    int64_t             api_server_count;
    int64_t             shutdown_timeout_s;
    int64_t             max_body_bytes;
    struct option_list  allow_uid;
    /* watching it */
    const char         *log_level;
    const char         *trace;
    bool                version;
    bool                help;
};

extern const struct option engine_options_table[];

#endif

/* engine_options.c - the table that --help prints. */
#include "engine/engine_options.h"

#define F(field)  offsetof(struct engine_cli, field)

const struct option  engine_options_table[] = {
    { "model", OPTION_STRING, F(model), NULL, "DIR",
      "model directory in Hugging Face form", 0, 0, NULL },
    { "served-model-name", OPTION_LIST, F(served_model_name), NULL, "NAME",
      "name(s) in the API; the first is what answers say; default: the "
      "directory's name", 0, 0, NULL },
    { "load-format", OPTION_CHOICE, F(load_format), "auto", NULL,
      "dummy: random weights of the config's shapes", 0, 0, "auto|dummy" },
    { "dtype", OPTION_CHOICE, F(dtype), "auto", NULL,
      "weights are computed as stored", 0, 0, "auto" },
    { "max-model-len", OPTION_INT, F(max_model_len), "0", "N",
      "prompt + output tokens of one sequence; 0: the model's own limit, "
      "or what the KV cache holds", 0, 1 << 24, NULL },
    { "skip-tokenizer-init", OPTION_BOOL, F(skip_tokenizer_init), "false",
      NULL, "no tokenizer: /v1/completions with token ids only", 0, 0, NULL },
    { "chat-template", OPTION_STRING, F(chat_template), NULL, "FILE",
      "Jinja file that replaces the model's chat template", 0, 0, NULL },
    { "generation-config", OPTION_CHOICE, F(generation_config), "auto", NULL,
      "auto: defaults of generation_config.json; vllm: neutral defaults",
      0, 0, "auto|vllm" },
    { "special-tokens-in-content", OPTION_CHOICE, F(special_tokens_in_content),
      "text", NULL, "what <|im_end|> and its like in a client's text mean",
      0, 0, "text|parse|reject" },
    { "device", OPTION_CHOICE, F(device), "auto", NULL,
      "where the model runs; auto: a GPU when there is one", 0, 0,
      "auto|cuda|cpu" },
    { "threads", OPTION_INT, F(threads), "0", "N",
      "CPU threads of the forward pass; 0: one a core", 0, 256, NULL },
    { "gpu-memory-utilization", OPTION_NUMBER, F(gpu_memory_utilization), "0.9",
      "SHARE", "how full the GPU's memory may get, by everything on it; what "
      "weights and activations leave is the KV cache", 0, 1, NULL },
    { "gemm-cache", OPTION_STRING, F(gemm_cache), NULL, "FILE",
      "keeps what was found to be the fastest matrix products on this GPU from "
      "one start to the next; made when it is not there", 0, 0, NULL },
    { "batch-invariant", OPTION_BOOL, F(batch_invariant), "false", NULL,
      "on a GPU: the same tokens whatever else is in the batch; slower, prompts "
      "most of all",
      0, 0, NULL },
    { "kv-cache-memory-bytes", OPTION_INT, F(kv_cache_memory_bytes), "0",
      "BYTES", "memory of the KV cache; 0: what gpu-memory-utilization leaves, "
      "512M on the CPU", 0, 1e15, NULL },
    { "num-gpu-blocks-override", OPTION_INT, F(num_blocks_override), "0", "N",
      "KV blocks, whatever kv-cache-memory-bytes says; for tests", 0, 1 << 24,
      NULL },
    { "block-size", OPTION_INT, F(block_size), "32", "N",
      "tokens a KV block: 16, 32 or 64", 16, 64, NULL },
    { "kv-cache-dtype", OPTION_CHOICE, F(kv_cache_dtype), "auto", NULL,
      "auto: the model's; fp8: half the memory, with the checkpoint's k_scale "
      "and v_scale", 0, 0, "auto|bfloat16|fp8|fp8_e4m3" },
    { "max-num-seqs", OPTION_INT, F(max_num_seqs), "0", "N",
      "sequences in one step; 0: 512 on a GPU, 128 on the CPU", 0, 4096, NULL },
    { "max-num-batched-tokens", OPTION_INT, F(max_num_batched_tokens), "0",
      "N", "tokens in one step; 0: 2048 on a GPU, 512 on the CPU", 0, 1 << 20,
      NULL },
    { "max-num-mixed-tokens", OPTION_INT, F(max_num_mixed_tokens), "0", "N",
      "tokens in a step of prompts and decodes: fewer, and tokens come more "
      "evenly; 0: half of max-num-batched-tokens; as many as those, or without "
      "chunked prefill: no such bound", 0, 1 << 20, NULL },
    { "max-num-queued-reqs", OPTION_INT, F(max_num_queued_reqs), "1024", "N",
      "sequences that wait; more are answered 503", 1, 1 << 20, NULL },
    { "enable-chunked-prefill", OPTION_BOOL, F(enable_chunked_prefill), "true",
      NULL, "split long prompts over steps", 0, 0, NULL },
    { "async-scheduling", OPTION_CHOICE, F(async_scheduling), "auto", NULL,
      "plan a step while the one before it is computed; auto: where the "
      "device samples", 0, 0, OPTION_AUTO_BOOL },
    { "seed", OPTION_INT, F(seed), "0", "N",
      "seeds the requests that bring no seed; 0: from the system", 0, 1e15,
      NULL },
    { "socket", OPTION_STRING, F(socket), NULL, "PATH",
      "Unix socket to listen on, unless the descriptor is inherited "
      "(LISTEN_FDS)", 0, 0, NULL },
    { "api-server-count", OPTION_INT, F(api_server_count), "2", "N",
      "front-end threads (JSON, templates, tokenizer)", 1, 64, NULL },
    { "shutdown-timeout", OPTION_INT, F(shutdown_timeout_s), "30", "S",
      "seconds running requests get to finish at SIGTERM", 0, 3600, NULL },
    { "max-body-bytes", OPTION_INT, F(max_body_bytes), "33554432", "BYTES",
      "largest request body", 1024, 1 << 30, NULL },
    { "allow-uid", OPTION_LIST, F(allow_uid), NULL, "UID",
      "user ids that may connect, besides root and our own", 0, 0, NULL },
    { "log-level", OPTION_CHOICE, F(log_level), "notice", NULL,
      "what is logged to standard error", 0, 0,
      "alert|error|warn|notice|info|debug" },
    { "trace", OPTION_STRING, F(trace), NULL, "FILE",
      "one JSON line a step", 0, 0, NULL },
    { "version", OPTION_BOOL, F(version), "false", NULL,
      "print the version and exit", 0, 0, NULL },
    { "help", OPTION_BOOL, F(help), "false", NULL, "print this and exit",
      0, 0, NULL },
    { NULL, OPTION_BOOL, 0, NULL, NULL, NULL, 0, 0, NULL }
};

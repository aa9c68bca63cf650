/* forward.h - the transformer, written once in backend ops. */
#ifndef LLM_MODEL_FORWARD_H
#define LLM_MODEL_FORWARD_H

#include "engine/model/model.h"

/* Issues the ops of one step after step_begin() answered STEP_ISSUE.
 * Source: Hugging Face's modeling_llama.py, modeling_qwen2.py,
 * modeling_qwen3.py, modeling_mistral.py; rounding as in backend.h. */
void forward_issue(struct model *m);

#endif
